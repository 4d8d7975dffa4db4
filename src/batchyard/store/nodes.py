"""Compute node rows, and the directories that nodes still have to remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState, SchedulingState, SpecialTaskState, TaskResult, TaskState
from batchyard.rules.odata import Filter
from batchyard.store import leftovers
from batchyard.store.filters import Page, by_key, condition
from batchyard.store.filters import page as page_of
from batchyard.store.reader import Change, Params, Reader, Statement, columns
from batchyard.store.tx import Conflict, Tx, Versioned


class NodeRow(msgspec.Struct):
    """A row of `node`."""

    pk: int
    pool_pk: int
    id: str
    state: NodeState
    version: int
    state_time: int
    scheduling_state: SchedulingState
    dedicated: int
    slots: int
    slots_used: int
    tasks_running: int
    tasks_run: int
    tasks_succeeded: int
    session: int
    last_seen: int | None
    allocated: int
    booted: int | None
    launches: int
    handle: str | None
    facts: bytes | None
    errors: bytes | None
    action: str | None
    action_option: str | None
    action_since: int | None
    action_after: int | None
    start_task: bytes | None
    recent: str
    cores: int
    memory: int
    provider: str
    launch_error: str | None
    blocked: int
    tried: int | None
    task_disk: int
    root: str | None
    number: int
    """That of the node in its pool, from 0; no other node of the pool has it."""
    server: str | None
    """The server on whose machine it is, or is to be; None where that is no question, or not settled."""


class NodeView(NodeRow):
    """A node with its pool's id and body, and how its start task goes."""

    pool_id: str
    pool_body: bytes
    start_state: SpecialTaskState | None
    start_began: int | None
    start_ended: int | None
    start_exit_code: int | None
    start_result: TaskResult | None
    start_failure: bytes | None
    start_retries: int | None
    start_last_retry: int | None


class RecentTask(msgspec.Struct):
    """What a node shows of a task that ran there lately."""

    job_id: str
    task_id: str
    state: TaskState
    started: int | None
    ended: int | None
    exit_code: int | None
    failure: bytes | None
    retries: int
    last_retry: int | None
    requeues: int
    last_requeue: int | None
    result: TaskResult | None
    number: int | None
    """Of the instance that ran there beside the primary of a multi-instance task."""


class NodeCount(msgspec.Struct):
    """Nodes of a pool of one kind in one state; of a pool without nodes a row that says 0."""

    pool_pk: int
    pool_id: str
    dedicated: int | None
    state: NodeState | None
    count: int


class FreeNode(msgspec.Struct):
    """What placement has to know of a node."""

    pk: int
    id: str
    free: int
    slots: int
    dedicated: int


MOST_RECENT = 10
"""Recent tasks that a node shows (contract 7.1)."""


def _number_and_path(pk: int, directory: str) -> tuple[int, str]:
    return pk, directory


