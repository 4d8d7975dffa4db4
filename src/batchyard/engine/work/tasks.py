"""Use cases of tasks that clients ask for: add, update, terminate, reactivate, delete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from batchyard.engine import lookup, wakes
from batchyard.engine.changes.tasks import change_task, count_out
from batchyard.engine.checks import containers
from batchyard.engine.checks import tasks as task_checks
from batchyard.engine.settling.completions import ENDED_BY_USER
from batchyard.engine.settling.completions import terminate as end_task
from batchyard.engine.settling.dependencies import wait_for
from batchyard.engine.settling.job_ends import end_when_complete
from batchyard.engine.settling.moves import disband, give_back, stir
from batchyard.model import ids, times
from batchyard.model.errors import BatchError
from batchyard.model.job import JobManagerTask
from batchyard.model.states import TaskResult, TaskState
from batchyard.model.task import TaskConstraints, TaskCreateContent
from batchyard.rules import attempts, places
from batchyard.rules.transitions import TaskHappened
from batchyard.store import instances as instance_rows
from batchyard.store import jobs as job_rows
from batchyard.store import leftovers
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tasks import Dependency, DependencyRange, NewTask, TaskRow
from batchyard.store.tx import Taken, Tx

_decoder = msgspec.json.Decoder(TaskCreateContent)
_encoder = msgspec.json.Encoder()
_retention_us = lru_cache(maxsize=1024)(times.duration)
"""Of a duration as the service writes it, which is short."""

Outcome = tuple[str, int | BatchError]
"""Id of a task and the time of its addition, or why it was refused."""
_LONGEST_PROGRAM = 200
"""Characters of a program's name that an event keeps."""


def add(tx: Tx, job_id: str, tasks: Sequence[TaskCreateContent], now: int) -> list[Outcome]:
    """Add tasks to a job, each accepted or refused by itself; outcomes in the order of `tasks`."""
    job = lookup.open_job(tx, job_id)
    pool = pool_rows.find(tx, job.pool_key)
    outcomes: list[Outcome] = []
    accepted: list[TaskCreateContent] = []
    names: set[str] = set()
    content = None if pool is None else pool_rows.content(pool.body)
    for task in tasks:
        try:
            task_checks.check(task, job, None if pool is None else pool.slots_per_node)
            containers.fits(task.container_settings, content)
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
    except Taken:
        tx.back_to("tasks")
        taken = {task.id.lower() for task in tasks if task_rows.exists(tx, job.pk, task.id)}
        _insert_all(tx, job, [task for task in tasks if task.id.lower() not in taken], now)
        return taken
    return set()


def insert_manager(tx: Tx, job: JobRow, manager: JobManagerTask, now: int) -> None:
    """Queue a job's manager, first among its tasks (contract 3.5)."""
    shared = {name: getattr(manager, name) for name in manager.__struct_fields__ if name in TaskCreateContent.__struct_fields__}
    _insert_all(tx, job, [TaskCreateContent(**shared)], now, manager)


def wants_token(task: TaskCreateContent) -> bool:
    """True when the task asked for a token of its own."""
    return task.authentication_token_settings is not None and bool(task.authentication_token_settings.access)


def _insert_all(tx: Tx, job: JobRow, tasks: list[TaskCreateContent], now: int, manager: JobManagerTask | None = None) -> None:
    if not tasks:
        return
    first = tx.reserve("task", len(tasks))
    rows: list[NewTask] = []
    bodies: list[tuple[int, bytes]] = []
    edges: list[Dependency] = []
    ranges: list[DependencyRange] = []
    for pk, task in enumerate(tasks, first):
        unmet = wait_for(tx, job, pk, task.depends_on, edges, ranges) if task.depends_on else 0
        instances = 0 if task.multi_instance_settings is None else task.multi_instance_settings.number_of_instances or 1
        slots, constraints = (task.required_slots or 1) * max(1, instances), task.constraints
        assert constraints is not None
        rows.append(
            NewTask(
                pk,
                job.pk,
                task.id,
                ids.number_of(task.id) if job.uses_dependencies else None,
                int(unmet == 0),
                unmet,
                slots,
                constraints.max_task_retry_count,
                msgspec.json.encode(task.exit_conditions) if task.exit_conditions else None,
                now,
                _retention_us(constraints.retention_time or task_checks.RETENTION),
                int(wants_token(task)),
                task.affinity_info.affinity_id.removeprefix(ids.NODE_AFFINITY_PREFIX).lower() if task.affinity_info else None,
                manager=int(manager is not None),
                exclusive=int(manager is not None and manager.run_exclusive is not False),
                dedicated_only=int(manager is not None and manager.allow_low_priority_node is False),
                instances=instances,
                modified=now,
                state_time=now,
            )
        )
        bodies.append((pk, _encoder.encode(task)))
    task_rows.add(tx, rows, bodies)
    task_rows.add_dependencies(tx, edges, ranges)
    may_start = [row.slots for row in rows if row.ready]
    slots = sum(row.slots for row in rows)
    tx.count(job.pk, active=len(rows), active_slots=slots, ready=len(may_start), ready_slots=sum(may_start))
    tx.log(now, "task", first, "added", until=first + len(rows) - 1, new=TaskState.ACTIVE)


