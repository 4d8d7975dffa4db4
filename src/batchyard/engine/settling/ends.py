"""What follows when a run of a task ends: retry or completion, then dependants, counters, node and job.

A report is believed only for the run that the task is in now; a repeated or late one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from batchyard.engine.changes.tasks import change_task
from batchyard.engine.settling import special_tasks
from batchyard.engine.settling.job_ends import disable_job, end_job, end_when_complete
from batchyard.engine.settling.moves import give_back, requeue, stir
from batchyard.engine.settling.special_runs import INTERNAL_RETRIES
from batchyard.model.states import ErrorCategory, JobState, TaskResult, TaskState
from batchyard.model.sync import Ended, Outcome
from batchyard.model.task import ExitConditions, TaskFailureInformation
from batchyard.model.words import DisableJobOption, JobAction
from batchyard.rules import attempts, outcomes, transitions
from batchyard.rules.attempts import Run
from batchyard.rules.transitions import TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

TASK_ENDED_BY_USER = TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="TaskEnded", message="Task Was Ended by User Request")
_LOST_TOO_OFTEN = TaskFailureInformation(
    category=ErrorCategory.SERVER_ERROR,
    code="MaxInternalRetryCountReached",
    message=f"The task was lost with its node {INTERNAL_RETRIES} times",
)
_failure = msgspec.json.Decoder(TaskFailureInformation)
_conditions = msgspec.json.Decoder(ExitConditions)
_ENDING = (JobState.TERMINATING, JobState.COMPLETED, JobState.DELETING)
NOTHING_USED: Mapping[str, int] = MappingProxyType({})
_RAN = (TaskState.PREPARING, TaskState.RUNNING)


def _in_run(tx: Tx, node: NodeRow, named: Run) -> TaskRow | None:
    """Task whose present or last run this is, on this node, else None."""
    task = task_rows.get(tx, named.pk)
    return task if task is not None and task.run == named.run and task.node_pk == node.pk else None


def report(tx: Tx, node: NodeRow, ends: Iterable[Ended], now: int) -> None:
    """Record how attempts on a node ended."""
    jobs: dict[int, JobRow] = {}
    slots = tasks = succeeded = 0
    for ended in ends:
        named = attempts.parse(ended.attempt)
        if named is None:
            continue
        if named.special:
            special_tasks.report(tx, node, named, ended, now)
            continue
        task = _in_run(tx, node, named)
        if task is None or task.state not in _RAN:
            _note_exit(tx, task, ended)
            continue
        job = jobs.get(task.job_pk) or jobs.setdefault(task.job_pk, job_rows.get(tx, task.job_pk))
        result = _settle(tx, job, task, ended, now)
        slots, tasks, succeeded = slots + task.held, tasks + 1, succeeded + (result == TaskResult.SUCCESS)
        if job.acts_on_failure or job.ends_when_complete or task.manager:
            del jobs[task.job_pk]  # it may be ending now
    if tasks:
        give_back(tx, node.pk, slots=slots, tasks=tasks, now=now, run=tasks, succeeded=succeeded)


def _note_exit(tx: Tx, task: TaskRow | None, ended: Ended) -> None:
    """A task that was terminated while it ran keeps the exit code of the process that was ended for it (contract 3.3)."""
    if task is None or task.state != TaskState.COMPLETED or task.exit_code is not None or ended.exit_code is None:
        return
    if task.failure is None or _failure.decode(task.failure).code != TASK_ENDED_BY_USER.code:
        return
    used = _used(task, ended)
    tx.count(task.job_pk, **used)
    task_rows.move(tx, task, exit_code=ended.exit_code, **{name: getattr(task, name) + us for name, us in used.items()})


def _settle(tx: Tx, job: JobRow, task: TaskRow, ended: Ended, now: int) -> TaskResult | None:
    """Write what an ended attempt means for its task; the result when it was the last one."""
    failure = ended.failure
    used = _used(task, ended)
    if ended.outcome is Outcome.UNKNOWN:
        _lost(tx, job, task, now)
        return None
    verdict = outcomes.after_end(
        exit_code=ended.exit_code,
        stage=ended.stage,
        failed=failure is not None,
        retryable=ended.outcome is Outcome.BAD_EXIT,
        retries=task.retries,
        max_retries=task.max_retries,
        conditions=_conditions.decode(task.conditions) if task.conditions else None,
        stopped=ended.stopped,
    )
    if verdict.happened is not TaskHappened.ENDED:
        _wait_again(tx, job, task, verdict.happened, ended, used, now)
        return None
    complete(
        tx,
        job,
        task,
        verdict.happened,
        failure,
        now,
        exit_code=ended.exit_code,
        satisfies=verdict.satisfies,
        node_told=True,
        used=used,
    )
    if verdict.job_action is not JobAction.NONE and job.acts_on_failure:
        _act(tx, job, verdict.job_action, now)
    return verdict.result


def _wait_again(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, ended: Ended, used: Mapping[str, int], now: int) -> None:
    """Put a task whose run was not its last among those that wait; only a retry counts as one."""
    spent = {name: getattr(task, name) + us for name, us in used.items()}
    if happened is TaskHappened.RETRY_DUE:
        spent |= {"retries": task.retries + 1, "last_retry": now, "exit_code": ended.exit_code}
    tx.count(job.pk, retries=int(happened is TaskHappened.RETRY_DUE), **used)
    put_back(tx, job, task, happened, now, **spent)


def _used(task: TaskRow, ended: Ended) -> dict[str, int]:
    """What a run cost, in microseconds."""
    wall = ended.ended - ended.started if ended.started is not None else 0
    return {"user_us": ended.user_cpu_us, "kernel_us": ended.kernel_cpu_us, "wall_us": max(wall, 0)}


def _act(tx: Tx, job: JobRow, action: JobAction, now: int) -> None:
    """Do to the job what an exit condition says."""
    fresh = job_rows.get(tx, job.pk)
    if action is JobAction.TERMINATE and transitions.JOB.allows(fresh.state, transitions.JobHappened.TERMINATE_REQUESTED):
        end_job(tx, fresh, "TaskFailed", now)
    if action is JobAction.DISABLE and transitions.JOB.allows(fresh.state, transitions.JobHappened.DISABLE_REQUESTED):
        disable_job(tx, fresh, DisableJobOption.REQUEUE, now)


def put_back(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, now: int, **changes: Any) -> None:
    """Put a task that ran back among those that wait; the caller frees its node. One of a job that is ending ends with it."""
    if job.state in _ENDING:
        complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now, node_told=True)
    else:
        requeue(tx, job, task, happened, now, **changes)


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
    used: Mapping[str, int] = NOTHING_USED,
) -> TaskRow:
    """Complete a task; `node_told` says that the node reported it and is freed by the caller."""
    fresh = change_task(
        tx,
        task,
        happened,
        now,
        cause=None if failure is None else failure.code,
        ended=now,
        exit_code=exit_code,
        result=TaskResult.SUCCESS if failure is None else TaskResult.FAILURE,
        failure=None if failure is None else msgspec.json.encode(failure),
        satisfied=int(satisfies),
        modified=task.modified if modified is None else modified,
        expires=None if not task.run or task.retention is None else now + task.retention,
        **{name: getattr(task, name) + us for name, us in used.items()},
    )
    tx.count(task.job_pk, **used)
    if not node_told and task.state in _RAN and task.node_pk is not None:
        give_back(tx, task.node_pk, slots=task.held, tasks=1, now=now, run=1)
    if satisfies and job.uses_dependencies:
        tx.count(job.pk, ready=task_rows.release_dependants(tx, fresh))
    if task.manager and job.ends_with_manager:
        _end_with_manager(tx, job.pk, now)
    if job.ends_when_complete:
        end_when_complete(tx, job_rows.get(tx, job.pk), now)
    stir(tx, job)
    return fresh


def _end_with_manager(tx: Tx, job_pk: int, now: int) -> None:
    """The job manager's completion, whatever its result, ends its job (contract 3.5)."""
    job = job_rows.get(tx, job_pk)
    if transitions.JOB.allows(job.state, transitions.JobHappened.TERMINATE_REQUESTED):
        end_job(tx, job, "JMComplete", now)