_COLUMNS = columns(NodeRow)
ROWS = Versioned("node", NodeRow)
_VIEW = (
    f"SELECT {columns(NodeRow, 'node.')}, pool.id, pool.body, begun.state, begun.started, begun.ended, begun.exit_code, begun.result,"
    " begun.failure, begun.retries, begun.last_retry FROM node JOIN pool ON pool.pk = node.pool_pk"
    " LEFT JOIN special_task AS begun ON begun.job_pk = 0 AND begun.kind = 'start' AND begun.node_pk = node.pk"
)
_BEHIND = f"{_VIEW} WHERE node.pool_pk = :pool_pk AND node.pk > :after"
FILTERED_BY = {
    "state": "node.state",
    "stateTransitionTime": "node.state_time",
    "lastBootTime": "node.booted",
    "allocationTime": "node.allocated",
    "startTaskInfo/state": "begun.state",
    "startTaskInfo/startTime": "begun.started",
    "startTaskInfo/endTime": "begun.ended",
    "startTaskInfo/exitCode": "begun.exit_code",
    "startTaskInfo/result": "begun.result",
}
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM node WHERE pk = :pk", NodeRow)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM node WHERE pool_pk = :pool_pk AND lower(id) = :key", NodeRow)
_VIEW_BY_ID = Statement(f"{_VIEW} WHERE node.pool_pk = :pool_pk AND lower(node.id) = :key", NodeView)
_PAGE = Statement(f"{_VIEW} WHERE node.pool_pk = :pool_pk AND node.pk > :after ORDER BY node.pk LIMIT :n", NodeView)
_NUMBERS = Statement("SELECT number FROM node WHERE pool_pk = :pool_pk", int)
_OF_POOL = Statement(f"SELECT {_COLUMNS} FROM node WHERE pool_pk = :pool_pk ORDER BY pk", NodeRow)
_BY_START = Statement(
    f"{_VIEW} WHERE substr(lower(node.id), 1, CAST(:length AS INTEGER)) = :start ORDER BY length(node.id), node.pk LIMIT 2",
    NodeView,
)
_OF_SERVER = Statement(f"SELECT {_COLUMNS} FROM node WHERE server = :server ORDER BY pk", NodeRow)
_ALL = Statement(f"SELECT {_COLUMNS} FROM node ORDER BY pk", NodeRow)
_FREE = Statement(
    "SELECT pk, id, slots - slots_used, slots, dedicated FROM node WHERE pool_pk = :pool_pk AND state IN ('idle', 'running')"
    " AND scheduling_state = 'enabled' AND action IS NULL AND slots > slots_used ORDER BY pk",
    FreeNode,
)
_USABLE = Statement(
    "SELECT pk FROM node WHERE pool_pk = :pool_pk AND state IN ('idle', 'running') AND scheduling_state = 'enabled' AND action IS NULL",
    int,
)
_SEEN = Change("UPDATE node SET last_seen = :now, version = version + 1 WHERE pk = :pk")
_OCCUPY = Statement(
    "UPDATE node SET slots_used = slots_used + :slots, tasks_running = tasks_running + :tasks,"
    " recent = substr(:recent || recent, 1, 200), version = version + 1 WHERE pk = :pk AND slots_used + :slots <= slots"
    " AND state IN ('idle', 'running') AND scheduling_state = 'enabled' AND action IS NULL RETURNING " + _COLUMNS,
    NodeRow,
)
_RELEASE = Statement(
    "UPDATE node SET slots_used = slots_used - :slots, tasks_running = tasks_running - :tasks, tasks_run = tasks_run + :run,"
    " tasks_succeeded = tasks_succeeded + :succeeded, version = version + 1"
    " WHERE pk = :pk AND slots_used >= :slots AND tasks_running >= :tasks RETURNING " + _COLUMNS,
    NodeRow,
)
_DELETE = Change("DELETE FROM node WHERE pk = :pk")
_ADD_REMOVAL = Change(
    "INSERT INTO removal (node_pk, directory) SELECT :node_pk, :directory"
    " WHERE NOT EXISTS (SELECT 1 FROM removal WHERE node_pk = :node_pk AND directory = :directory)"
)
_REMOVALS = Statement("SELECT pk, directory FROM removal WHERE node_pk = :node_pk ORDER BY pk LIMIT :n", _number_and_path)
_MUST_REMOVE = Statement("SELECT 1 FROM removal WHERE node_pk = :node_pk AND directory = :directory LIMIT 1", int)
_DONE_REMOVAL = Change("DELETE FROM removal WHERE pk = :pk AND node_pk = :node_pk")
_DROP_REMOVALS = Change("DELETE FROM removal WHERE node_pk = :pk")
_OF_EITHER = ", ".join(
    [f"CASE WHEN instance.pk IS NULL THEN task.{name} ELSE instance.{name} END" for name in ("state", "started", "ended", "exit_code")]
    + ["CASE WHEN instance.pk IS NULL THEN task.failure ELSE instance.failure END, retries, last_retry, requeues, last_requeue"]
    + ["CASE WHEN instance.pk IS NULL THEN task.result ELSE instance.result END, instance.number"]
)
"""What a recent task is, or the instance of it that ran there."""
_RECENT = Statement(
    f"SELECT job.id, task.id, {_OF_EITHER}"
    " FROM task JOIN job ON job.pk = task.job_pk"
    " LEFT JOIN instance ON instance.task_pk = task.pk AND instance.node_pk = :node_pk AND instance.number > 0"
    " WHERE task.pk = :pk AND (task.node_pk = :node_pk OR instance.node_pk = :node_pk)",
    RecentTask,
)
_DROP_UNUSED = Change("DELETE FROM node_usage WHERE node_pk = :pk AND released IS NULL")
_COUNTS = Statement(
    "SELECT shown.pk, shown.id, node.dedicated, node.state, count(node.pk) FROM"
    " (SELECT pk, id FROM pool WHERE pk > :after ORDER BY pk LIMIT :n)"
    " AS shown LEFT JOIN node ON node.pool_pk = shown.pk GROUP BY shown.pk, shown.id, node.dedicated, node.state ORDER BY shown.pk",
    NodeCount,
)
_SILENT = Statement(
    "SELECT pk FROM node WHERE last_seen < :before"
    " AND (state IN ('starting', 'waitingforstarttask', 'starttaskfailed', 'idle', 'running', 'offline', 'unusable')"
    " OR tasks_running > 0 AND state IN ('rebooting', 'reimaging', 'deallocating'))",
    int,
)
_AWAITED = Statement("SELECT pk FROM node WHERE state = 'starting' AND tasks_running > 0 AND state_time <= :before", int)


