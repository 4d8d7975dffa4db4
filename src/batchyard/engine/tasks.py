"""Use cases of tasks that clients ask for: add, terminate, delete."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from batchyard.engine import demands, wakes
from batchyard.engine import jobs as job_cases
from batchyard.engine.ends import TASK_ENDED_BY_USER, complete, give_back
from batchyard.model import ids, times
from batchyard.model.common import AutoUserSpecification, UserIdentity
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.states import TaskResult, TaskState
from batchyard.model.task import ExitConditions, TaskConstraints, TaskCreateContent, TaskDependencies
from batchyard.model.words import AutoUserScope, ElevationLevel, JobAction
from batchyard.rules.transitions import TaskHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

RETENTION = "P7D"
DEPENDENCY_CHARACTERS = 64_000
DEPENDENCY_RANGES = 1_000
SPELT_OUT = 100
"""Numbers of a range that are kept one by one; a wider range is kept as one row with a counter."""

DEFAULT_IDENTITY = UserIdentity(auto_user=AutoUserSpecification(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.NON_ADMIN))

Outcome = tuple[str, int | BatchError]
"""Id of a task and the time of its addition, or why it was refused."""


def add(tx: Tx, job_id: str, tasks: Sequence[TaskCreateContent], now: int) -> list[Outcome]:
    """Add tasks to a job, each accepted or refused by itself; outcomes in the order of `tasks`."""
    job = job_cases.open_job(tx, job_id)
    pool = pool_rows.find(tx, job.pool_key)
    outcomes: list[Outcome] = []
    accepted: list[TaskCreateContent] = []
    names: set[str] = set()
    for task in tasks:
        try:
            _check(task, job, None if pool is None else pool.slots_per_node)
            if task.id.lower() in names:
                raise BatchError("TaskExists")
            names.add(task.id.lower())
            accepted.append(task)
            outcomes.append((task.id, now))
        except BatchError as error:
            outcomes.append((task.id, error))
    for name in _insert(tx, job, accepted, now):
        at = next(at for at, (other, outcome) in enumerate(outcomes) if other.lower() == name and outcome == now)
        outcomes[at] = (outcomes[at][0], BatchError("TaskExists"))
    tx.wake(wakes.pool(job.pool_key))
    return outcomes


def _insert(tx: Tx, job: JobRow, tasks: list[TaskCreateContent], now: int) -> set[str]:
    """Insert what is new; id keys that were taken already."""
    tx.mark("tasks")
    try:
        _insert_all(tx, job, tasks, now)
    except sqlite3.IntegrityError:
        tx.back_to("tasks")
        taken = {task.id.lower() for task in tasks if task_rows.exists(tx, job.pk, task.id)}
        _insert_all(tx, job, [task for task in tasks if task.id.lower() not in taken], now)
        return taken
    return set()


def _insert_all(tx: Tx, job: JobRow, tasks: list[TaskCreateContent], now: int) -> None:
    if not tasks:
        return
    first = tx.reserve("task", len(tasks))
    rows: list[dict[str, Any]] = []
    bodies: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    ranges: list[dict[str, Any]] = []
    for pk, task in enumerate(tasks, first):
        unmet = _wait_for(tx, job, pk, task.depends_on, edges, ranges) if task.depends_on else 0
        slots, constraints = task.required_slots or 1, task.constraints
        assert constraints is not None
        rows.append({
            "pk": pk, "job_pk": job.pk, "id": task.id, "number": ids.number_of(task.id) if job.uses_dependencies else None,
            "ready": unmet == 0, "unmet": unmet, "slots": slots, "max_retries": constraints.max_task_retry_count,
            "conditions": msgspec.json.encode(task.exit_conditions) if task.exit_conditions else None, "now": now,
        })  # fmt: skip
        bodies.append({"pk": pk, "body": msgspec.json.encode(task)})
    task_rows.add(tx, rows, bodies)
    task_rows.add_dependencies(tx, edges, ranges)
    slots = sum(row["slots"] for row in rows)
    tx.count(job.pk, active=len(rows), active_slots=slots, ready=sum(row["ready"] for row in rows))
    tx.log(now, "task", first, "added", until=first + len(rows) - 1, new=TaskState.ACTIVE)


def _wait_for(tx: Tx, job: JobRow, pk: int, depends_on: TaskDependencies, edges: list[dict[str, Any]], ranges: list[dict[str, Any]]) -> int:
    """Record what the task still waits for; how many waits that are.

    Forward references are legal: a parent that does not exist yet is simply not satisfied (contract 3.7).
    """
    parents = {name.lower() for name in depends_on.task_ids or () if not task_rows.is_satisfied(tx, job.pk, name)}
    waits = 0
    for low, high in _merged([(span.start, span.end) for span in depends_on.task_id_ranges or ()]):
        met = task_rows.satisfied_numbers(tx, job.pk, low, high)
        if high - low < SPELT_OUT:
            parents.update(task_rows.number_key(number) for number in range(low, high + 1) if number not in met)
        elif len(met) <= high - low:
            ranges.append({"job_pk": job.pk, "low": low, "high": high, "remaining": high - low + 1 - len(met), "child": pk})
            waits += 1
    edges.extend({"job_pk": job.pk, "parent": parent, "child": pk} for parent in parents)
    return waits + len(parents)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers as spans that do not overlap."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(span for span in spans if span[0] <= span[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _check(task: TaskCreateContent, job: JobRow, slots_per_node: int | None) -> None:
    """Refuse what the contract refuses (3.2, 3.3, 3.7, 3.8, A.3) and fill the defaults in."""
    demands.an_id("id", task.id)
    demands.a_display_name(task.display_name)
    demands.a_command_line(task.command_line)
    demands.an_identity(task.user_identity)
    demands.resource_files(task.resource_files)
    demands.environment(task.environment_settings)
    demands.not_served(
        containerSettings=task.container_settings,
        multiInstanceSettings=task.multi_instance_settings,
        applicationPackageReferences=task.application_package_references or None,
        authenticationTokenSettings=task.authentication_token_settings,
    )
    if task.required_slots is not None:
        demands.within("requiredSlots", task.required_slots, 1, slots_per_node or 256)
    if task.depends_on is not None:
        _check_dependencies(task.depends_on, job)
    if task.exit_conditions is not None:
        _check_conditions(task.exit_conditions, job)
    task.constraints = constraints(task.constraints, job.max_retries)
    task.required_slots = task.required_slots or 1
    task.user_identity = task.user_identity or DEFAULT_IDENTITY


def constraints(given: TaskConstraints | None, job_retries: int) -> TaskConstraints:
    """Constraints with the service's defaults; the job's retry count is copied, later changes of it do not follow."""
    given = given or _NO_CONSTRAINTS
    retries = given.max_task_retry_count
    if retries is not None:
        demands.a_retry_count(retries)
    return TaskConstraints(
        max_wall_clock_time=demands.canonical("maxWallClockTime", given.max_wall_clock_time, times.INFINITE),
        retention_time=demands.canonical("retentionTime", given.retention_time, RETENTION),
        max_task_retry_count=job_retries if retries is None else retries,
    )


_NO_CONSTRAINTS = TaskConstraints()


def _check_dependencies(depends_on: TaskDependencies, job: JobRow) -> None:
    if not job.uses_dependencies:
        raise BatchError("TaskDependenciesNotSpecifiedOnJob")
    names = depends_on.task_ids or ()
    if sum(map(len, names)) > DEPENDENCY_CHARACTERS:
        raise BatchError("TaskDependencyListTooLong")
    for name in names:
        demands.an_id("taskIds", name)
    spans = depends_on.task_id_ranges or ()
    if len(spans) > DEPENDENCY_RANGES:
        raise BatchError("TaskDependencyRangesTooLong")
    for span in spans:
        if not -(2**31) <= span.start <= span.end < 2**31:
            raise invalid_property(
                "taskIdRanges", f"{span.start}-{span.end}", "start and end are 32-bit integers and start is not above end"
            )


def _check_conditions(conditions: ExitConditions, job: JobRow) -> None:
    """An action that the job cannot take is refused (contract 3.8)."""
    for code in conditions.exit_codes or ():
        demands.a_number("code", code.code)
    for span in conditions.exit_code_ranges or ():
        demands.a_number("start", span.start)
        demands.a_number("end", span.end)
    mappings = [*(conditions.exit_codes or ()), *(conditions.exit_code_ranges or ())]
    stages = (conditions.pre_processing_error, conditions.file_upload_error, conditions.default)
    for option in (*(mapping.exit_options for mapping in mappings), *stages):
        if option is None:
            continue
        demands.not_served(jobAction=option.job_action if option.job_action is JobAction.DISABLE else None)
        if option.job_action is not None and not job.acts_on_failure:
            raise invalid_property("jobAction", option.job_action, "The job's onTaskFailure is noaction")
        if option.dependency_action is not None and not job.uses_dependencies:
            raise invalid_property("dependencyAction", option.dependency_action, "The job does not use task dependencies")


def terminate(tx: Tx, job_id: str, task_id: str, now: int) -> TaskRow:
    """End a task as the client wishes; it fails with TaskEnded and is not tried again. Raises TaskCompleted."""
    job, task = find(tx, job_id, task_id)
    if task.state == TaskState.COMPLETED:
        raise BatchError("TaskCompleted")
    modified = max(now, task.modified + 1)
    complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now, modified=modified)
    return task_rows.get(tx, task.pk) or task


def delete(tx: Tx, job_id: str, task_id: str, now: int) -> None:
    """Remove a task, its record and its files; a running one is ended first."""
    job, task = find(tx, job_id, task_id)
    if task.node_pk is not None:
        if task.state in (TaskState.PREPARING, TaskState.RUNNING):
            give_back(tx, task.node_pk, slots=task.slots, tasks=1, now=now)
        if node_rows.get(tx, task.node_pk):
            node_rows.add_removals(tx, [{"node_pk": task.node_pk, "directory": directory(job.id, task.id)}])
            tx.wake(wakes.node(task.node_pk))
    was = {TaskState.ACTIVE: "active", TaskState.COMPLETED: "completed"}.get(task.state, "running")
    deltas = {was: -1, was + "_slots": -task.slots}
    if task.result is not None and task.state == TaskState.COMPLETED:
        result = "succeeded" if task.result == TaskResult.SUCCESS else "failed"
        deltas |= {result: -1, result + "_slots": -task.slots}
    tx.count(job.pk, ready=-task.ready, **deltas)
    task_rows.withdraw(tx, task)
    task_rows.delete(tx, [task.pk])
    tx.log(now, "task", task.pk, "deleted", old=task.state)
    tx.wake(wakes.pool(job.pool_key))


def find(tx: Tx, job_id: str, task_id: str) -> tuple[JobRow, TaskRow]:
    """Job and task. Raises JobNotFound, TaskNotFound."""
    job = job_cases.find(tx, job_id)
    task = task_rows.find(tx, job.pk, task_id)
    if task is None:
        raise BatchError("TaskNotFound")
    return job, task


def job_directory(job_id: str) -> str:
    """Directory of a job below the node's root; `schedule:job-n` is a directory of the schedule (contract 4.1)."""
    schedule, colon, run = job_id.partition(":")
    return f"workitems/{schedule}/{run if colon else 'job-1'}"


def directory(job_id: str, task_id: str) -> str:
    """Directory of a task below the node's root."""
    return f"{job_directory(job_id)}/{task_id}"
