"""The one source of time (decision D8)."""

from __future__ import annotations

import time


class Clock:
    """Time in microseconds since 1970, UTC."""

    ahead = 0
    """Microseconds by which it was moved: time that nobody lived through."""

    def now(self) -> int:
        """The present."""
        return time.time_ns() // 1000


class MovableClock(Clock):
    """A clock that tests move forward; it runs on from where it was put."""

    def now(self) -> int:
        """The present, as far ahead as it was moved."""
        return super().now() + self.ahead

    def advance(self, us: int) -> None:
        """Move forward by microseconds."""
        if us < 0:
            raise ValueError("a clock only moves forward")
        self.ahead += us
