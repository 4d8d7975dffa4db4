"""How jobs end: on request, when their tasks are complete, when their wall clock is spent."""

from __future__ import annotations

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.jobs import change_job
from batchyard.engine.changes.pools import change_pool
from batchyard.model.job import AutoPoolSpecification, JobSchedulingError
from batchyard.model.states import PoolState
from batchyard.model.words import DisableJobOption, PoolLifetimeOption
from batchyard.rules import transitions
from batchyard.rules.transitions import JobHappened, PoolHappened
from batchyard.store import jobs as job_rows
from batchyard.store import pools as pool_rows
from batchyard.store import schedules as schedule_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx


class _PoolInfo(msgspec.Struct, rename="camel"):
    auto_pool_specification: AutoPoolSpecification | None = None


class _PoolOf(msgspec.Struct, rename="camel"):
    pool_info: _PoolInfo


_pool_of = msgspec.json.Decoder(_PoolOf)


def disable_job(tx: Tx, job: JobRow, option: DisableJobOption, now: int, modified: int | None = None) -> JobRow:
    """Begin to disable a job: upkeep deals with what runs as the option says and then it is disabled (contract 2.3)."""
    job = change_job(
        tx,
        job,
        JobHappened.DISABLE_REQUESTED,
        now,
        cause=option,
        disable_option=option,
        modified=job.modified if modified is None else modified,
    )
    tx.wake(wakes.UPKEEP)
    return job


def end_job(tx: Tx, job: JobRow, reason: str, now: int, modified: int | None = None, *, forced: bool = False) -> JobRow:
    """Begin to end a job: upkeep ends what runs and then completes it; waiting tasks stay active for ever (contract 2.3)."""
    job = change_job(
        tx,
        job,
        JobHappened.TERMINATE_REQUESTED,
        now,
        cause=reason,
        terminate_reason=reason,
        deadline=None,
        forced=int(forced),
        modified=job.modified if modified is None else modified,
    )
    tx.wake(wakes.UPKEEP)
    return job


def complete_job(tx: Tx, job: JobRow, now: int) -> JobRow:
    """The last of an ending job is done with."""
    job = change_job(tx, job, JobHappened.ENDED, now, ended=now)
    ended(tx, job, now)
    return job


def refuse_pool(tx: Tx, job: JobRow, error: JobSchedulingError, now: int) -> JobRow:
    """A new job ends at once, because no pool could be made for it (contract 2.3)."""
    noted = msgspec.json.encode(error)
    return change_job(tx, job, JobHappened.AUTO_POOL_FAILED, now, cause=error.code, ended=now, deadline=None, scheduling_error=noted)


def ended(tx: Tx, job: JobRow, now: int) -> None:
    """A job is completed or removed: its own pool goes unless it is kept alive, and its schedule may go on (contract 3.11, 3.12)."""
    if job.auto_pool is not None:
        spec = _pool_of.decode(job.body).pool_info.auto_pool_specification
        if spec is not None and spec.pool_lifetime_option is PoolLifetimeOption.JOB and not spec.keep_alive:
            let_pool_go(tx, job.auto_pool, now)
    if job.schedule_pk is not None:
        schedule_rows.stir(tx, job.schedule_pk, now)
        tx.wake(wakes.SCHEDULES)


def let_pool_go(tx: Tx, pool_id: str, now: int) -> None:
    """Mark a pool that was made for somebody for deletion, if it is there."""
    pool = pool_rows.find(tx, pool_id)
    if pool is not None and pool.state == PoolState.ACTIVE:
        change_pool(tx, pool, PoolHappened.DELETE_REQUESTED, now)
        tx.wake(wakes.CAPACITY)


def end_when_complete(tx: Tx, job: JobRow, now: int) -> JobRow:
    """End a job that wishes so and has no task left to run; a job without tasks counts as complete (contract 3.9)."""
    if not job.ends_when_complete or not transitions.JOB.allows(job.state, JobHappened.TERMINATE_REQUESTED):
        return job
    tx.write()
    counts = job_rows.counts(tx, job.pk)
    return job if counts.active or counts.running else end_job(tx, job, "AllTasksComplete", now)
