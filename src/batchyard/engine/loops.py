"""The loop of all background work, written once; every job is a `run_once` (decision D7).

What a round writes, and what it leaves running beside it, is written only while nobody took the lease since the round began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from batchyard.engine.clock import Clock
from batchyard.store import leases
from batchyard.store.db import GUARD, Database
from batchyard.store.leases import LeaseLost

log = structlog.get_logger()

LEASE_S = 15.0
"""How long a server that vanished keeps the others from the background work."""
_LEASE = "loops"


class Lease:
    """Whether the background work is this server's to do: one server among all that share a store holds the lease."""

    def __init__(self, db: Database, clock: Clock, holder: str) -> None:
        self._db, self._clock, self._holder = db, clock, holder
        self.held = False
        self._fence = 0

    async def renew(self) -> None:
        """Take or keep the lease, if it is free."""
        fence = await self._db.run(leases.acquire, _LEASE, self._holder, self._clock.now(), LEASE_S, self._fence)
        self.held, self._fence = fence is not None, self._fence if fence is None else fence

    async def release(self) -> None:
        """Let another server have it."""
        self.held = False
        await self._db.run(leases.release, _LEASE, self._holder, self._fence)

    def only(self, run_once: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The same work, done only while the lease is held: each transaction of it looks for itself (decision D20)."""

        async def guarded() -> None:
            if not self.held:
                return
            before = GUARD.set(partial(leases.check, name=_LEASE, fence=self._fence))
            try:
                await run_once()
            except LeaseLost:
                self.held = False
                log.warning("another server does the background work")
            finally:
                GUARD.reset(before)

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
