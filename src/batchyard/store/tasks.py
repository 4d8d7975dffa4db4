"""Task rows: hot columns in `task`, the client's JSON in `task_body`, unmet dependencies in tables of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from batchyard.model.states import TaskResult, TaskState
from batchyard.store.reader import Change, Insertion, Params, Reader, Statement, columns
from batchyard.store.tx import Taken, Tx, Versioned

ALL = 2**62
"""A limit that limits nothing."""


class TaskRow(msgspec.Struct):
    """A row of `task`."""

    pk: int
    job_pk: int
    id: str
    number: int | None
    state: TaskState
    version: int
    ready: int
    unmet: int
    satisfied: int
    slots: int
    max_retries: int
    conditions: bytes | None
    run: int
    retries: int
    requeues: int
    losses: int
    created: int
    modified: int
    state_time: int
    previous_state: TaskState | None
    previous_time: int | None
    node_pk: int | None
    started: int | None
    ended: int | None
    last_retry: int | None
    last_requeue: int | None
    exit_code: int | None
    result: TaskResult | None
    failure: bytes | None
    manager: int
    exclusive: int
    dedicated_only: int
    wants_token: int
    affinity: str | None
    held: int
    retention: int | None
    expires: int | None
    user_us: int
    kernel_us: int
    wall_us: int
    holds: int
    instances: int
    """Of a multi-instance task; 0 for an ordinary one. Its `slots` are those of all instances, `held` what the primary's node gives."""
    unready: int
    """Instances of the present run whose coordination command has yet to succeed."""
    held_since: int | None
    """Since when nodes are kept free for it, with pauses."""


class NewTask(NamedTuple):
    """A task to insert, by its columns. Flags are integers: for each boolean the driver would look for an adapter."""

    pk: int
    job_pk: int
    id: str
    number: int | None
    ready: int
    unmet: int
    slots: int
    max_retries: int | None
    conditions: bytes | None
    created: int
    retention: int | None
    wants_token: int
    affinity: str | None
    manager: int
    exclusive: int
    dedicated_only: int
    instances: int
    modified: int
    state_time: int
    state: str = TaskState.ACTIVE.value


class Dependency(NamedTuple):
    """A task that waits for another one, which `parent` names as the table does."""

    job_pk: int
    parent: str
    child: int


class DependencyRange(NamedTuple):
    """A task that waits for a wide range of numbers, of which `remaining` are not met yet."""

    job_pk: int
    low: int
    high: int
    remaining: int
    child: int


class TaskLine(msgspec.Struct, gc=False):
    """What a list shows of a task, and no more, because a page has a thousand."""

    pk: int
    id: str
    state: TaskState
    retries: int
    requeues: int
    created: int
    modified: int
    state_time: int
    previous_state: TaskState | None
    previous_time: int | None
    started: int | None
    ended: int | None
    last_retry: int | None
    last_requeue: int | None
    exit_code: int | None
    result: TaskResult | None
    failure: bytes | None
    body: bytes
    node_id: str | None
    pool_id: str | None


class TaskView(TaskLine, gc=False):
    """A task with all that is told of it."""

    run: int
    node_pk: int | None
    retention: int | None
    user_us: int
    kernel_us: int
    wall_us: int


class RunningTask(msgspec.Struct):
    """What preemption has to know of a task that holds slots, on each node on which it does."""

    pk: int
    node_pk: int
    dedicated: int
    held: int
    priority: int
    preemptible: int
    manager: int
    started: int | None
    instances: int


class OrderRow(msgspec.Struct):
    """What a node has to be told of an attempt."""

    pk: int
    id: str
    run: int
    wants_token: int
    instances: int
    job_id: str
    environment: bytes | None
    preparation_id: str | None
    body: bytes


_ELSEWHERE = {"body": "task_body.body", "node_id": "node.id", "pool_id": "pool.id"}


def select(row: type[TaskLine]) -> str:
    """The head of a statement that gives such rows."""
    names = ", ".join(_ELSEWHERE.get(field, f"task.{field}") for field in row.__struct_fields__)
    joined = "JOIN task_body ON task_body.pk = task.pk LEFT JOIN node ON node.pk = task.node_pk LEFT JOIN pool ON pool.pk = node.pool_pk"
    return f"SELECT {names} FROM task {joined}"


