"""How the threads that work for an attempt learn that it was killed, and how they wait out passing failures."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from batchyard.agent.transfer import storage
from batchyard.agent.transfer.storage import Unreachable

_T = TypeVar("_T")


class Cancelled(Exception):
    """The attempt was killed meanwhile."""


class Stop:
    """Set once and for all. What stands within `going` is over when `set` returns, or never happens.

    So nobody has to wait for a thread that hangs in a transfer: it cannot change the task's directory any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._woken: threading.Event | None = None
        """What threads wait for, once one does."""
        self._parts: list[Stop] = []

    def part(self) -> Stop:
        """A stop of something within: it can be set alone, and is set with the whole."""
        one = Stop()
        with self._lock:
            self._parts.append(one)
            if self._set:
                one.set()
        return one

    def set(self) -> None:
        """Stop; may be repeated."""
        with self._lock:
            self._set = True
            if self._woken is not None:
                self._woken.set()
            for part in self._parts:
                part.set()

    def is_set(self) -> bool:
        """True once stopped."""
        return self._set

    def check(self) -> None:
        """Raises Cancelled once stopped."""
        if self._set:
            raise Cancelled

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """Hold a stop off for a short while. Raises Cancelled once stopped."""
        with self._lock:
            self.check()
            yield

    def patiently(self, call: Callable[[], _T], reached: Callable[[], int] = int) -> _T:
        """Call, again after failures that may pass: a server that is started anew is no reason to fail. Raises Unreachable or Cancelled.

        Who gets on is not given up: tries count from where `reached`, in bytes, was last found to be further.
        """
        tries, furthest = 0, 0
        while True:
            self.check()
            try:
                return call()
            except Unreachable as error:
                if not error.passing:
                    raise
                if reached() >= furthest + storage.CHUNK:
                    tries, furthest = 0, reached()
                tries += 1
                if tries > len(storage.PAUSES_S) or (error.timed_out and tries >= storage.SLOW_TRIES):
                    raise
            self._wait(storage.PAUSES_S[tries - 1])

    def _wait(self, seconds: float) -> None:
        with self._lock:
            self.check()
            woken = self._woken = self._woken or threading.Event()
        woken.wait(seconds)
