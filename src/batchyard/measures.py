"""How often things happen and how long they take, counted where they happen; `server.metrics` prints it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds up to which durations fall into one class."""


class Durations:
    """How often something took how long; one thread adds."""

    __slots__ = ("_counts", "seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        """Of all together."""

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def include(self, others: Durations) -> None:
        """Count those of others too."""
        self._counts = [own + other for own, other in zip(self._counts, others._counts, strict=True)]
        self.seconds += others.seconds

    @property
    def upto(self) -> list[int]:
        """How many took at most each of BOUNDS, and how many there were."""
        return list(accumulate(self._counts))
