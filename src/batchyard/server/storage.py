"""A storage account that is open: its blobs and queues, the ways in, and the background work on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from batchyard.blobs.edge.fetches import Fetches
from batchyard.blobs.edge.foreign import Foreign
from batchyard.blobs.edge.server import application as storage_endpoint
from batchyard.blobs.queues.edge import application as queue_endpoint
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.disk import space
from batchyard.engine.clock import Clock
from batchyard.engine.loops import Loops
from batchyard.model import times
from batchyard.server.loops import UNCOMMITTED_KEPT_US, copies, of_storage


class Around(NamedTuple):
    """What all storage accounts of a server share."""

    clock: Clock
    foreign: Foreign
    """Reads the sources of copies from elsewhere."""
    public: bool
    """Containers may be opened to readers without a key."""


class StorageAccount:
    """One storage account; `shared`: other servers may have it open too."""

    def __init__(
        self,
        around: Around,
        name: str,
        keys: Sequence[str],
        parts: tuple[LocalBlobStore, QueueStore],
        room: space.Room,
        loops: Loops,
        *,
        shared: bool,
    ) -> None:
        self.name, self.keys = name, [*keys]
        self.store, self._queues = parts
        self._clock, self._shared = around.clock, shared
        accounts = {name: self.keys}
        self._fetches = Fetches(self.store, around.foreign, self._moment, room.for_content)
        blobs = storage_endpoint(self.store, accounts, self._moment, room.for_content, public=around.public, fetches=self._fetches)
        self._using, self._quiet = 0, asyncio.Event()
        self.blobs, self.queues = map(self._counted, (blobs, queue_endpoint(self._queues, accounts, self._moment, room.for_content)))
        self._pulses = loops
        self._loops: list[asyncio.Task[None]] = []

    def _counted(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._using += 1
            try:
                await app(scope, receive, send)
            finally:
                self._using -= 1
                self._quiet.set()

        return counted

    async def quiet(self, seconds: float) -> None:
        """Wait until no request is under way, but not longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._using:
                    self._quiet.clear()
                    await self._quiet.wait()

    def _moment(self) -> datetime:
        return times.moment(self._clock.now())

    async def begin(self) -> None:
        """Begin the loops, and go on with copies from elsewhere."""
        work = of_storage(self._pulses, self.store, self._queues, self._clock)
        if self._shared:
            work.append(copies(self._pulses, self._fetches))
        else:
            await asyncio.to_thread(self._fetches.resume)
        self._loops = [asyncio.create_task(loop) for loop in work]

    async def due(self) -> list[int]:
        """When there is something to do next, if nobody asks; now, while copies are under way."""
        staged, kept = await asyncio.to_thread(self.store.oldest_block), await asyncio.to_thread(self.store.next_expiry)
        now = [self._clock.now()] if self._fetches.busy else []
        return now + [at for at in (None if staged is None else staged + UNCOMMITTED_KEPT_US, kept) if at is not None]

    async def pause(self) -> None:
        """End the loops."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def end(self) -> None:
        """End the loops and close everything."""
        await self.pause()
        for close in (self._fetches.close, self.store.close, self._queues.close):
            await asyncio.to_thread(close)
