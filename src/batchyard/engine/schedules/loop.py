"""The loop of job schedules: whatever is due is served, in units of bounded size, and one that fails holds up no other."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from batchyard.engine.checks.auto_pools import Demand
from batchyard.engine.clock import Clock
from batchyard.engine.schedules.advance import advance
from batchyard.store import schedules as rows
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.leases import LeaseLost
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

log = structlog.get_logger()

SCHEDULES_PER_UNIT = 50
POSTPONED_US = 60_000_000
"""One that failed is tried again after that."""


class Schedules:
    """The work of the loop; `demand` says what the account demands of pools at the moment."""

    def __init__(self, db: Database, clock: Clock, demand: Callable[[], Demand]) -> None:
        self._db, self._clock, self._demand = db, clock, demand

    async def run_once(self) -> None:
        """Serve all that is due; a look into an index while nothing is."""
        while (at := await self._db.read(rows.next_look)) is not None and at <= self._clock.now():
            try:
                await self._db.run(run_due, self._clock.now(), self._demand())
            except (LeaseLost, StoreUnavailable):
                raise
            except Exception:
                await self._one_by_one()

    async def wait_us(self) -> int | None:
        """How long nothing is due; None when nothing will be."""
        at = await self._db.read(rows.next_look)
        return None if at is None else max(0, at - self._clock.now())

    async def _one_by_one(self) -> None:
        """Of several, one cannot be served: the others are, and it is put off."""
        for pk in await self._db.read(_due, self._clock.now()):
            try:
                await self._db.run(run_one, pk, self._clock.now(), self._demand())
            except (LeaseLost, StoreUnavailable):
                raise
            except Exception:
                log.exception("job schedule failed", schedule=pk, next_try_s=POSTPONED_US // 1_000_000)
                await self._db.run(rows.stir, pk, self._clock.now() + POSTPONED_US)


def run_due(tx: Tx, now: int, demand: Demand) -> int:
    """Serve the first that are due; how many."""
    due = rows.due(tx, now, SCHEDULES_PER_UNIT)
    for row in due:
        advance(tx, row, now, demand)
    return len(due)


def run_one(tx: Tx, pk: int, now: int, demand: Demand) -> None:
    """Serve one."""
    row = rows.get(tx, pk)
    if row is not None:
        advance(tx, row, now, demand)


def _due(reader: Reader, now: int) -> list[int]:
    return [row.pk for row in rows.due(reader, now, SCHEDULES_PER_UNIT)]
