"""Use cases of jobs: add, patch, terminate, delete."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from batchyard.engine import demands, wakes
from batchyard.engine.job_ends import change, end_job, end_when_complete
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.job import JobConstraints, JobCreateContent, JobPatch, PoolInformation
from batchyard.model.states import JobState
from batchyard.model.words import OnAllTasksComplete, OnTaskFailure
from batchyard.rules.transitions import JobHappened
from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx

PRIORITIES = (-1000, 1000)
USER_TERMINATE = "UserTerminate"
_decoder = msgspec.json.Decoder(JobCreateContent)


def add(tx: Tx, job: JobCreateContent, now: int) -> JobRow:
    """Add a job; its pool need not exist (contract 3.1). Raises JobExists."""
    _check(job)
    if job_rows.find(tx, job.id) is not None:
        raise BatchError("JobExists")
    environment = job.common_environment_settings
    pk = job_rows.add(
        tx, id=job.id, state=JobState.ACTIVE, state_time=now, created=now, modified=now, started=now,
        environment=msgspec.json.encode(environment) if environment else None, **_columns(job, now),
    )  # fmt: skip
    tx.log(now, "job", pk, "added", new=JobState.ACTIVE)
    end_when_complete(tx, pk, now)
    return job_rows.get(tx, pk)


def _columns(job: JobCreateContent, created: int) -> dict[str, object]:
    """What is searched or decided on, out of the client's JSON."""
    constraints = job.constraints
    assert constraints is not None
    assert constraints.max_wall_clock_time is not None
    assert job.pool_info.pool_id is not None
    wall_clock = times.duration(constraints.max_wall_clock_time)
    return {
        "pool_key": job.pool_info.pool_id.lower(),
        "priority": job.priority,
        "max_parallel": job.max_parallel_tasks,
        "max_retries": constraints.max_task_retry_count,
        "deadline": None if wall_clock is None else created + wall_clock,
        "uses_dependencies": bool(job.uses_task_dependencies),
        "ends_when_complete": job.on_all_tasks_complete is OnAllTasksComplete.TERMINATE_JOB,
        "acts_on_failure": job.on_task_failure is OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION,
        "body": msgspec.json.encode(job),
    }


def _check(job: JobCreateContent) -> None:
    """Refuse what the contract refuses (3.1, A.2) and fill the defaults in."""
    demands.an_id("id", job.id)
    demands.a_display_name(job.display_name)
    demands.environment(job.common_environment_settings)
    demands.not_served(
        jobManagerTask=job.job_manager_task,
        jobPreparationTask=job.job_preparation_task,
        jobReleaseTask=job.job_release_task,
        autoPoolSpecification=job.pool_info.auto_pool_specification,
    )
    job.uses_task_dependencies = bool(job.uses_task_dependencies)
    job.on_task_failure = job.on_task_failure or OnTaskFailure.NO_ACTION
    _check_changeable(job)


def _check_changeable(job: JobCreateContent) -> None:
    """The part of the checks and defaults that a PATCH repeats."""
    demands.metadata(job.metadata)
    if job.pool_info.pool_id is None:
        raise invalid_property("poolInfo", "", "Exactly one of poolId and autoPoolSpecification must be given")
    demands.an_id("poolId", job.pool_info.pool_id)
    job.priority = job.priority or 0
    demands.within("priority", job.priority, *PRIORITIES)
    job.max_parallel_tasks = -1 if job.max_parallel_tasks is None else job.max_parallel_tasks
    if job.max_parallel_tasks == 0:
        raise invalid_property("maxParallelTasks", job.max_parallel_tasks, "The value must be -1 or greater than 0")
    demands.within("maxParallelTasks", job.max_parallel_tasks, -1, demands.LARGEST_INTEGER)
    job.allow_task_preemption = bool(job.allow_task_preemption)
    given = job.constraints or JobConstraints()
    retries = given.max_task_retry_count or 0
    demands.a_retry_count(retries)
    wall_clock = demands.canonical("maxWallClockTime", given.max_wall_clock_time, times.INFINITE)
    job.constraints = JobConstraints(max_wall_clock_time=wall_clock, max_task_retry_count=retries)
    job.on_all_tasks_complete = job.on_all_tasks_complete or OnAllTasksComplete.NO_ACTION


def patch(tx: Tx, row: JobRow, patch: JobPatch, now: int) -> JobRow:
    """Change what a PATCH names; a nested object is replaced whole (contract 1.7)."""
    job = _decoder.decode(row.body)
    before = job.on_all_tasks_complete
    for name in JobPatch.__struct_fields__:
        value = getattr(patch, name)
        if value is UNSET:
            continue
        if name == "pool_info":
            _check_pool(row, job.pool_info, value)
        setattr(job, name, value)
    _check_changeable(job)
    if before is OnAllTasksComplete.TERMINATE_JOB and job.on_all_tasks_complete is not before:
        raise invalid_property("onAllTasksComplete", job.on_all_tasks_complete, "terminatejob cannot be taken back")
    job_rows.move(tx, row, modified=max(now, row.modified + 1), **_columns(job, row.created))
    tx.log(now, "job", row.pk, "patched")
    end_when_complete(tx, row.pk, now)
    return job_rows.get(tx, row.pk)


def _check_pool(row: JobRow, old: PoolInformation, new: PoolInformation | None) -> None:
    """Another pool needs a disabled job; naming the same one is no change."""
    if new is None or new.pool_id is None or new.auto_pool_specification is not None:
        raise invalid_property("poolInfo", "", "A poolId must be given")
    if new.pool_id.lower() != (old.pool_id or "").lower() and row.state != JobState.DISABLED:
        raise BatchError("OperationInvalidForCurrentState")


def terminate(tx: Tx, row: JobRow, reason: str | None, now: int) -> JobRow:
    """End a job for a reason, `UserTerminate` when none is given."""
    end_job(tx, row, reason or USER_TERMINATE, now, modified=max(now, row.modified + 1))
    return job_rows.get(tx, row.pk)


def delete(tx: Tx, row: JobRow, now: int) -> None:
    """Mark a job for deletion; upkeep ends its tasks and removes them. Raises JobBeingDeleted."""
    if row.state == JobState.DELETING:
        raise BatchError("JobBeingDeleted")
    change(tx, row, JobHappened.DELETE_REQUESTED, now, deadline=None)
    tx.wake(wakes.UPKEEP)


_CLOSED = {JobState.TERMINATING: "JobBeingTerminated", JobState.COMPLETED: "JobCompleted", JobState.DELETING: "JobBeingDeleted"}


def open_job(tx: Tx, job_id: str) -> JobRow:
    """Job that accepts changes. Raises JobNotFound, JobBeingTerminated, JobCompleted, JobBeingDeleted (contract 2.9)."""
    job = find(tx, job_id)
    if job.state in _CLOSED:
        raise BatchError(_CLOSED[job.state])
    return job


def find(tx: Tx, job_id: str) -> JobRow:
    """Job by id. Raises JobNotFound."""
    row = job_rows.find(tx, job_id)
    if row is None:
        raise BatchError("JobNotFound")
    return row
