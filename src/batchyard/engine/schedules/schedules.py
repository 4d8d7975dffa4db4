"""Use cases of job schedules: add, patch, update, disable, enable, terminate, delete (contract 2.5)."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from batchyard.engine import wakes
from batchyard.engine.changes.schedules import change_schedule
from batchyard.engine.checks import auto_pools as auto_pool_checks
from batchyard.engine.checks import schedules as checks
from batchyard.engine.checks.auto_pools import PLAIN, Demand
from batchyard.engine.schedules.advance import active_job, advance, content
from batchyard.engine.settling.job_ends import end_job
from batchyard.engine.work import jobs
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.jobschedule import JobScheduleContent, JobScheduleCreateContent, JobSchedulePatch, JobScheduleUpdate
from batchyard.model.redact import without_secrets
from batchyard.model.states import JobScheduleState
from batchyard.rules import schedules as rules
from batchyard.rules import transitions
from batchyard.rules.schedules import Timing
from batchyard.rules.transitions import JobHappened, JobScheduleHappened
from batchyard.store import jobs as job_rows
from batchyard.store import schedules as rows
from batchyard.store.reader import Reader
from batchyard.store.schedules import ScheduleRow
from batchyard.store.tx import Tx

TERMINATED = "TerminateJobSchedule"
_CLOSED = {
    JobScheduleState.TERMINATING: "JobScheduleBeingTerminated",
    JobScheduleState.COMPLETED: "JobScheduleCompleted",
    JobScheduleState.DELETING: "JobScheduleBeingDeleted",
}


def add(tx: Tx, given: JobScheduleCreateContent, now: int, demand: Demand = PLAIN) -> ScheduleRow:
    """Add a job schedule; a job that is due at once is made at once.

    Raises JobScheduleExists, JobWithSameIdExists, ActiveJobAndScheduleQuotaReached.
    """
    timing = checks.check(given, msgspec.structs.replace(demand, of_schedule=True))
    if timing.end is not None and timing.end <= now:
        raise invalid_property("doNotRunAfter", given.schedule.do_not_run_after, "The time is past, so no job would ever be made")
    if rows.find(tx, given.id) is not None:
        raise BatchError("JobScheduleExists")
    if job_rows.find(tx, given.id) is not None:
        raise BatchError("JobWithSameIdExists")
    if not jobs.has_room(tx, demand.offer.quotas.active_jobs):
        raise BatchError("ActiveJobAndScheduleQuotaReached")
    due = rules.first_due(timing, now)
    state = JobScheduleState.ACTIVE
    pk = rows.add(tx, id=given.id, state=state, state_time=now, created=now, modified=now, due=due, look=now, **_columns(given, timing))
    tx.log(now, "job_schedule", pk, "added", new=state)
    row = rows.get(tx, pk)
    assert row is not None
    return _go_on(tx, row, now, demand)


def _columns(given: JobScheduleContent, timing: Timing) -> dict[str, Any]:
    """What is searched, out of the client's JSON."""
    kept = JobScheduleContent(**{name: getattr(given, name) for name in JobScheduleContent.__struct_fields__})
    return {"starts": timing.until, "stops": timing.end, "body": msgspec.json.encode(without_secrets(kept))}


def _go_on(tx: Tx, row: ScheduleRow, now: int, demand: Demand) -> ScheduleRow:
    """The schedule as far as it comes now; the loop hears of it for what follows."""
    tx.wake(wakes.SCHEDULES)
    return advance(tx, row, now, demand) or row


def find(reader: Reader, schedule_id: str) -> ScheduleRow:
    """Schedule by id. Raises JobScheduleNotFound."""
    row = rows.find(reader, schedule_id)
    if row is None:
        raise BatchError("JobScheduleNotFound")
    return row


def open_schedule(reader: Reader, schedule_id: str) -> ScheduleRow:
    """Schedule that accepts changes. Raises JobScheduleNotFound, JobScheduleCompleted, -BeingTerminated, -BeingDeleted (contract 2.9)."""
    row = find(reader, schedule_id)
    if row.state in _CLOSED:
        raise BatchError(_CLOSED[row.state])
    return row


