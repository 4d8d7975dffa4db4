"""The autoscale loop: takes samples, evaluates the formulas that are due, and starts the resizes that follow.

A formula runs on a snapshot, off the writer, so none can hold up the others; its decision counts only if nobody changed the
pool meanwhile. Pools without autoscale cost nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Set

import msgspec
import structlog

from batchyard.engine import wakes
from batchyard.engine.autoscale import settings
from batchyard.engine.clock import Clock
from batchyard.engine.pools import autoscale_runs as runs
from batchyard.model.states import AllocationState, PoolState
from batchyard.store import autoscale as rows
from batchyard.store import pools as pool_rows
from batchyard.store.db import Database
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

log = structlog.get_logger()

DEBOUNCE_US = 5 * 1_000_000
"""An early evaluation comes no sooner than this after the one before."""
_LISTENS_EVERY_US = 1_000_000
INTERVAL, DEMAND = "interval", "demand"


class Due(msgspec.Struct):
    """What has to be done for a pool."""

    pool: PoolView
    cause: str | None
    """Why its formula has to be evaluated; None: only a sample has to be taken."""


class Autoscale:
    """The autoscale loop's work.

    With `on_demand` a change of pending work brings an evaluation forward; `follow` is told whose wake-ups are worth a round.
    """

    def __init__(self, db: Database, clock: Clock, *, on_demand: bool = False, follow: Callable[[Set[str]], None] | None = None) -> None:
        self._db, self._clock, self._on_demand, self._follow = db, clock, on_demand, follow
        self._listened = 0

    async def run_once(self) -> None:
        """One round: samples and evaluations of all pools that are due."""
        now = self._clock.now()
        for due in await self._db.read(look, now, on_demand=self._on_demand):
            try:
                await self._act(due, now)
            except Exception:
                log.exception("autoscale failed", pool=due.pool.id)
        if self._on_demand and self._follow is not None and not 0 <= now - self._listened < _LISTENS_EVERY_US:
            self._listened = now  # however many tasks come and go, they bring no more than one round forward per second
            self._follow(await self._db.read(listening, now))

    async def _act(self, due: Due, now: int) -> None:
        pool, formula = due.pool, due.pool.autoscale_formula
        if due.cause is None or formula is None:
            sample = await self._db.read(rows.present, pool, runs.slot(now))
            await self._db.run(runs.put_sample, pool.pk, sample)
            return
        found = await self._db.read(runs.evaluate, pool, formula, now)
        await self._db.run(conclude, pool, found, due.cause, now)


def look(reader: Reader, now: int, *, on_demand: bool) -> list[Due]:
    """Pools for which there is something to do."""
    found: list[Due] = []
    for pool in pool_rows.scaled(reader):
        if pool.state != PoolState.ACTIVE:
            continue
        cause = _cause(reader, pool, now, on_demand)
        if cause is not None or not rows.sampled(reader, pool.pk, runs.slot(now)):
            found.append(Due(pool, cause))
    return found


def _cause(reader: Reader, pool: PoolView, now: int, on_demand: bool) -> str | None:
    """Why the formula has to be evaluated now; None when it need not or may not."""
    if pool.allocation_state != AllocationState.STEADY or pool.autoscale_next is None:
        return None
    if now >= pool.autoscale_next:
        return INTERVAL
    if on_demand and _rested(pool, now) and rows.pending(reader, pool) != pool.autoscale_pending:
        return DEMAND
    return None


def _rested(pool: PoolView, now: int) -> bool:
    """True when the last evaluation is long enough ago for an early one."""
    return now >= (pool.autoscale_next or 0) - (pool.autoscale_interval or 0) + DEBOUNCE_US


def listening(reader: Reader, now: int) -> set[str]:
    """Topics of the pools that a change of pending work would have evaluated at once."""
    return {
        topic
        for pool in pool_rows.scaled(reader)
        for topic in (wakes.pool(pool.id.lower()), wakes.demand(pool.id.lower()))
        if pool.state == PoolState.ACTIVE and pool.allocation_state == AllocationState.STEADY and _rested(pool, now)
    }


def conclude(tx: Tx, seen: PoolView, found: runs.Evaluation, cause: str, now: int) -> None:
    """Write down what a formula decided and do it, unless the pool is no longer the one that it decided on."""
    pool = pool_rows.get(tx, seen.pk)
    if pool is None or pool.version != seen.version or pool.autoscale_interval is None:
        return
    kept = runs.keep(tx, pool, found, cause, autoscale_next=now + pool.autoscale_interval)
    settings.follow(tx, kept, found, now)
