"""The loop of all background work, written once; every job is a `run_once` (decision D7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from batchyard.engine.clock import Clock
from batchyard.store import leases
from batchyard.store.db import Database

log = structlog.get_logger()

LEASE_S = 15.0
"""How long a server that vanished keeps the others from the background work."""
_LEASE = "loops"


class Lease:
    """Whether the background work is this server's to do: one server among all that share a store holds the lease."""

    def __init__(self, db: Database, clock: Clock, holder: str) -> None:
        self._db, self._clock, self._holder = db, clock, holder
        self.held = False

    async def renew(self) -> None:
        """Take or keep the lease, if it is free."""
        self.held = await self._db.run(leases.acquire, _LEASE, self._holder, self._clock.now(), LEASE_S)

    async def release(self) -> None:
        """Let another server have it."""
        self.held = False
        await self._db.run(leases.release, _LEASE, self._holder)

    def only(self, run_once: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The same work, done only while the lease is held."""

        async def guarded() -> None:
            if self.held:
                await run_once()

        return guarded


async def every(name: str, seconds: float, run_once: Callable[[], Awaitable[None]], wake: asyncio.Event, breath_s: float = 0.0) -> None:
    """Run `run_once` every `seconds`, or sooner when `wake` is set; an error is logged, never fatal.

    `breath_s` is waited between two runs however often it is woken, where a run costs the same for one wake-up as for many.
    """
    while True:
        wake.clear()
        try:
            await run_once()
        except Exception:
            log.exception("background job failed", job=name, next_try_s=seconds)
        if breath_s:
            await asyncio.sleep(breath_s)
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            pass
