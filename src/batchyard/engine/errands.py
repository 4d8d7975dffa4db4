"""Work that takes its time, done beside the loops: never twice at once for one key, later each time that it fails.

Nothing here is state: a restarted server knows nothing of it and begins anew from the rows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import structlog

from batchyard.engine.clock import Clock

log = structlog.get_logger()

FIRST_DELAY_US = 250_000
LONGEST_DELAY_US = 60_000_000

Key = int | str
"""What an errand is about: the key of a node, or a name."""


def delay_us(failures: int) -> int:
    """How long to wait after so many failures in a row: a quarter of a second, doubling up to a minute."""
    return 0 if failures < 1 else min(LONGEST_DELAY_US, FIRST_DELAY_US << min(failures - 1, 20))


class Errands:
    """Errands under way, by what they are about."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, tuple[int, int]] = {}
        """How often in a row, and when the last time was."""
        self._kinds: Counter[str] = Counter()

    def busy(self, key: Key) -> bool:
        """True while an errand for the key is under way."""
        return key in self._running

    def failures(self, key: Key) -> int:
        """How often the key's errands failed in a row."""
        return self._failures.get(key, (0, 0))[0]

    def due(self, key: Key) -> bool:
        """True when nothing is under way for the key, and it failed long enough ago."""
        times, last = self._failures.get(key, (0, 0))
        return key not in self._running and not last <= self._clock.now() < last + delay_us(times)

    def under_way(self, kind: str) -> int:
        """How many errands of a kind are under way."""
        return self._kinds[kind]

    def start(self, kind: str, keys: Sequence[Key], work: Callable[[], Awaitable[None]]) -> None:
        """Do the work in the background; none of the keys may be busy."""
        task = asyncio.get_running_loop().create_task(self._run(kind, work, keys))
        self._kinds[kind] += 1
        self._running.update((key, task) for key in keys)
        task.add_done_callback(lambda _: self._end(kind, keys))

    def _end(self, kind: str, keys: Sequence[Key]) -> None:
        self._kinds[kind] -= 1
        for key in keys:
            del self._running[key]

    async def _run(self, kind: str, work: Callable[[], Awaitable[None]], keys: Sequence[Key]) -> None:
        try:
            await work()
        except Exception as error:
            for key in keys:
                self._failures[key] = self.failures(key) + 1, self._clock.now()
            wait = max(delay_us(self.failures(key)) for key in keys)
            log.exception("provider call failed", call=kind, of=list(keys), reason=str(error), next_try_s=wait / 1e6)
        else:
            for key in keys:
                self._failures.pop(key, None)

    async def settle(self) -> None:
        """Wait until nothing is under way, nor what that started."""
        while self._running:
            await asyncio.wait(set(self._running.values()))

    async def close(self, patience_s: float) -> None:
        """Wait so many seconds for what is under way, then give it up; nothing runs afterwards."""
        if self._running:
            await asyncio.wait(set(self._running.values()), timeout=patience_s)
        left = set(self._running.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
