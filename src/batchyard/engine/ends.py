"""What follows when a run of a task ends: retry or completion, then dependants, counters, node and job.

A report is believed only for the run that the task is in now; a repeated or late one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from batchyard.engine import wakes
from batchyard.engine.job_ends import end_job, end_when_complete
from batchyard.model.states import ErrorCategory, JobState, NodeState, SchedulingState, TaskResult, TaskState
from batchyard.model.sync import Ended
from batchyard.model.task import ExitConditions, TaskFailureInformation
from batchyard.model.words import JobAction
from batchyard.rules import outcomes, transitions
from batchyard.rules.transitions import NodeHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

INTERNAL_RETRIES = 20
"""Nodes that a task may lose before it fails with MaxInternalRetryCountReached; the service's bound is not known."""

TASK_ENDED_BY_USER = TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="TaskEnded", message="Task Was Ended by User Request")
_LOST_TOO_OFTEN = TaskFailureInformation(
    category=ErrorCategory.SERVER_ERROR,
    code="MaxInternalRetryCountReached",
    message=f"The task was lost with its node {INTERNAL_RETRIES} times",
)
_RETRYABLE = "FailureExitCode"
_LONGEST_NAME = 18  # both numbers fit a column
_UNKNOWN = "Unknown"
"""The node cannot tell how the run ended (what watched it died): as good as a lost node."""
_conditions = msgspec.json.Decoder(ExitConditions)
_ENDING = (JobState.TERMINATING, JobState.COMPLETED, JobState.DELETING)
_RAN = (TaskState.PREPARING, TaskState.RUNNING)


def attempt_name(pk: int, run: int) -> str:
    """Name of a run as the agent knows it."""
    return f"{pk}.{run}"


def _current(tx: Tx, node: NodeRow, attempt: str) -> TaskRow | None:
    """Task that is in this run on this node now, else None."""
    key, _, run = attempt.partition(".")
    if not attempt.isascii() or len(attempt) > _LONGEST_NAME or not key.isdigit() or not run.isdigit():
        return None
    task = task_rows.get(tx, int(key))
    if task is None or task.run != int(run) or task.node_pk != node.pk or task.state not in _RAN:
        return None
    return task


def report(tx: Tx, node: NodeRow, ends: Iterable[Ended], now: int) -> None:
    """Record how attempts on a node ended."""
    jobs: dict[int, JobRow] = {}
    slots = tasks = succeeded = 0
    for ended in ends:
        task = _current(tx, node, ended.attempt)
        if task is None:
            continue
        job = jobs.get(task.job_pk) or jobs.setdefault(task.job_pk, job_rows.get(tx, task.job_pk))
        result = _settle(tx, job, task, ended, now)
        slots, tasks, succeeded = slots + task.slots, tasks + 1, succeeded + (result == TaskResult.SUCCESS)
        if job.acts_on_failure or job.ends_when_complete:
            del jobs[task.job_pk]  # it may be ending now
    if tasks:
        give_back(tx, node.pk, slots=slots, tasks=tasks, now=now, run=tasks, succeeded=succeeded)


def _settle(tx: Tx, job: JobRow, task: TaskRow, ended: Ended, now: int) -> TaskResult | None:
    """Write what an ended attempt means for its task; the result when it was the last one."""
    failure = ended.failure
    if failure is not None and failure.code == _UNKNOWN:
        _lost(tx, job, task, now)
        return None
    verdict = outcomes.after_end(
        exit_code=ended.exit_code,
        stage=ended.stage,
        failed=failure is not None,
        retryable=failure is not None and failure.code == _RETRYABLE,
        retries=task.retries,
        max_retries=task.max_retries,
        conditions=_conditions.decode(task.conditions) if task.conditions else None,
    )
    if verdict.happened is TaskHappened.RETRY_DUE:
        requeue(tx, job, task, TaskHappened.RETRY_DUE, now, retries=task.retries + 1, last_retry=now, exit_code=ended.exit_code)
        return None
    complete(tx, job, task, verdict.happened, failure, now, exit_code=ended.exit_code, satisfies=verdict.satisfies, node_told=True)
    if verdict.job_action is not JobAction.NONE and job.acts_on_failure:
        _act(tx, job, verdict.job_action, now)
    return verdict.result


def _act(tx: Tx, job: JobRow, action: JobAction, now: int) -> None:
    """Do to the job what an exit condition says."""
    fresh = job_rows.get(tx, job.pk)
    if action is JobAction.TERMINATE and transitions.JOB.allows(fresh.state, transitions.JobHappened.TERMINATE_REQUESTED):
        end_job(tx, fresh, "TaskFailed", now)