ROWS = Versioned("task", TaskRow)
_BY_ID = Statement(f"SELECT {columns(TaskRow)} FROM task WHERE job_pk = :job_pk AND lower(id) = :key", TaskRow)
_BY_PK = Statement(f"SELECT {columns(TaskRow)} FROM task WHERE pk = :pk", TaskRow)
_SOME = Statement(f"SELECT {columns(TaskRow)} FROM task WHERE pk IN (:keys)", TaskRow)
_VIEW_BY_ID = Statement(f"{select(TaskView)} WHERE task.job_pk = :job_pk AND lower(task.id) = :key", TaskView)
_IN_ORDER = "WHERE task.job_pk = :job_pk AND task.pk > :after ORDER BY task.pk LIMIT :n"
_PAGE = Statement(f"{select(TaskLine)} {_IN_ORDER}", TaskLine)
_PAGE_OF_VIEWS = Statement(f"{select(TaskView)} {_IN_ORDER}", TaskView)
_ANY_BLOCKED = Statement("SELECT 1 FROM task WHERE job_pk = :job_pk AND state = 'active' AND ready = 0 LIMIT 1", int)
_ON_NODE = Statement(f"SELECT {columns(TaskRow)} FROM task WHERE node_pk = :node_pk AND state IN ('preparing', 'running')", TaskRow)
_RUNNING_OF_JOB = Statement(
    f"SELECT {columns(TaskRow)} FROM task WHERE job_pk = :job_pk AND state IN ('preparing', 'running') LIMIT :n", TaskRow
)
_ATTEMPTS = Statement(
    "SELECT pk, run, NULL FROM task WHERE node_pk = :node_pk AND state IN ('preparing', 'running') AND state = 'running' AND unready = 0"
    " UNION ALL SELECT task_pk, run, number FROM instance WHERE node_pk = :node_pk AND state <> 'completed' AND state = 'running'",
    lambda pk, run, number: (int(pk), int(run), None if number is None else int(number)),
)
_GANGS_ON_NODE = Statement(
    f"SELECT {columns(TaskRow)} FROM task WHERE pk IN"
    " (SELECT task_pk FROM instance WHERE node_pk = :node_pk AND state <> 'completed' AND number > 0)",
    TaskRow,
)
_ORDERS = Statement(
    "SELECT task.pk, task.id, task.run, task.wants_token, task.instances, job.id, job.environment, job.preparation_id, task_body.body"
    " FROM task"
    " JOIN job ON job.pk = task.job_pk"
    " JOIN task_body ON task_body.pk = task.pk WHERE task.pk IN (:keys)",
    OrderRow,
)
_BODY = Statement("SELECT body FROM task_body WHERE pk = :pk", bytes)
_IDS_TAKEN = Statement("SELECT 1 FROM task WHERE job_pk = :job_pk AND lower(id) = :key", int)
_ADD = Insertion("task", NewTask._fields, "ON CONFLICT DO NOTHING")
_ADD_BODY = Insertion("task_body", ("pk", "body"))
_SET_BODY = Change("UPDATE task_body SET body = :body WHERE pk = :pk")
_START = Change(
    "UPDATE task SET state = :state, version = version + 1, ready = 0, holds = 0, run = run + 1, node_pk = :node_pk, held = :held,"
    " started = :started, ended = NULL, expires = NULL, unready = instances, held_since = NULL,"
    " previous_state = state, previous_time = state_time, state_time = :now, exit_code = NULL, result = NULL, failure = NULL"
    " WHERE pk = :pk AND ready = 1"
)
_PREPARING = Statement(
    f"SELECT {columns(TaskRow)} FROM task WHERE node_pk = :node_pk AND job_pk = :job_pk AND state = 'preparing' ORDER BY pk", TaskRow
)
_EXPIRED = Statement(
    f"SELECT {columns(TaskRow, 'task.')} FROM task WHERE expires <= :now ORDER BY expires LIMIT :n",
    TaskRow,
)
_OLD = Statement(
    f"SELECT {columns(TaskRow)} FROM task WHERE job_pk = :job_pk AND created <= :before AND state <> 'completed' ORDER BY pk LIMIT :n",
    TaskRow,
)
_ON_OPEN_NODES = (
    " JOIN job ON job.pk = task.job_pk WHERE node.pool_pk = :pool_pk AND task.state IN ('preparing', 'running') AND node.state = 'running'"
    " AND node.action IS NULL AND node.scheduling_state = 'enabled' AND job.state NOT IN ('terminating', 'deleting')"
)
_OF_RUNNING = "task.pk, node.pk, node.dedicated, task.held, job.priority, job.preemptible, task.manager, task.started, task.instances"
_RUNNING_OF_POOL = Statement(
    f"SELECT {_OF_RUNNING} FROM task JOIN node ON node.pk = task.node_pk{_ON_OPEN_NODES}"
    f" UNION ALL SELECT {_OF_RUNNING} FROM node JOIN instance ON instance.node_pk = node.pk AND instance.state <> 'completed'"
    f" AND instance.number > 0 JOIN task ON task.pk = instance.task_pk{_ON_OPEN_NODES}",
    RunningTask,
)
_RETAINED = Statement(
    "SELECT max(until) FROM (SELECT max(expires) AS until FROM task WHERE expires IS NOT NULL AND node_pk = :node_pk"
    " UNION ALL SELECT max(expires) AS until FROM instance WHERE expires IS NOT NULL AND node_pk = :node_pk"
    " UNION ALL SELECT max(expires) AS until FROM special_task WHERE node_pk = :node_pk) AS kept",
    lambda until: until,
)
_MANAGERS = Statement(
    "SELECT task.node_pk FROM node JOIN task ON task.node_pk = node.pk AND task.state IN ('preparing', 'running')"
    " WHERE node.pool_pk = :pool_pk AND task.manager = 1",
    int,
)
_DELETE = Change("DELETE FROM task WHERE pk = :pk")
_DELETE_BODY = Change("DELETE FROM task_body WHERE pk = :pk")
_DROP_INSTANCES = Change("DELETE FROM instance WHERE task_pk = :pk")
_NODES_OF = Statement(
    "SELECT node_pk FROM task WHERE job_pk = :job_pk AND pk <= :last AND node_pk IN (SELECT pk FROM node)"
    " UNION SELECT instance.node_pk FROM task JOIN instance ON instance.task_pk = task.pk"
    " WHERE job_pk = :job_pk AND task.pk <= :last AND instance.node_pk IN (SELECT pk FROM node)",
    int,
)
_PKS_OF_JOB = Statement("SELECT pk FROM task WHERE job_pk = :job_pk ORDER BY pk LIMIT :n", int)