def lose(tx: Tx, node: NodeRow, now: int, *, blame: bool = True, unwatched: bool = False) -> NodeRow:
    """Take back every task of a node whose agent is gone; they run again elsewhere without touching their counters. The node then.

    `blame` counts it towards the losses that a task may have: it may have been the task that brought the node down.
    `unwatched` says that they may have run to an end that nobody saw: then it shows as a requeue that they run twice.
    """
    special_tasks.lose(tx, node, now)
    return _clear(tx, node, now, lambda job, task: _lost(tx, job, task, now, blame=blame, unwatched=unwatched))


def _lost(tx: Tx, job: JobRow, task: TaskRow, now: int, *, blame: bool = True, unwatched: bool = False) -> None:
    """Nobody knows how the run ended: it is made again, a bounded number of times."""
    counted = {"requeues": task.requeues + 1, "last_requeue": now} if unwatched and task.state == TaskState.RUNNING else {}
    if task.losses >= INTERNAL_RETRIES:
        complete(tx, job, task, TaskHappened.TERMINATED, _LOST_TOO_OFTEN, now, node_told=True)
    else:
        put_back(tx, job, task, TaskHappened.NODE_LOST, now, losses=task.losses + blame, **counted)


def vacate(tx: Tx, node: NodeRow, now: int, *, terminate: bool) -> NodeRow:
    """Take every task off a node that shall stop: terminated ones fail with TaskEnded, others wait again, counted (contract 2.2).

    The node then.
    """

    def take_off(job: JobRow, task: TaskRow) -> None:
        if terminate:
            complete(tx, job, task, TaskHappened.TERMINATED, TASK_ENDED_BY_USER, now, node_told=True)
        else:
            put_back(tx, job, task, TaskHappened.REQUEUED, now, requeues=task.requeues + 1, last_requeue=now)

    return _clear(tx, node, now, take_off, final=terminate)


def _clear(tx: Tx, node: NodeRow, now: int, take: Callable[[JobRow, TaskRow], None], *, final: bool = False) -> NodeRow:
    """Take every task off a node and free its slots; the node then. `final` says that the tasks are completed by that."""
    tasks = task_rows.on_node(tx, node.pk)
    if not tasks:
        return node
    for task in tasks:
        job = job_rows.get(tx, task.job_pk)
        take(job, task)
    run = len(tasks) if final else 0
    fresh = give_back(tx, node.pk, slots=sum(task.held for task in tasks), tasks=len(tasks), now=now, run=run)
    assert fresh is not None, f"node {node.pk} vanished while tasks were taken off it"
    return fresh
