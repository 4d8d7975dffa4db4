"""When a busy agent speaks: a report, or a poll that the next report would only supersede, follows the last report after a moment.

The room of an ended attempt stays empty for that moment. That costs nothing where enough others run to keep the node's
cores busy; where fewer do, and behind a pause, nothing waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection

_GATHER_S = 0.005
"""How soon one report follows another on a busy node."""


class Pace:
    """Of one agent; `running` are the attempts that have not ended yet, `cores` the machine's."""

    def __init__(self, running: Collection[str], cores: int) -> None:
        self._running, self._cores = running, cores
        self._reported = -math.inf
        self._urgent = asyncio.Event()

    def report(self) -> None:
        """Ends are told now."""
        self._reported = asyncio.get_running_loop().time()

    async def wait(self) -> None:
        """Return when it is time to speak."""
        loop = asyncio.get_running_loop()
        left = self._reported + _GATHER_S - loop.time()
        if left <= 0 or not self._is_busy():
            return
        self._urgent.clear()
        timer = loop.call_later(left, self._urgent.set)
        try:
            await self._urgent.wait()
        finally:
            timer.cancel()

    def ended(self) -> None:
        """An attempt ended."""
        if not self._is_busy():
            self._urgent.set()

    def _is_busy(self) -> bool:
        return len(self._running) >= self._cores