def find(reader: Reader, job_pk: int, task_id: str) -> TaskRow | None:
    """Task of a job by id, case-insensitively."""
    return reader.first(_BY_ID, job_pk=job_pk, key=task_id.lower())


def get(reader: Reader, pk: int) -> TaskRow | None:
    """Task by key."""
    return reader.first(_BY_PK, pk=pk)


def some(reader: Reader, pks: Sequence[int]) -> dict[int, TaskRow]:
    """Those of some tasks that exist, by key."""
    return {task.pk: task for task in reader.among(_SOME, pks)}


def view(reader: Reader, job_pk: int, task_id: str) -> TaskView | None:
    """Task with its body by id."""
    return reader.first(_VIEW_BY_ID, job_pk=job_pk, key=task_id.lower())


def page(reader: Reader, job_pk: int, after: int, n: int) -> list[TaskLine]:
    """The next `n` tasks of a job behind key `after`, in the order they were added."""
    return reader.all(_PAGE, job_pk=job_pk, after=after, n=n)


def page_of_views(reader: Reader, job_pk: int, after: int, n: int) -> list[TaskView]:
    """The same with all that is told of them."""
    return reader.all(_PAGE_OF_VIEWS, job_pk=job_pk, after=after, n=n)


def body(reader: Reader, pk: int) -> bytes:
    """The stored JSON of a task."""
    found = reader.first(_BODY, pk=pk)
    assert found is not None, f"task {pk} has no body"
    return found


def exists(reader: Reader, job_pk: int, task_id: str) -> bool:
    """True when the job has a task of that id."""
    return reader.first(_IDS_TAKEN, job_pk=job_pk, key=task_id.lower()) is not None


def has_blocked(reader: Reader, job_pk: int) -> bool:
    """True when an active task of the job may not start yet."""
    return reader.first(_ANY_BLOCKED, job_pk=job_pk) is not None


def on_node(reader: Reader, node_pk: int) -> list[TaskRow]:
    """Tasks that a node runs or prepares; of multi-instance tasks those whose primary it has."""
    return reader.all(_ON_NODE, node_pk=node_pk)