def patch(tx: Tx, row: ScheduleRow, patch: JobSchedulePatch, now: int, demand: Demand = PLAIN) -> ScheduleRow:
    """Replace each property that a PATCH names, for the jobs that are made from now on."""
    given = content.decode(row.body)
    for name in JobSchedulePatch.__struct_fields__:
        value = getattr(patch, name)
        if value is UNSET:
            continue
        if name == "job_specification" and value is None:
            raise invalid_property("jobSpecification", "", "A job schedule cannot be without it")
        setattr(given, name, value)
    return _store(tx, row, given, now, demand, "patched")


def update(tx: Tx, row: ScheduleRow, update: JobScheduleUpdate, now: int, demand: Demand = PLAIN) -> ScheduleRow:
    """Replace what a PUT can; without a schedule, one job is made at once (contract 1.7)."""
    given = content.decode(row.body)
    given.schedule, given.metadata = update.schedule, update.metadata
    given.job_specification = update.job_specification
    return _store(tx, row, given, now, demand, "updated")


def _store(tx: Tx, row: ScheduleRow, given: JobScheduleContent, now: int, demand: Demand, happened: str) -> ScheduleRow:
    before = content.decode(row.body)
    old, pool = checks.check_timing(before), before.job_specification.pool_info.auto_pool_specification
    demand, sent = msgspec.structs.replace(demand, of_schedule=True), given.job_specification.pool_info.auto_pool_specification
    same = sent is not None and pool is not None and not auto_pool_checks.changed(sent, pool, demand)
    new = checks.check(given, msgspec.structs.replace(demand, checked=same))
    stale = bool(row.pool_stale) or not same
    due = rules.changed_due(old, new, row.due, row.newest_due, now)
    modified = max(now, row.modified + 1)
    fresh = rows.move(tx, row, modified=modified, due=due, look=now, pool_stale=stale, **_columns(given, new))
    tx.log(now, "job_schedule", row.pk, happened)
    return _go_on(tx, fresh, now, demand)


def disable(tx: Tx, row: ScheduleRow, now: int, demand: Demand = PLAIN) -> ScheduleRow:
    """Make no more jobs; the one that is active runs on. Raises JobScheduleDisabled."""
    if row.state == JobScheduleState.DISABLED:
        raise BatchError("JobScheduleDisabled")
    fresh = change_schedule(tx, row, JobScheduleHappened.DISABLED, now, modified=max(now, row.modified + 1), look=now)
    return _go_on(tx, fresh, now, demand)


def enable(tx: Tx, row: ScheduleRow, now: int, demand: Demand = PLAIN) -> ScheduleRow:
    """Make jobs again; due times that passed meanwhile are lost. Raises OperationInvalidForCurrentState."""
    if row.state != JobScheduleState.DISABLED:
        raise BatchError("OperationInvalidForCurrentState")
    row = _go_on(tx, row, now, demand)
    if not transitions.JOB_SCHEDULE.allows(row.state, JobScheduleHappened.ENABLED):
        raise BatchError("JobScheduleCompleted")
    fresh = change_schedule(tx, row, JobScheduleHappened.ENABLED, now, modified=max(now, row.modified + 1), look=now)
    return _go_on(tx, fresh, now, demand)


def terminate(tx: Tx, row: ScheduleRow, now: int, *, force: bool = False) -> ScheduleRow:
    """End the active job and then the schedule; `force` does not wait for release tasks."""
    fresh = change_schedule(
        tx,
        row,
        JobScheduleHappened.TERMINATE_REQUESTED,
        now,
        cause=TERMINATED,
        modified=max(now, row.modified + 1),
        forced=int(force),
        due=None,
        look=now,
    )
    job = active_job(tx, fresh)
    if job is not None and transitions.JOB.allows(job.state, JobHappened.TERMINATE_REQUESTED):
        end_job(tx, job, TERMINATED, now, forced=force)
    return _go_on(tx, fresh, now, PLAIN)


def delete(tx: Tx, row: ScheduleRow, now: int, *, force: bool = False) -> None:
    """Mark a schedule for deletion: its jobs go with their tasks, then it goes itself. Raises JobScheduleBeingDeleted."""
    if row.state == JobScheduleState.DELETING:
        raise BatchError("JobScheduleBeingDeleted")
    fresh = change_schedule(tx, row, JobScheduleHappened.DELETE_REQUESTED, now, forced=int(force or row.forced), due=None, look=now)
    _go_on(tx, fresh, now, PLAIN)