def terminate(tx: Tx, job_id: str, task_id: str, now: int) -> TaskRow:
    """End a task as the client wishes; it fails with TaskEnded and is not tried again. Raises TaskCompleted."""
    job, task = find(tx, job_id, task_id)
    if task.state == TaskState.COMPLETED:
        raise BatchError("TaskCompleted")
    modified = max(now, task.modified + 1)
    return end_task(tx, job, task, ENDED_BY_USER, now, modified)


def update(tx: Tx, job_id: str, task_id: str, given: TaskConstraints | None, now: int) -> TaskRow:
    """Replace a task's constraints; absent ones fall back to the job's. Raises TaskCompleted."""
    job, task = find(tx, job_id, task_id)
    if task.state == TaskState.COMPLETED:
        raise BatchError("TaskCompleted")
    body = _decoder.decode(task_rows.body(tx, task.pk))
    body.constraints = constraints = task_checks.constraints(given, job.max_retries)
    retention = times.duration(constraints.retention_time or task_checks.RETENTION)
    modified = max(now, task.modified + 1)
    task_rows.set_body(tx, task.pk, msgspec.json.encode(body))
    fresh = task_rows.move(tx, task, max_retries=constraints.max_task_retry_count, retention=retention, modified=modified)
    tx.log(now, "task", task.pk, "updated")
    return fresh


def enter(tx: Tx, job_id: str, task_id: str, program: str, now: int) -> tuple[int, str]:
    """Note that a client runs a program inside of a running task; the node and the attempt. Raises OperationInvalidForCurrentState.

    Of the command the program alone is kept: its arguments may be secrets.
    """
    _, task = find(tx, job_id, task_id)
    if task.state != TaskState.RUNNING or task.node_pk is None:
        told = f"The task is {task.state}; a command can be run inside of a task only while that is running"
        raise BatchError("OperationInvalidForCurrentState", Reason=told)
    tx.log(now, "task", task.pk, "command inside", cause=program[:_LONGEST_PROGRAM])
    return task.node_pk, attempts.name(task.pk, task.run)


def reactivate(tx: Tx, job_id: str, task_id: str, now: int) -> TaskRow:
    """Run a failed task again, its counters at zero. Raises TaskNotCompleted, TaskSucceeded, and what a closed job raises."""
    job, task = find(tx, job_id, task_id)
    if task.state != TaskState.COMPLETED:
        raise BatchError("TaskNotCompleted")
    if task.result == TaskResult.SUCCESS or task.exit_code == 0:
        raise BatchError("TaskSucceeded")
    lookup.open_job(tx, job_id)
    if task.node_pk is not None:
        leftovers.add(tx, job_pk=job.pk, task_pk=task.pk, node_pk=task.node_pk)
    task_rows.withdraw(tx, task)  # a failure may have satisfied; dependants that were let go stay so
    fresh = change_task(
        tx,
        task,
        TaskHappened.REACTIVATED,
        now,
        satisfied=0,
        retries=0,
        requeues=0,
        losses=0,
        last_retry=None,
        last_requeue=None,
        started=None,
        ended=None,
        exit_code=None,
        result=None,
        failure=None,
        expires=None,
        node_pk=None,
        holds=0,
        modified=max(now, task.modified + 1),
    )
    if task.manager:
        job_rows.note_restarted(tx, [job.pk], restarted=True)
    tx.wake(wakes.pool(job.pool_key))
    return fresh


def delete(tx: Tx, job_id: str, task_id: str, now: int) -> None:
    """Remove a task, its record and its files; a running one is ended first."""
    job, task = find(tx, job_id, task_id)
    if task.node_pk is not None and task.state in (TaskState.PREPARING, TaskState.RUNNING):
        disband(tx, task, now)
        give_back(tx, task.node_pk, slots=task.held, tasks=1, now=now)
    clear_up(tx, job, task)
    count_out(tx, task)
    task_rows.withdraw(tx, task)
    task_rows.delete(tx, [task.pk])
    tx.log(now, "task", task.pk, "deleted", old=task.state)
    if job.ends_when_complete:
        end_when_complete(tx, job, now)
    stir(tx, job)


def clear_up(tx: Tx, job: JobRow, task: TaskRow) -> None:
    """Have every node that the task ran on remove the task's directory."""
    nodes = leftovers.take(tx, job.pk, task.pk, task.pk) | ({task.node_pk} if task.node_pk is not None else set())
    if task.instances:
        nodes |= {row.node_pk for row in instance_rows.of_task(tx, task.pk)}
    remove(tx, nodes, places.task_directory(job.id, task.id))


def remove(tx: Tx, node_pks: Iterable[int], path: str) -> None:
    """Have nodes, as far as there are such, remove a directory."""
    for node_pk in node_pks:
        if node_rows.get(tx, node_pk) is not None:
            node_rows.add_removals(tx, [{"node_pk": node_pk, "directory": path}])
            tx.wake(wakes.node(node_pk))


def find(tx: Tx, job_id: str, task_id: str) -> tuple[JobRow, TaskRow]:
    """Job and task. Raises JobNotFound, TaskNotFound."""
    job = lookup.job(tx, job_id)
    task = task_rows.find(tx, job.pk, task_id)
    if task is None:
        raise BatchError("TaskNotFound")
    return job, task
