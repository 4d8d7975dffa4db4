"""Takes a job schedule to now: makes the job that is due, completes what is over, removes what is deleted (contract 2.5, 3.11).

A due time is served in the transaction in which the schedule goes on to the next one, under the version that was seen: so no run is made
twice and none is lost, whoever tries and whenever the server dies.
"""

from __future__ import annotations

from typing import Any

import msgspec

from batchyard.engine import wakes
from batchyard.engine.auto_pools import auto_pools
from batchyard.engine.changes.schedules import change_schedule
from batchyard.engine.checks import schedules as checks
from batchyard.engine.checks.auto_pools import PLAIN, Demand
from batchyard.engine.settling.job_ends import let_pool_go
from batchyard.engine.work import jobs
from batchyard.model.job import AutoPoolSpecification, JobCreateContent, JobSpecification
from batchyard.model.jobschedule import JobScheduleContent
from batchyard.model.states import JobScheduleState, JobState, PoolState
from batchyard.model.words import PoolLifetimeOption
from batchyard.rules import schedules as rules
from batchyard.rules.schedules import Missed, Step
from batchyard.rules.transitions import JobScheduleHappened
from batchyard.store import jobs as job_rows
from batchyard.store import pools as pool_rows
from batchyard.store import schedules as rows
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader
from batchyard.store.schedules import ScheduleRow
from batchyard.store.tx import Tx

JOBS_PER_STEP = 100
"""Jobs of a deleted schedule that one unit of work marks."""
RETRY_US = 15_000_000
"""While a quota keeps a job from being made, it is tried that often."""
content = msgspec.json.Decoder(JobScheduleContent)


def advance(tx: Tx, row: ScheduleRow, now: int, demand: Demand = PLAIN) -> ScheduleRow | None:
    """Take a schedule as far as it comes now; as it is then, None when it is gone."""
    match row.state:
        case JobScheduleState.ACTIVE | JobScheduleState.DISABLED:
            return _go_on(tx, row, now, msgspec.structs.replace(demand, of_schedule=True, checked=True))
        case JobScheduleState.TERMINATING if not active_job(tx, row):
            return _complete(tx, row, JobScheduleHappened.ENDED, now)
        case JobScheduleState.DELETING:
            return _remove(tx, row, now)
    return rows.move(tx, row, look=None)


def newest_job(reader: Reader, row: ScheduleRow) -> JobRow | None:
    """The newest job, while it is there."""
    return None if row.recent is None else job_rows.find(reader, row.recent)


def active_job(reader: Reader, row: ScheduleRow) -> JobRow | None:
    """The job that has not ended yet; there is never more than one (contract 3.11)."""
    newest = newest_job(reader, row)
    return None if newest is None or newest.state == JobState.COMPLETED else newest


def _go_on(tx: Tx, row: ScheduleRow, now: int, demand: Demand) -> ScheduleRow:
    given = content.decode(row.body)
    timing = checks.check_timing(given)
    busy, enabled = active_job(tx, row) is not None, row.state == JobScheduleState.ACTIVE
    step = rules.step(timing, row.due, now, busy=busy, enabled=enabled)
    if step.missed is not None:
        row = _note_missed(tx, row, step.missed, step.why or Missed.LATE, now)
    if step.over:
        return _complete(tx, row, JobScheduleHappened.EXHAUSTED, now, due=None)
    if step.fire is None:
        return row if (row.due, row.look) == (step.due, step.look) else rows.move(tx, row, due=step.due, look=step.look)
    if not jobs.has_room(tx, demand.offer.quotas.active_jobs):
        if row.missed != step.fire:
            row = _note_missed(tx, row, step.fire, Missed.QUOTA, now)
        waits = [at for at in (now + RETRY_US, timing.end, step.due) if at is not None]
        return rows.move(tx, row, due=step.fire, look=min(waits))
    return _fire(tx, row, given.job_specification, step, now, demand)


