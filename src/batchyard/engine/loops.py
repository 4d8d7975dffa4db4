"""The loop of all background work, written once; every job is a `run_once` (decision D7).

What a round writes, and what it leaves running beside it, is written only while nobody took the lease since the round began.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

import structlog

from batchyard.measures import Durations
from batchyard.store import leases
from batchyard.store.db import GUARD, Database, StoreUnavailable
from batchyard.store.leases import LeaseLost
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

log = structlog.get_logger()

LEASE_S = 6.0
"""How long a server that vanished keeps the others from the background work."""
RELEASED = "lease"
"""Topic: the lease is free."""
_LEASE = "loops"
_RETRY_S, _BREATH_S = 0.2, 0.02
"""How long after a lease has run out it is asked for."""
_STUCK_S = 60.0
"""A round that takes longer than this will not end, unless it walks over a whole store."""
_FAILING = 2
"""Rounds that fail in a row are more than bad luck."""


class Lease:
    """Whether the background work is this server's to do: one server among all that share a store holds the lease.

    Its time is the database's (`moment`). A server that is `alone` has a store that nobody else can open.
    """

    def __init__(
        self,
        db: Database,
        holder: str,
        seconds: float = LEASE_S,
        *,
        alone: bool = False,
        moment: Callable[[Reader], int] = Reader.moment,
    ) -> None:
        self._db, self._holder, self._seconds, self._alone, self._moment = db, holder, seconds, alone, moment
        self.held = False
        self._fence = 0
        self._asked = False
        self._waiting: list[asyncio.Event] = []

    def follow(self, event: asyncio.Event) -> None:
        """Set the event whenever the lease has been taken, because nobody may have done the work for a while."""
        self._waiting.append(event)

    async def renew(self) -> float:
        """Take or keep the lease, if it is free; in how many seconds it is to be asked for again."""
        held, asked, self._asked = self.held, self._asked, True
        if not held and asked and (left_us := await self._db.read(self._left)) > 0:  # who only waits writes nothing
            return min(self._seconds / 3, left_us / 1e6 + _BREATH_S)
        fence = await self._db.run(self._acquire)
        self.held, self._fence = fence is not None, self._fence if fence is None else fence
        if self.held and not held:
            for event in self._waiting:
                event.set()
        return self._seconds / 3 if self.held else _BREATH_S

    def _left(self, reader: Reader) -> int:
        """Microseconds until the lease runs out."""
        return leases.until(reader, _LEASE) - self._moment(reader)

    def vacant(self, reader: Reader) -> bool:
        """True when nobody does the work."""
        return self._left(reader) <= 0

    def _acquire(self, tx: Tx) -> int | None:
        now = self._moment(tx)
        if self._alone and not self._fence:  # whoever had it is gone, for the store is open here
            now = max(now, leases.until(tx, _LEASE))
        return leases.acquire(tx, _LEASE, self._holder, now, self._seconds, self._fence)

    async def keep(self, released: asyncio.Event) -> None:
        """Renew it for ever; sooner when it is `released`."""
        failed = False
        while True:
            released.clear()
            pause = _RETRY_S
            try:
                pause, failed = await self.renew(), False
            except Exception as error:
                if not failed:
                    log.warning("lease not renewed", reason=str(error), exc_info=not isinstance(error, StoreUnavailable))
                failed = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await released.wait()

    async def release(self) -> None:
        """Let another server have it, at once; what this one has under way counts until that one takes it."""
        if self.held:
            self.held = False
            await self._db.run(self._release)

    def _release(self, tx: Tx) -> None:
        leases.release(tx, _LEASE, self._holder, self._fence)
        tx.wake(RELEASED)

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


class Pulse:
    """How one loop fares."""

    def __init__(self, name: str, stuck_s: float) -> None:
        self.name, self._stuck_s = name, stuck_s
        self.rounds = Durations()
        self.failures = 0
        self.last = 0.0
        """When a round ended well, in seconds since 1970; 0 before the first."""
        self._failing = 0
        self._begun: float | None = None

    def begins(self) -> None:
        """A round begins."""
        self._begun = time.monotonic()

    def ends(self, *, well: bool) -> None:
        """It ends."""
        assert self._begun is not None
        self.rounds.add(time.monotonic() - self._begun)
        self._begun = None
        self._failing = 0 if well else self._failing + 1
        if well:
            self.last = time.time()
        else:
            self.failures += 1

    @property
    def why_not(self) -> str | None:
        """Why its work is not done, None while it is."""
        if self._begun is not None and (since := time.monotonic() - self._begun) > self._stuck_s:
            return f"the loop {self.name} is stuck for {since:.0f} s"
        return f"the loop {self.name} fails" if self._failing >= _FAILING else None


class Loops:
    """The loops of one owner, and how each fares."""

    def __init__(self) -> None:
        self.pulses: list[Pulse] = []

    @property
    def why_not(self) -> str | None:
        """What is wrong with one of them, None when nothing is."""
        return next((reason for pulse in self.pulses if (reason := pulse.why_not) is not None), None)

    def every(
        self,
        name: str,
        seconds: float,
        run_once: Callable[[], Awaitable[None]],
        wake: asyncio.Event | None = None,
        *,
        breath_s: float = 0.0,
        stuck_s: float = _STUCK_S,
    ) -> Coroutine[None, None, None]:
        """Run `run_once` every `seconds`, or sooner when `wake` is set; an error is logged, never fatal.

        `breath_s` is waited between two runs however often it is woken, where a run costs the same for one wake-up as for many.
        """
        pulse = Pulse(name, stuck_s)

        async def run() -> None:
            self.pulses.append(pulse)
            try:
                await _every(pulse, seconds, run_once, wake or asyncio.Event(), breath_s)
            finally:
                self.pulses.remove(pulse)

        return run()


async def _every(pulse: Pulse, seconds: float, run_once: Callable[[], Awaitable[None]], wake: asyncio.Event, breath_s: float) -> None:
    while True:
        wake.clear()
        pulse.begins()
        try:
            await run_once()
        except Exception:
            log.exception("background job failed", job=pulse.name, next_try_s=seconds)
            pulse.ends(well=False)
        else:
            pulse.ends(well=True)
        if breath_s:
            await asyncio.sleep(breath_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()
