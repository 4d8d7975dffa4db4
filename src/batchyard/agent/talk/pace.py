"""When a busy agent speaks: a report, or a poll that the next report would only supersede, follows the last report after a moment.

The room of an ended attempt stays empty for that moment. That costs nothing where enough others run to keep the node's
cores busy; where fewer do, and behind a pause, nothing waits. Nor does it once as many have ended as still run: these keep
the cores busy while the server fills the room of the others.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Collection

_GATHER_S, _LOADED_S = 0.005, 0.012
"""How soon one report follows another on a busy node, and on a loaded one: there no room that is filled sooner brings a task forward."""
_LOADED_RATE = 200
"""Ends per second for each core that say so: starting and ending that many processes is most of what a core can do."""


class Pace:
    """Of one agent; `running` are the attempts that have not ended yet, `cores` the machine's."""

    def __init__(self, running: Collection[str], cores: int) -> None:
        self._running, self._cores = running, cores
        self._reported = self._next = -math.inf
        self._untold = 0
        """Ends since the last report."""
        self._urgent = asyncio.Event()

    def report(self, ends: int) -> None:
        """So many ends are told now."""
        self._untold = 0
        now = asyncio.get_running_loop().time()
        loaded = ends >= _LOADED_RATE * self._cores * (now - self._reported)
        self._reported, self._next = now, now + (_LOADED_S if loaded else _GATHER_S)

    async def wait(self) -> None:
        """Return when it is time to speak."""
        loop = asyncio.get_running_loop()
        left = self._next - loop.time()
        if left <= 0 or self._is_due():
            return
        self._urgent.clear()
        timer = loop.call_later(left, self._urgent.set)
        try:
            await self._urgent.wait()
        finally:
            timer.cancel()

    def ended(self) -> None:
        """An attempt ended."""
        self._untold += 1
        if self._is_due():
            self._urgent.set()

    def _is_due(self) -> bool:
        return len(self._running) < max(self._cores, self._untold + 1)


class Pause:
    """Waits 0.1 s doubling to `longest_s`, with jitter, between failures."""

    def __init__(self, longest_s: float = 5.0) -> None:
        self._seconds, self._longest_s = 0.1, longest_s

    async def next(self) -> None:
        """Wait, longer than before."""
        await asyncio.sleep(self._seconds * random.uniform(0.5, 1.0))
        self._seconds = min(self._seconds * 2, self._longest_s)

    def over(self) -> None:
        """What failed works again."""
        self._seconds = 0.1
