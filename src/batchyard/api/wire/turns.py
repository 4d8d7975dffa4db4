"""Fair turns between jobs: who adds many tasks at once fills neither the server's loop nor its writer, however many connections.

A bounded amount of such work is under way; what waits is let in line by line in turn, so it delays others by what is under way only.
What waits is held in memory, so it is bounded too: beyond that the client is asked to come again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.model.errors import BatchError

UNDER_WAY = 100
"""Tasks whose addition is under way, all clients together; one request more, as each is let in whole."""
MOST_WAITING = 64 << 20
"""Bytes of bodies that wait, all clients together."""


class Turns:
    """Lines that take turns, each in its own order; all in one event loop."""

    def __init__(self, most: int = UNDER_WAY, most_waiting: int = MOST_WAITING) -> None:
        self._left, self._room = most, most_waiting
        self._lines: dict[str, deque[tuple[asyncio.Future[None], int]]] = {}

    @asynccontextmanager
    async def turn(self, line: str, weight: int, size: int) -> AsyncIterator[None]:
        """Wait until it is the line's turn and there is room for something; `weight` counts as under way inside.

        `size` is that of the body in bytes. Raises ServerBusy when too much waits already.
        """
        if self._lines or self._left <= 0:
            await self._wait(line, weight, size)
        else:
            self._left -= weight
        try:
            yield
        finally:
            self._left += weight
            self._let_in()

    async def _wait(self, line: str, weight: int, size: int) -> None:
        if size > self._room:
            raise BatchError("ServerBusy", Reason="Too many additions of tasks wait for their turn")
        let_in = asyncio.get_running_loop().create_future()
        self._lines.setdefault(line, deque()).append((let_in, weight))
        self._room -= size
        try:
            await let_in
        except asyncio.CancelledError:
            if let_in.done() and not let_in.cancelled():  # it was let in, and is no longer there
                self._left += weight
            self._let_in()
            raise
        finally:
            self._room += size

    def _let_in(self) -> None:
        while self._lines and self._left > 0:
            line = next(iter(self._lines))
            waiting = self._lines.pop(line)
            let_in, weight = waiting.popleft()
            if waiting:
                self._lines[line] = waiting  # behind all others
            if not let_in.done():
                self._left -= weight
                let_in.set_result(None)