def get(reader: Reader, pk: int) -> NodeRow | None:
    """Node by key."""
    return reader.first(_BY_PK, pk=pk)


def find(reader: Reader, pool_pk: int, node_id: str) -> NodeRow | None:
    """Node of a pool by id, case-insensitively."""
    return reader.first(_BY_ID, pool_pk=pool_pk, key=node_id.lower())


def view(reader: Reader, pool_pk: int, node_id: str) -> NodeView | None:
    """Node of a pool by id, with what it is shown with."""
    return reader.first(_VIEW_BY_ID, pool_pk=pool_pk, key=node_id.lower())


def by_start(reader: Reader, start: str) -> NodeView:
    """The node of any pool whose id begins so, or is that; case-insensitively. Raises NodeNotFound."""
    found = reader.all(_BY_START, length=len(start), start=start.lower())
    if not found:
        raise BatchError("NodeNotFound")
    if len(found) > 1 and (found[0].id.lower() != start.lower() or found[1].id.lower() == start.lower()):
        raise BatchError("NodeNotFound", Reason="More than one node's id begins so")
    return found[0]


def page(reader: Reader, pool_pk: int, after: int, n: int) -> list[NodeView]:
    """The next `n` nodes of a pool behind key `after`."""
    return reader.all(_PAGE, pool_pk=pool_pk, after=after, n=n)


def filtered(reader: Reader, pool_pk: int, found: Filter | None, after: int, most: int) -> Page[NodeView]:
    """At most `most` nodes of a pool behind key `after` that are asked for."""
    if found is None:
        return page_of(page(reader, pool_pk, after, most + 1), most, by_key)
    where, params = condition(found, FILTERED_BY)
    search = Statement(f"{_BEHIND} AND {where} ORDER BY node.pk LIMIT :n", NodeView)
    return page_of(reader.all(search, pool_pk=pool_pk, after=after, n=most + 1, **params), most, by_key)


def of_pool(reader: Reader, pool_pk: int) -> list[NodeRow]:
    """Nodes of a pool."""
    return reader.all(_OF_POOL, pool_pk=pool_pk)


def every(reader: Reader) -> list[NodeRow]:
    """All nodes."""
    return reader.all(_ALL)


def of_server(reader: Reader, server: str) -> list[NodeRow]:
    """Nodes on a server's machine."""
    return reader.all(_OF_SERVER, server=server)


def free(reader: Reader, pool_pk: int) -> Sequence[FreeNode]:
    """Nodes of a pool that take tasks and have free slots."""
    return reader.soon(_FREE, pool_pk=pool_pk)


def usable(reader: Reader, pool_pk: int) -> frozenset[int]:
    """Keys of the nodes of a pool that take tasks, free or not."""
    return frozenset(reader.soon(_USABLE, pool_pk=pool_pk))


def recent_tasks(reader: Reader, node: NodeRow) -> list[RecentTask]:
    """The last tasks that started on a node, newest first, at most `MOST_RECENT`; those that moved on or were deleted are left out."""
    keys = dict.fromkeys(int(key) for key in node.recent.split(",")[:-1])
    found = (reader.first(_RECENT, pk=key, node_pk=node.pk) for key in list(keys)[:MOST_RECENT])
    return [task for task in found if task is not None]


