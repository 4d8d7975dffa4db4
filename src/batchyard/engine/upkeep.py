"""What time and endings ask for: silent nodes, spent wall clocks, jobs on their way out, old events."""

from __future__ import annotations

import structlog

from batchyard.engine import nodes as node_cases
from batchyard.engine import wakes
from batchyard.engine.clock import Clock
from batchyard.engine.ends import TASK_ENDED_BY_USER, complete
from batchyard.engine.job_ends import change, end_job
from batchyard.engine.tasks import job_directory
from batchyard.model.states import JobState
from batchyard.rules.transitions import JobHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import tasks as task_rows
from batchyard.store.db import Database
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx

log = structlog.get_logger()

TASKS_PER_UNIT = 500
"""Bound on what one unit of work touches, so that a job of a million tasks does not hold up the others."""
EVENTS_KEPT_US = 30 * 86_400_000_000
MAX_WALL_CLOCK = "MaxWallClockTimeExpiry"


class Upkeep:
    """The upkeep loop's work; `node_silence_us` is how long a node may say nothing."""

    def __init__(self, db: Database, clock: Clock, node_silence_us: int) -> None:
        self._db, self._clock, self._node_silence_us = db, clock, node_silence_us
        self._since = clock.now()

    async def run_once(self) -> None:
        """One round of everything."""
        now = self._clock.now()
        await self._silent_nodes(now)
        await self._db.run(end_overdue, now)
        while await self._db.run(advance_jobs, self._clock.now()):
            pass
        while await self._db.run(job_rows.forget_events, now - EVENTS_KEPT_US, TASKS_PER_UNIT) == TASKS_PER_UNIT:
            pass

    async def _silent_nodes(self, now: int) -> None:
        """Time in which the server itself was down does not count as silence."""
        before = now - self._node_silence_us
        if before >= self._since:
            for node_pk in await self._db.read(node_rows.silent, before):
                log.warning("node silent", node=node_pk)
                await self._db.run(node_cases.silent, node_pk, now)


def end_overdue(tx: Tx, now: int) -> None:
    """Begin to end jobs whose wall clock is spent."""
    for job in job_rows.overdue(tx, now, TASKS_PER_UNIT):
        end_job(tx, job, MAX_WALL_CLOCK, now)


def advance_jobs(tx: Tx, now: int) -> bool:
    """Take every ending job a bounded step on; True when some has further to go."""
    return sum(_advance(tx, job, now) for job in job_rows.changing(tx)) > 0


def _advance(tx: Tx, job: JobRow, now: int) -> bool:
    """End what runs, then complete or remove the job."""
    running = task_rows.running_of_job(tx, job.pk, TASKS_PER_UNIT)
    for task in running:
        complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now)
    if running:
        return True
    if job.state == JobState.TERMINATING:
        change(tx, job, JobHappened.ENDED, now, ended=now)
        return False
    return _remove(tx, job, now)


def _remove(tx: Tx, job: JobRow, now: int) -> bool:
    """Remove a deleted job's tasks bit by bit, the job last."""
    keys = task_rows.first_keys(tx, job.pk, TASKS_PER_UNIT)
    if keys:
        nodes = task_rows.nodes_of(tx, job.pk, keys[-1])
        node_rows.add_removals(tx, [{"node_pk": node_pk, "directory": job_directory(job.id)} for node_pk in nodes])
        for node_pk in nodes:
            tx.wake(wakes.node(node_pk))
        task_rows.delete(tx, keys)
        return True
    job_rows.delete(tx, job.pk)
    tx.log(now, "job", job.pk, "gone", old=job.state)
    return False