def _note_missed(tx: Tx, row: ScheduleRow, due: int, why: Missed, now: int) -> ScheduleRow:
    tx.log(now, "job_schedule", row.pk, "missed", cause=why.name)
    return rows.move(tx, row, missed=due, missed_why=why.name)


def _fire(tx: Tx, row: ScheduleRow, spec: JobSpecification, step: Step, now: int, demand: Demand) -> ScheduleRow:
    """Make the job that is due."""
    assert step.fire is not None
    number = row.jobs + 1
    job = JobCreateContent(id=f"{row.id}:job-{number}", **{name: getattr(spec, name) for name in JobSpecification.__struct_fields__})
    late: dict[str, Any] = {"missed": None, "missed_why": None} if row.missed == step.fire else {}  # a quota held it up
    row = rows.move(tx, row, jobs=number, due=step.due, look=step.look, newest_due=step.fire, **late)
    pool = spec.pool_info.auto_pool_specification
    if row.pool_id is not None and (pool is None or pool.pool_lifetime_option is PoolLifetimeOption.JOB):
        _let_pool_go(tx, row, now)  # its jobs shared one before the schedule was changed
        row = rows.move(tx, row, pool_id=None, pool_stale=0)
    if pool is None:
        made = jobs.begin(tx, jobs.insert(tx, job, now, schedule_pk=row.pk), job, now)
    elif pool.pool_lifetime_option is PoolLifetimeOption.JOB:
        made = auto_pools.with_pool(tx, job, auto_pools.new_id(pool), now, demand, schedule_pk=row.pk)
    elif _has_pool(tx, row):
        made = jobs.begin(tx, jobs.insert(tx, job, now, auto_pool=row.pool_id, schedule_pk=row.pk), job, now)
    else:
        row = _with_new_pool(tx, row, pool, now)
        made = auto_pools.with_pool(tx, job, row.pool_id or "", now, demand, schedule_pk=row.pk)
    tx.log(now, "job_schedule", row.pk, "job added", cause=made.id)
    if made.state == JobState.COMPLETED:  # it never began
        row = rows.move(tx, row, look=now)
        tx.wake(wakes.SCHEDULES)
    return row


def _has_pool(tx: Tx, row: ScheduleRow) -> bool:
    """True when the pool that its jobs share is there, and as it is asked for."""
    pool = None if row.pool_id is None or row.pool_stale else pool_rows.find(tx, row.pool_id)
    return pool is not None and pool.state == PoolState.ACTIVE


def _with_new_pool(tx: Tx, row: ScheduleRow, spec: AutoPoolSpecification, now: int) -> ScheduleRow:
    """The schedule with the id of another pool; no job is on the one that it had."""
    _let_pool_go(tx, row, now)
    return rows.move(tx, row, pool_id=auto_pools.new_id(spec), pool_stale=0)


def _let_pool_go(tx: Tx, row: ScheduleRow, now: int) -> None:
    if row.pool_id is None:
        return
    spec = content.decode(row.body).job_specification.pool_info.auto_pool_specification
    if spec is None or not spec.keep_alive:
        let_pool_go(tx, row.pool_id, now)


def _complete(tx: Tx, row: ScheduleRow, happened: JobScheduleHappened, now: int, **more: Any) -> ScheduleRow:
    _let_pool_go(tx, row, now)
    return change_schedule(tx, row, happened, now, ended=now, look=None, **more)


def _remove(tx: Tx, row: ScheduleRow, now: int) -> ScheduleRow | None:
    """Have all jobs deleted, a bounded number at a time, and the schedule go when they are gone."""
    marked = rows.kept_jobs(tx, row.pk, JOBS_PER_STEP)
    for job in marked:
        jobs.delete(tx, job, now, force=bool(row.forced))
    if not marked and not rows.has_jobs(tx, row.pk):
        _let_pool_go(tx, row, now)
        rows.delete(tx, row.pk)
        tx.log(now, "job_schedule", row.pk, "gone", old=row.state)
        return None
    more = len(marked) == JOBS_PER_STEP
    if more:
        tx.wake(wakes.SCHEDULES)
    return rows.move(tx, row, look=now if more else None)