def silent(reader: Reader, before: int) -> list[int]:
    """Keys of nodes that should speak and did not since a time."""
    return reader.all(_SILENT, before=before)


def free_numbers(reader: Reader, pool_pk: int, n: int) -> list[int]:
    """The `n` smallest numbers that no node of a pool has."""
    taken = set(reader.all(_NUMBERS, pool_pk=pool_pk))
    return [number for number in range(len(taken) + n) if number not in taken][:n]


def awaited(reader: Reader, before: int) -> list[int]:
    """Keys of nodes whose tasks wait since a time for an agent to say what became of them."""
    return reader.all(_AWAITED, before=before)


def add(tx: Tx, **values: Any) -> int:
    """Insert a node; its key."""
    return tx.insert("node", **values)


def move(tx: Tx, node: NodeRow, **changes: Any) -> NodeRow:
    """Change a node, but for its state, that nobody changed since it was read; the node as it is then."""
    return tx.move(ROWS, node, changes)


def set_state(tx: Tx, node: NodeRow, changes: Mapping[str, Any]) -> NodeRow:
    """The same with its state, for `engine.changes` alone."""
    return tx.set_state(ROWS, node, changes)


def seen(tx: Tx, pk: int, now: int) -> None:
    """Note that the agent spoke."""
    tx.change(_SEEN, pk=pk, now=now)


def occupy(tx: Tx, pk: int, *, slots: int, tasks: int, recent: str) -> NodeRow:
    """Let tasks have slots of a node; the node then. Raises Conflict when it takes no tasks or has no such room, whatever was seen before.

    `recent` are the keys of the tasks, newest first, each followed by a comma.
    """
    node = tx.first(_OCCUPY, pk=pk, slots=slots, tasks=tasks, recent=recent)
    if node is None:
        raise Conflict(f"node {pk} has no room for {slots} slots any more")
    return node


def release(tx: Tx, pk: int, *, slots: int, tasks: int, run: int, succeeded: int) -> NodeRow | None:
    """Take back what tasks had of a node, `run` of them to their end; None when the node is gone. Raises Conflict when they had less."""
    node = tx.first(_RELEASE, pk=pk, slots=slots, tasks=tasks, run=run, succeeded=succeeded)
    if node is None and get(tx, pk) is not None:
        raise Conflict(f"node {pk} has fewer than {slots} slots or {tasks} tasks to give back")
    return node


def counts(reader: Reader, after: int, n: int) -> list[NodeCount]:
    """Nodes by kind and state of the next `n` pools behind key `after`."""
    return reader.all(_COUNTS, after=after, n=n)


def delete(tx: Tx, pk: int) -> None:
    """Remove a node that nothing runs on; a use that nobody ended never began, for it ends when the node leaves."""
    tx.change(_DROP_UNUSED, pk=pk)
    forget_removals(tx, pk)
    tx.change(_DELETE, pk=pk)


def forget_removals(tx: Tx, node_pk: int) -> None:
    """Nothing has to be removed on a node that lost all its files."""
    tx.change(_DROP_REMOVALS, pk=node_pk)
    leftovers.forget(tx, node_pk)


def add_removals(tx: Tx, rows: Sequence[Params]) -> None:
    """Have nodes remove directories."""
    tx.change_many(_ADD_REMOVAL, rows)


def removals(reader: Reader, node_pk: int, n: int) -> Sequence[tuple[int, str]]:
    """The next `n` directories that a node has to remove, each with its number."""
    return reader.soon(_REMOVALS, node_pk=node_pk, n=n)


def must_remove(reader: Reader, node_pk: int, directories: Sequence[str]) -> bool:
    """True when the node has yet to remove one of these directories."""
    return any(reader.first(_MUST_REMOVE, node_pk=node_pk, directory=directory) is not None for directory in directories)


def removed(tx: Tx, node_pk: int, numbers: Sequence[int]) -> None:
    """Forget directories that the node removed."""
    tx.change_many(_DONE_REMOVAL, [{"pk": pk, "node_pk": node_pk} for pk in numbers])