def gangs_on_node(reader: Reader, node_pk: int) -> list[TaskRow]:
    """Multi-instance tasks of which a node runs or prepares an instance beside the primary."""
    return reader.all(_GANGS_ON_NODE, node_pk=node_pk)


def running_of_job(reader: Reader, job_pk: int, n: int = ALL) -> list[TaskRow]:
    """Tasks of a job that run or prepare, at most `n`."""
    return reader.all(_RUNNING_OF_JOB, job_pk=job_pk, n=n)


def preparing(reader: Reader, node_pk: int, job_pk: int) -> list[TaskRow]:
    """Tasks of a job that wait for its preparation task on a node."""
    return reader.all(_PREPARING, node_pk=node_pk, job_pk=job_pk)


def expired(reader: Reader, now: int, n: int) -> list[TaskRow]:
    """Tasks whose directories need not be kept any longer."""
    return reader.all(_EXPIRED, now=now, n=n)


def open_since(reader: Reader, job_pk: int, before: int, n: int) -> list[TaskRow]:
    """Tasks of a job that were added before a time and are not completed."""
    return reader.all(_OLD, job_pk=job_pk, before=before, n=n)


def running_of_pool(reader: Reader, pool_pk: int) -> list[RunningTask]:
    """What holds slots in a pool, on nodes that take further tasks; what ends with its job is left out."""
    return reader.all(_RUNNING_OF_POOL, pool_pk=pool_pk)


def nodes_with_managers(reader: Reader, pool_pk: int) -> set[int]:
    """Nodes of a pool that run a job manager."""
    return set(reader.all(_MANAGERS, pool_pk=pool_pk))


def retained_until(reader: Reader, node_pk: int) -> int | None:
    """When the last directory that a node keeps for a completed task may go; None when it keeps none. Reads all that are kept anywhere."""
    until: int | None = reader.first(_RETAINED, node_pk=node_pk)
    return until


def attempts(reader: Reader, node_pk: int) -> Sequence[tuple[int, int, int | None]]:
    """(task key, run number, None or the number of an instance) of all that a node should run."""
    return reader.soon(_ATTEMPTS, node_pk=node_pk)


def orders(reader: Reader, pks: Sequence[int]) -> dict[int, OrderRow]:
    """What a node has to be told to run each of some tasks."""
    return {order.pk: order for order in reader.among(_ORDERS, pks)}


def add(tx: Tx, rows: Sequence[NewTask], bodies: Sequence[tuple[int, bytes]]) -> None:
    """Insert tasks in state active, and the JSON of each. Raises Taken when the job has one of that id."""
    added = tx.insert_many(_ADD, rows)
    if sum(answer.rowcount for answer in added) != len(rows):
        raise Taken
    tx.insert_many(_ADD_BODY, bodies)


def start(tx: Tx, rows: Sequence[Params]) -> None:
    """Assign ready tasks to nodes, a new run each. Raises Conflict when one is no longer ready."""
    tx.change_all(_START, rows, "a task that was to start is no longer ready")


def move(tx: Tx, task: TaskRow, **changes: Any) -> TaskRow:
    """Change a task, but for its state, that nobody changed since it was read; the task as it is then."""
    return tx.move(ROWS, task, changes)


def set_states(tx: Tx, changes: Sequence[tuple[TaskRow, Mapping[str, Any]]]) -> list[TaskRow]:
    """The same for several tasks, of each the same columns, with their states; for `engine.changes` alone."""
    return tx.set_states(ROWS, changes)


def set_body(tx: Tx, pk: int, text: bytes) -> None:
    """Replace the stored JSON."""
    tx.change(_SET_BODY, pk=pk, body=text)


def first_keys(reader: Reader, job_pk: int, n: int) -> list[int]:
    """Keys of the first `n` tasks of a job."""
    return reader.all(_PKS_OF_JOB, job_pk=job_pk, n=n)


def nodes_of(reader: Reader, job_pk: int, last: int) -> list[int]:
    """Nodes that still exist and last ran the tasks of a job up to key `last`."""
    return reader.all(_NODES_OF, job_pk=job_pk, last=last)


