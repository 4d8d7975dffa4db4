"""Use cases of jobs: the parts of their addition, patch, update, disable, enable, terminate, delete."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from batchyard.engine import wakes
from batchyard.engine.changes.jobs import change_job
from batchyard.engine.checks import auto_pools as auto_pool_checks
from batchyard.engine.checks import jobs as job_checks
from batchyard.engine.checks.auto_pools import PLAIN, Demand
from batchyard.engine.settling.job_ends import disable_job, end_job, end_when_complete
from batchyard.engine.work import tasks
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.job import AutoPoolSpecification, JobCreateContent, JobPatch, JobUpdate, PoolInformation
from batchyard.model.redact import without_secrets
from batchyard.model.states import JobState
from batchyard.model.words import DisableJobOption, OnAllTasksComplete, OnTaskFailure, PoolLifetimeOption
from batchyard.rules import transitions
from batchyard.rules.transitions import JobHappened
from batchyard.store import jobs as job_rows
from batchyard.store import schedules as schedule_rows
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

USER_TERMINATE = "UserTerminate"
_decoder = msgspec.json.Decoder(JobCreateContent)


def free_id(tx: Tx, job_id: str) -> None:
    """Jobs and job schedules share their ids. Raises JobExists, JobScheduleWithSameIdExists."""
    if job_rows.find(tx, job_id) is not None:
        raise BatchError("JobExists")
    if schedule_rows.find(tx, job_id) is not None:
        raise BatchError("JobScheduleWithSameIdExists")


def has_room(reader: Reader, quota: int | None) -> bool:
    """True while the account may have one more active job or job schedule."""
    return quota is None or job_rows.active(reader, quota) + schedule_rows.open_ones(reader, quota) < quota


def insert(tx: Tx, job: JobCreateContent, now: int, *, auto_pool: str | None = None, schedule_pk: int | None = None) -> JobRow:
    """Add a job that was checked; `auto_pool` is the id of the pool that is made for it."""
    environment, manager = job.common_environment_settings, job.job_manager_task
    pk = job_rows.add(
        tx,
        id=job.id,
        state=JobState.ACTIVE,
        state_time=now,
        created=now,
        modified=now,
        started=now,
        environment=msgspec.json.encode(environment) if environment else None,
        ends_with_manager=manager is not None and bool(manager.kill_job_on_completion),
        preparation_id=job.job_preparation_task.id if job.job_preparation_task else None,
        release_id=job.job_release_task.id if job.job_release_task else None,
        schedule_pk=schedule_pk,
        auto_pool=auto_pool,
        **_columns(job, auto_pool, now),
    )
    tx.log(now, "job", pk, "added", new=JobState.ACTIVE)
    return job_rows.get(tx, pk)


def begin(tx: Tx, row: JobRow, job: JobCreateContent, now: int) -> JobRow:
    """Queue the manager of a new job, or end the job if it wishes so and has none (contract 3.5, 3.9)."""
    if job.job_manager_task is not None:
        tasks.insert_manager(tx, row, job.job_manager_task, now)
        tx.wake(wakes.pool(row.pool_key))
    return end_when_complete(tx, row, now)


def _columns(job: JobCreateContent, auto_pool: str | None, created: int) -> dict[str, object]:
    """What is searched or decided on, out of the client's JSON."""
    constraints, pool_id = job.constraints, auto_pool or job.pool_info.pool_id
    assert constraints is not None
    assert constraints.max_wall_clock_time is not None
    assert pool_id is not None
    wall_clock = times.duration(constraints.max_wall_clock_time)
    return {
        "pool_key": pool_id.lower(),
        "priority": job.priority,
        "max_parallel": job.max_parallel_tasks,
        "max_retries": constraints.max_task_retry_count,
        "deadline": None if wall_clock is None else created + wall_clock,
        "uses_dependencies": bool(job.uses_task_dependencies),
        "ends_when_complete": job.on_all_tasks_complete is OnAllTasksComplete.TERMINATE_JOB,
        "acts_on_failure": job.on_task_failure is OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION,
        "preemptible": bool(job.allow_task_preemption),
        "body": msgspec.json.encode(msgspec.structs.replace(job, pool_info=without_secrets(job.pool_info))),
    }


def patch(tx: Tx, row: JobRow, patch: JobPatch, now: int, demand: Demand = PLAIN) -> JobRow:
    """Change what a PATCH names; a nested object is replaced whole (contract 1.7)."""
    job = _decoder.decode(row.body)
    before = msgspec.structs.replace(job)
    for name in JobPatch.__struct_fields__:
        value = getattr(patch, name)
        if value is not UNSET:
            setattr(job, name, value)
    return _store(tx, row, before, job, now, demand, "patched")


def update(tx: Tx, row: JobRow, update: JobUpdate, now: int, demand: Demand = PLAIN) -> JobRow:
    """Replace what a PUT can: what is absent falls to its default (contract 1.7)."""
    job = _decoder.decode(row.body)
    before = msgspec.structs.replace(job)
    for name in JobUpdate.__struct_fields__:
        if name in JobCreateContent.__struct_fields__:
            setattr(job, name, getattr(update, name))
    return _store(tx, row, before, job, now, demand, "updated")