def requeue(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, now: int, **changes: object) -> None:
    """Put a task that ran back among those that wait; the caller frees its node. One of a job that is ending ends with it."""
    if job.state in _ENDING:
        complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now, node_told=True)
        return
    state = transitions.TASK.after(task.state, happened)
    task_rows.move(
        tx, task, state=state, ready=1, state_time=now, previous_state=task.state, previous_time=task.state_time, ended=None, **changes
    )
    tx.count(task.job_pk, ready=1, active=1, running=-1, active_slots=task.slots, running_slots=-task.slots)
    tx.log(now, "task", task.pk, happened, old=task.state, new=state)
    tx.wake(wakes.pool(job.pool_key))


def complete(
    tx: Tx,
    job: JobRow,
    task: TaskRow,
    happened: TaskHappened,
    failure: TaskFailureInformation | None,
    now: int,
    *,
    exit_code: int | None = None,
    satisfies: bool = False,
    node_told: bool = False,
    modified: int | None = None,
) -> None:
    """Complete a task; `node_told` says that the node reported it and is freed by the caller."""
    state = transitions.TASK.after(task.state, happened)
    result = TaskResult.SUCCESS if failure is None else TaskResult.FAILURE
    task_rows.move(
        tx, task, state=state, ready=0, state_time=now, previous_state=task.state, previous_time=task.state_time, ended=now,
        exit_code=exit_code, result=result, failure=None if failure is None else msgspec.json.encode(failure), satisfied=int(satisfies),
        modified=task.modified if modified is None else modified,
    )  # fmt: skip
    was = "active" if task.state == TaskState.ACTIVE else "running"
    grew = "succeeded" if failure is None else "failed"
    slots = {was + "_slots": -task.slots, "completed_slots": task.slots, grew + "_slots": task.slots}
    tx.count(task.job_pk, ready=-task.ready, **{was: -1, "completed": 1, grew: 1}, **slots)
    tx.log(now, "task", task.pk, happened, old=task.state, new=state, cause=None if failure is None else failure.code)
    if not node_told and task.state in _RAN and task.node_pk is not None:
        give_back(tx, task.node_pk, slots=task.slots, tasks=1, now=now, run=1)
    if satisfies and job.uses_dependencies:
        tx.count(job.pk, ready=task_rows.release_dependants(tx, task))
    if job.ends_when_complete:
        end_when_complete(tx, job.pk, now)
    tx.wake(wakes.pool(job.pool_key))


def give_back(tx: Tx, node_pk: int, *, slots: int, tasks: int, now: int, run: int = 0, succeeded: int = 0) -> None:
    """Free what ended tasks held on a node; the node is told to end what it still runs."""
    node = node_rows.occupy(tx, node_pk, slots=-slots, tasks=-tasks, run=run, succeeded=succeeded)
    if node is None:
        return
    if node.tasks_running == 0 and node.state == NodeState.RUNNING:
        happened = NodeHappened.TASKS_ENDED if node.scheduling_state == SchedulingState.ENABLED else NodeHappened.WENT_OFFLINE
        state = transitions.NODE.after(node.state, happened)
        node_rows.move(tx, node, state=state, state_time=now)
        tx.log(now, "node", node_pk, happened, old=node.state, new=state)
    tx.wake(wakes.node(node_pk))


def lose(tx: Tx, node: NodeRow, now: int) -> int:
    """Take back every task of a node whose agent is gone; they run again elsewhere without touching their counters."""

    return _clear(tx, node, now, lambda job, task: _lost(tx, job, task, now))


def _lost(tx: Tx, job: JobRow, task: TaskRow, now: int) -> None:
    """Nobody knows how the run ended: it is made again, a bounded number of times."""
    if task.losses >= INTERNAL_RETRIES:
        complete(tx, job, task, TaskHappened.TERMINATED, _LOST_TOO_OFTEN, now, node_told=True)
    else:
        requeue(tx, job, task, TaskHappened.NODE_LOST, now, losses=task.losses + 1)


def vacate(tx: Tx, node: NodeRow, now: int, *, terminate: bool) -> int:
    """Take every task off a node that shall stop: terminated ones fail with TaskEnded, others wait again, counted (contract 2.2)."""

    def take_off(job: JobRow, task: TaskRow) -> None:
        if terminate:
            complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now, node_told=True)
        else:
            requeue(tx, job, task, TaskHappened.REQUEUED, now, requeues=task.requeues + 1, last_requeue=now)

    return _clear(tx, node, now, take_off)


def _clear(tx: Tx, node: NodeRow, now: int, take: Callable[[JobRow, TaskRow], None]) -> int:
    """Do something final to every task of a node and free its slots; how many tasks those were."""
    tasks = task_rows.on_node(tx, node.pk)
    for task in tasks:
        job = job_rows.get(tx, task.job_pk)
        take(job, task)
    if tasks:
        give_back(tx, node.pk, slots=sum(task.slots for task in tasks), tasks=len(tasks), now=now)
    return len(tasks)
