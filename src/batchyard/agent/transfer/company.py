"""What several attempts bring away at about the same time goes together: one turn of a thread and one request for all.

Who comes while others' is under way waits for its end and goes with all who came meanwhile: under load there is always company, and who
is alone waits for nobody. What is not small and plain goes the long way, which `Upload` knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

from batchyard.agent.transfer import small
from batchyard.agent.transfer.small import Small

_MOST = 32
"""Attempts that go together."""
_PATIENCE_S = 0.5
"""How long others' uploads are waited for; a slow storage must not hold up all."""


class Quick(Protocol):
    """The output of an attempt, if it is small. Both are called in a thread and raise nothing."""

    def gathered(self) -> Sequence[Small] | None:
        """All that there is to bring away; None when that is more, or needs a closer look."""

    def settled(self) -> bool:
        """All of it is there; whether it still counts."""


class Company:
    """Those of one node."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._queue: deque[tuple[Quick, asyncio.Future[bool]]] = deque()
        self._under_way = 0

    async def brought(self, quick: Quick) -> bool:
        """Bring an attempt's output away; False when it has to go the long way, wherever some of it is by now."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        self._queue.append((quick, done))
        if not self._under_way:
            self._go()
        overdue = loop.call_later(_PATIENCE_S, self._overdue, done)
        try:
            return await done
        finally:
            overdue.cancel()

    def _overdue(self, done: asyncio.Future[bool]) -> None:
        if any(waiting is done for _, waiting in self._queue):
            self._go()

    def _go(self) -> None:
        """Take along who waits and was not given up."""
        going: list[tuple[Quick, asyncio.Future[bool]]] = []
        while self._queue and len(going) < _MOST:
            quick, done = self._queue.popleft()
            if not done.done():
                going.append((quick, done))
        if not going:
            return
        self._under_way += 1
        turn = asyncio.get_running_loop().run_in_executor(self._threads, _bring, [quick for quick, _ in going])

        def over(turn: asyncio.Future[list[bool]]) -> None:
            self._under_way -= 1
            found = [False] * len(going) if turn.cancelled() or turn.exception() else turn.result()
            for (_, done), there in zip(going, found, strict=True):
                if not done.done():
                    done.set_result(there)
            if self._queue:
                self._go()

        turn.add_done_callback(over)


def _bring(quicks: Sequence[Quick]) -> list[bool]:
    gathered = [quick.gathered() for quick in quicks]
    there = small.put([one for each in gathered for one in each or ()])
    found, at = [], 0
    for quick, each in zip(quicks, gathered, strict=True):
        count = len(each or ())
        found.append(each is not None and all(there[at : at + count]) and quick.settled())
        at += count
    return found