def _store(tx: Tx, row: JobRow, before: JobCreateContent, job: JobCreateContent, now: int, demand: Demand, happened: str) -> JobRow:
    demand = msgspec.structs.replace(demand, of_schedule=row.schedule_pk is not None)
    job.pool_info = _same_pool(row, before.pool_info, job.pool_info, demand)
    job_checks.check_changeable(job)
    ends = OnAllTasksComplete.TERMINATE_JOB
    if before.on_all_tasks_complete is ends and job.on_all_tasks_complete is not ends:
        raise invalid_property("onAllTasksComplete", job.on_all_tasks_complete, "terminatejob cannot be taken back")
    changed = job_rows.move(tx, row, modified=max(now, row.modified + 1), **_columns(job, row.auto_pool, row.created))
    tx.log(now, "job", row.pk, happened)
    changed = end_when_complete(tx, changed, now)
    tx.wake(wakes.UPKEEP)
    tx.wake(wakes.pool(changed.pool_key))
    return changed


def _same_pool(row: JobRow, old: PoolInformation, new: PoolInformation | None, demand: Demand) -> PoolInformation:
    """Another pool needs a disabled job; naming the same one is no change. Of an auto pool only keepAlive may differ (contract 1.7)."""
    had, has = old.auto_pool_specification, None if new is None else new.auto_pool_specification
    if had is not None and has is not None and new is not None and new.pool_id is None:
        return PoolInformation(auto_pool_specification=_kept_pool(had, has, demand))
    if had is not None or has is not None:
        raise invalid_property("poolInfo", "", "A job keeps the pool that was made for it, and one on another pool gets none")
    if new is None or new.pool_id is None:
        raise invalid_property("poolInfo", "", "A poolId must be given")
    if new.pool_id.lower() != (old.pool_id or "").lower() and row.state != JobState.DISABLED:
        raise BatchError("OperationInvalidForCurrentState")
    return new


def keeps_pool(row: JobRow, wanted: PoolInformation, demand: Demand) -> None:
    """Raises Forbidden where that is not the auto pool that the job has, with the same keepAlive."""
    had, demand = _decoder.decode(row.body).pool_info, msgspec.structs.replace(demand, of_schedule=row.schedule_pk is not None)
    if _same_pool(row, had, wanted, demand) != had:
        raise BatchError("Forbidden", Reason="A task's token does not allow keeping its job's pool alive")


def _kept_pool(had: AutoPoolSpecification, has: AutoPoolSpecification, demand: Demand) -> AutoPoolSpecification:
    """The specification with another keepAlive; what is left out of the new one stays."""
    prefix = had.auto_pool_id_prefix if has.auto_pool_id_prefix is None else has.auto_pool_id_prefix
    sent = msgspec.structs.replace(has, pool=has.pool or had.pool, auto_pool_id_prefix=prefix)
    if auto_pool_checks.changed(sent, had, demand):
        raise invalid_property("autoPoolSpecification", "", "Only keepAlive of it can be changed")
    keep = had.keep_alive if has.keep_alive is None else has.keep_alive
    if keep != had.keep_alive and had.pool_lifetime_option is not PoolLifetimeOption.JOB:
        raise invalid_property("keepAlive", keep, "It can be changed only of a pool that lives as long as the job")
    return msgspec.structs.replace(had, keep_alive=keep)


def disable(tx: Tx, row: JobRow, option: DisableJobOption, now: int) -> JobRow:
    """Stop running a job's tasks; the option says what becomes of those that run. Raises OperationInvalidForCurrentState."""
    if not transitions.JOB.allows(row.state, JobHappened.DISABLE_REQUESTED):
        raise BatchError("OperationInvalidForCurrentState")
    return disable_job(tx, row, option, now, modified=max(now, row.modified + 1))


def enable(tx: Tx, row: JobRow, now: int) -> JobRow:
    """Run a disabled job's tasks again. Raises OperationInvalidForCurrentState."""
    if not transitions.JOB.allows(row.state, JobHappened.ENABLE_REQUESTED):
        raise BatchError("OperationInvalidForCurrentState")
    fresh = change_job(tx, row, JobHappened.ENABLE_REQUESTED, now, disable_option=None, modified=max(now, row.modified + 1))
    tx.wake(wakes.UPKEEP)
    return fresh


def terminate(tx: Tx, row: JobRow, reason: str | None, now: int, *, force: bool = False) -> JobRow:
    """End a job for a reason, `UserTerminate` when none is given; `force` does not wait for release tasks."""
    return end_job(tx, row, reason or USER_TERMINATE, now, modified=max(now, row.modified + 1), forced=force)


def delete(tx: Tx, row: JobRow, now: int, *, force: bool = False) -> None:
    """Mark a job for deletion; upkeep ends its tasks and removes them. Raises JobBeingDeleted."""
    if row.state == JobState.DELETING:
        raise BatchError("JobBeingDeleted")
    # The release task runs only for a job that was still open, never a second time (contract 3.6).
    released = row.state == JobState.COMPLETED
    forced = int(force or released or bool(row.forced))
    change_job(tx, row, JobHappened.DELETE_REQUESTED, now, deadline=None, forced=forced)
    tx.wake(wakes.UPKEEP)
