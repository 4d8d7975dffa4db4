"""What job schedules cost: many that wait, and many that are due in the same second.

python bench/schedules.py [SCHEDULES] [DUE]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from batchyard.engine import wakes
from batchyard.engine.checks.auto_pools import PLAIN
from batchyard.engine.clock import MovableClock
from batchyard.engine.loops import every
from batchyard.engine.schedules import schedules
from batchyard.engine.schedules.loop import Schedules
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.model.jobschedule import JobScheduleCreateContent
from batchyard.server.loops import SCHEDULES_PERIOD_S
from batchyard.store.db import Database
from batchyard.store.reader import Reader, Statement

IDLE_S = 10
HOUR_US = 3_600_000_000
JOBS = Statement("SELECT count(*) FROM job", int)


def made(name: str, start: int, interval: str) -> JobScheduleCreateContent:
    """A schedule whose jobs have a job manager."""
    manager = {"id": "main", "commandLine": "true"}
    spec = {"poolInfo": {"poolId": "none"}, "jobManagerTask": manager}
    when = {"doNotRunUntil": times.iso(start), "recurrenceInterval": interval}
    return msgspec.convert({"id": name, "schedule": when, "jobSpecification": spec}, JobScheduleCreateContent)


def add(db: Database, clock: MovableClock, names: list[str], start: int) -> None:
    """Add schedules, many in a commit."""
    waiting: list[Future[Any]] = [db.submit(schedules.add, made(name, start, "PT1H"), clock.now()) for name in names]
    for each in waiting:
        each.result()


def jobs(reader: Reader) -> int:
    """How many there are."""
    return reader.first(JOBS) or 0


async def main(many: int, due: int) -> None:
    """Fill a store, look at what waiting costs, move the clock."""
    hub, clock = Wakes(), MovableClock()
    hub.bind(asyncio.get_running_loop())
    with tempfile.TemporaryDirectory(prefix="batchyard-bench-") as directory:
        db = Database(Path(directory) / "batchyard.db", hub)
        began, now = time.perf_counter(), clock.now()
        await asyncio.to_thread(add, db, clock, [f"waits-{n}" for n in range(many)], now + 1000 * HOUR_US)
        print(f"{many:,} schedules added: {(time.perf_counter() - began) / many * 1000:.2f} ms each")
        work = Schedules(db, clock, lambda: PLAIN)
        loop = asyncio.create_task(every("schedules", SCHEDULES_PERIOD_S, work.run_once, hub.event(wakes.SCHEDULES)))
        await asyncio.sleep(1)
        before = time.process_time()
        await asyncio.sleep(IDLE_S)
        print(f"{many:,} schedules wait: {(time.process_time() - before) / IDLE_S * 100:.3f} % of a core (goal: below 1)")
        await asyncio.to_thread(add, db, clock, [f"due-{n}" for n in range(due)], clock.now() + HOUR_US)
        await asyncio.sleep(1)
        busy, began = time.process_time(), time.perf_counter()
        clock.advance(HOUR_US)
        hub.at_once(wakes.SCHEDULES)
        while await db.read(jobs) < due:
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        print(f"{due:,} due in the same second: all jobs exist after {took:.2f} s, {time.process_time() - busy:.2f} s of a core (goal: 2)")
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        db.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, (sys.argv[1:] + ["10000", "1000"][len(sys.argv) - 1 :])[:2])))