def delete(tx: Tx, pks: Iterable[int]) -> None:
    """Remove tasks and what hangs on them; `release_dependants` is not implied."""
    rows = [{"pk": pk} for pk in pks]
    tx.change_many(_DELETE, rows)
    tx.change_many(_DELETE_BODY, rows)
    tx.change_many(_DROP_INSTANCES, rows)
    tx.change_many(_DROP_EDGES, rows)
    tx.change_many(_DROP_RANGES, rows)


# dependencies

_ADD_EDGE = Insertion("dependency", Dependency._fields)
_ADD_RANGE = Insertion("dependency_range", DependencyRange._fields)
_DROP_EDGES = Change("DELETE FROM dependency WHERE child = :pk")
_DROP_RANGES = Change("DELETE FROM dependency_range WHERE child = :pk")
_TAKE_EDGES = Statement("DELETE FROM dependency WHERE job_pk = :job_pk AND parent = :parent RETURNING child", int)
_CLOSE_RANGES = Change(
    "UPDATE dependency_range SET remaining = remaining - 1 WHERE job_pk = :job_pk AND low <= :number AND high >= :number"
)
_REOPEN_RANGES = Change(
    "UPDATE dependency_range SET remaining = remaining + 1 WHERE job_pk = :job_pk AND low <= :number AND high >= :number"
)
_TAKE_RANGES = Statement("DELETE FROM dependency_range WHERE job_pk = :job_pk AND low <= :number AND remaining = 0 RETURNING child", int)
_MEET: Statement[tuple[int, int]] = Statement(
    "UPDATE task SET version = version + 1, unmet = unmet - :met, ready = CASE WHEN unmet = :met AND state = 'active' THEN 1 ELSE ready END"
    " WHERE pk = :pk RETURNING ready, slots",
    lambda ready, slots: (ready, slots),
)
_SATISFIED = Statement("SELECT 1 FROM task WHERE job_pk = :job_pk AND lower(id) = :key AND satisfied = 1", int)
_SATISFIED_NUMBERS = Statement(
    "SELECT DISTINCT number FROM task WHERE job_pk = :job_pk AND number BETWEEN :low AND :high AND satisfied = 1", int
)
_NUMBER_MET = Statement("SELECT 1 FROM task WHERE job_pk = :job_pk AND number = :number AND satisfied = 1 AND pk <> :pk", int)


def is_satisfied(reader: Reader, job_pk: int, task_id: str) -> bool:
    """True when the task is completed and lets its dependants start."""
    return reader.first(_SATISFIED, job_pk=job_pk, key=task_id.lower()) is not None


def satisfied_numbers(reader: Reader, job_pk: int, low: int, high: int) -> set[int]:
    """Numbers between low and high of which a task is satisfied."""
    return set(reader.all(_SATISFIED_NUMBERS, job_pk=job_pk, low=low, high=high))


def add_dependencies(tx: Tx, edges: Sequence[Dependency], ranges: Sequence[DependencyRange]) -> None:
    """Record what tasks still wait for."""
    tx.insert_many(_ADD_EDGE, edges)
    tx.insert_many(_ADD_RANGE, ranges)


def release_dependants(tx: Tx, task: TaskRow) -> list[int]:
    """Tell those who wait for a task that it is satisfied; the slots of each that became ready."""
    children = tx.all(_TAKE_EDGES, job_pk=task.job_pk, parent=task.id.lower())
    if task.number is not None and tx.first(_NUMBER_MET, job_pk=task.job_pk, number=task.number, pk=task.pk) is None:
        children += tx.all(_TAKE_EDGES, job_pk=task.job_pk, parent=number_key(task.number))
        if tx.changed(_CLOSE_RANGES, job_pk=task.job_pk, number=task.number):
            children += tx.all(_TAKE_RANGES, job_pk=task.job_pk, number=task.number)
    found = (tx.first(_MEET, pk=child, met=1) for child in children)
    return [slots for met in found if met is not None for ready, slots in [met] if ready]


def withdraw(tx: Tx, task: TaskRow) -> None:
    """A satisfied task goes: ranges kept as a whole wait for its number again, unless another task satisfies it."""
    if task.satisfied and task.number is not None and tx.first(_NUMBER_MET, job_pk=task.job_pk, number=task.number, pk=task.pk) is None:
        tx.change(_REOPEN_RANGES, job_pk=task.job_pk, number=task.number)


def number_key(number: int) -> str:
    """How a number of a range stands in `dependency.parent`; no id has a `#`."""
    return f"#{number}"
