"""Moves of tasks that several use cases share: back among those that wait, and off a node."""

from __future__ import annotations

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.instances import change_instance
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.changes.tasks import change_task
from batchyard.model.states import ErrorCategory, JobState, NodeState, SchedulingState, TaskResult, TaskState
from batchyard.model.task import TaskFailureInformation
from batchyard.model.words import SubtaskState
from batchyard.rules import transitions
from batchyard.rules.transitions import NodeHappened, SubtaskHappened, TaskHappened
from batchyard.store import instances as instance_rows
from batchyard.store import jobs as job_rows
from batchyard.store import leftovers
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store.instances import InstanceRow
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

RAN = (TaskState.PREPARING, TaskState.RUNNING)
"""States in which a task holds slots of a node."""
_ENDED_WITH_TASK = msgspec.json.encode(
    TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="TaskEnded", message="The instance ended with its task")
)


def disband(tx: Tx, task: TaskRow, now: int) -> None:
    """The run of a multi-instance task is over: its instances end, and the nodes of all but the primary's get back what these held.

    `task` is as it was while it ran. The node of the primary is the caller's to free, as that of any task.
    """
    if not task.instances or task.state not in RAN:
        return
    for row in instance_rows.of_task(tx, task.pk):
        if row.state != SubtaskState.COMPLETED:
            end_instance(tx, row, now)
        if row.number:
            give_back(tx, row.node_pk, slots=task.held, tasks=1, now=now)


def end_instance(tx: Tx, row: InstanceRow, now: int, exit_code: int | None = None, failure: bytes | None = None) -> InstanceRow:
    """An instance ends; without anything of its own to tell it was well if its coordination command was."""
    ready = bool(row.ready) and failure is None
    return change_instance(
        tx,
        row,
        SubtaskHappened.ENDED,
        now,
        ended=now,
        exit_code=0 if ready else exit_code,
        result=TaskResult.SUCCESS if ready else TaskResult.FAILURE,
        failure=None if ready else failure or _ENDED_WITH_TASK,
        expires=None if row.retention is None or not row.number else now + row.retention,
    )


def requeue(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, now: int, *, cause: str | None = None, **changes: object) -> None:
    """Put a task that held a node back among those that wait; the caller frees the node, which keeps the task's directory."""
    if task.node_pk is not None:
        leftovers.add(tx, job_pk=task.job_pk, task_pk=task.pk, node_pk=task.node_pk)
    change_task(tx, task, happened, now, cause=cause, ended=None, **changes)
    disband(tx, task, now)
    if task.manager:
        job_rows.note_restarted(tx, [task.job_pk], restarted=True)
    stir(tx, job)


def stir(tx: Tx, job: JobRow) -> None:
    """Whoever waits for one of the job's tasks to leave its node may go on: the pool, or the job itself on its way to disabled."""
    tx.wake(wakes.UPKEEP if job.state == JobState.DISABLING else wakes.pool(job.pool_key))


def back_to_work(tx: Tx, node: NodeRow, happened: NodeHappened, now: int) -> NodeRow:
    """Bring a node to where it takes tasks, running if it has some; offline when scheduling is disabled, unusable when it is blocked."""
    node = change_node(tx, node, happened, now)
    further = NodeHappened.TASK_STARTED if node.tasks_running else None
    if not node.tasks_running and node.scheduling_state == SchedulingState.DISABLED:
        further = NodeHappened.WENT_OFFLINE
    if further is not None and transitions.NODE.allows(node.state, further):
        node = change_node(tx, node, further, now)
    if node.blocked:
        node = change_node(tx, node, NodeHappened.BROKEN, now)
    pool = pool_rows.get(tx, node.pool_pk)
    assert pool is not None, f"node {node.pk} has no pool"
    tx.wake(wakes.pool(pool.id.lower()))
    return node


def give_back(tx: Tx, node_pk: int, *, slots: int, tasks: int, now: int, run: int = 0, succeeded: int = 0) -> NodeRow | None:
    """Free what ended tasks held on a node, which is told to end what it still runs; the node then, None when there is none any more."""
    node = node_rows.release(tx, node_pk, slots=slots, tasks=tasks, run=run, succeeded=succeeded)
    if node is None:
        return None
    if node.tasks_running == 0 and node.state == NodeState.RUNNING:
        happened = NodeHappened.TASKS_ENDED if node.scheduling_state == SchedulingState.ENABLED else NodeHappened.WENT_OFFLINE
        node = change_node(tx, node, happened, now)
    if node.tasks_running == 0 and node.action is not None:
        tx.wake(wakes.CAPACITY)
    tx.wake(wakes.node(node_pk))
    return node
