"""What follows when a run of a task ends: retry or completion, and what its node gets back.

A report is believed only for the run that the task is in now; a repeated or late one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from batchyard.engine.settling import special_tasks
from batchyard.engine.settling.completions import ENDED_BY_USER, Completion, complete
from batchyard.engine.settling.job_ends import disable_job, end_job
from batchyard.engine.settling.moves import RAN, give_back, requeue
from batchyard.engine.settling.special_runs import INTERNAL_RETRIES
from batchyard.model.states import ErrorCategory, JobState, TaskResult, TaskState
from batchyard.model.sync import Ended, Outcome
from batchyard.model.task import ExitConditions, TaskFailureInformation
from batchyard.model.words import DisableJobOption, JobAction
from batchyard.rules import attempts, outcomes, transitions
from batchyard.rules.attempts import Run
from batchyard.rules.outcomes import Verdict
from batchyard.rules.transitions import TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

_LOST_TOO_OFTEN = Completion(
    TaskHappened.TERMINATED,
    TaskFailureInformation(
        category=ErrorCategory.SERVER_ERROR,
        code="MaxInternalRetryCountReached",
        message=f"The task was lost with its node {INTERNAL_RETRIES} times",
    ),
)
_failure = msgspec.json.Decoder(TaskFailureInformation)
_conditions = msgspec.json.Decoder(ExitConditions)
_ENDING = (JobState.TERMINATING, JobState.COMPLETED, JobState.DELETING)


def report(tx: Tx, node: NodeRow, ends: Sequence[Ended], now: int) -> None:
    """Record how attempts on a node ended, but for instances of multi-instance tasks, of which `gangs` knows."""
    heard = _Report(tx, node, now)
    named = [(run, ended) for ended in ends if (run := attempts.parse(ended.attempt)) is not None]
    heard.take([(run, ended) for run, ended in named if run.number is None])
    heard.settle()
    if heard.tasks:
        give_back(tx, node.pk, slots=heard.slots, tasks=heard.tasks, now=now, run=heard.tasks, succeeded=heard.succeeded)


class _Report:
    """One report: what it tells is taken in its order, but for plain completions, which are written together where nothing is between."""

    def __init__(self, tx: Tx, node: NodeRow, now: int) -> None:
        self._tx, self._node, self._now = tx, node, now
        self._tasks: dict[int, TaskRow] = {}
        """Those that were read and not heard of yet."""
        self._jobs: dict[int, JobRow] = {}
        self._plain: dict[int, list[tuple[TaskRow, Completion]]] = {}
        """By job what is not written yet."""
        self.slots = self.tasks = self.succeeded = 0
        """What the node gets back."""

    def take(self, ends: Sequence[tuple[Run, Ended]]) -> None:
        """Take in what it tells."""
        self._tasks = task_rows.some(self._tx, [run.pk for run, _ in ends if not run.special])
        for run, ended in ends:
            if run.special:
                self.settle()
                special_tasks.report(self._tx, self._node, run, ended, self._now)
                self._tasks.clear()  # it may have moved those that waited for it
                continue
            task = self._in_run(run)
            if task is None or task.state not in RAN:
                _note_exit(self._tx, task, ended)
                continue
            self.slots, self.tasks = self.slots + task.held, self.tasks + 1
            self._end(task, ended)

    def _in_run(self, named: Run) -> TaskRow | None:
        """Task whose present or last run this is, on this node, else None."""
        task = self._tasks.pop(named.pk, None)
        if task is None:  # told twice, or something else changed tasks meanwhile
            self.settle()
            task = task_rows.get(self._tx, named.pk)
        return task if task is not None and task.run == named.run and task.node_pk == self._node.pk else None

    def _job(self, pk: int) -> JobRow:
        return self._jobs.get(pk) or self._jobs.setdefault(pk, job_rows.get(self._tx, pk))

    def _end(self, task: TaskRow, ended: Ended) -> None:
        """Write what an ended attempt means for its task, or keep it to be written."""
        job = self._job(task.job_pk)
        if ended.outcome is Outcome.UNKNOWN:
            lost(self._tx, job, task, self._now)
            return
        verdict = verdict_of(task, ended)
        used = used_by(ended)
        if verdict.happened is not TaskHappened.ENDED:
            wait_again(self._tx, job, task, verdict.happened, ended, used, self._now)
            return
        self.succeeded += verdict.result == TaskResult.SUCCESS
        how = Completion(verdict.happened, ended.failure, ended.exit_code, verdict.satisfies, used)
        if not (task.manager or job.acts_on_failure):
            self._keep(task, how)
            return
        self.settle()
        complete(self._tx, job, [(task, how)], self._now)
        if verdict.job_action is not JobAction.NONE and job.acts_on_failure:
            act(self._tx, job, verdict.job_action, self._now)
        self._jobs.pop(job.pk, None)  # it may be ending now, and is forgotten already where that was written of others

    def _keep(self, task: TaskRow, how: Completion) -> None:
        plain = self._plain.get(task.job_pk, [])
        if task.number is not None and any(other.number == task.number for other, _ in plain):
            self.settle()
        self._plain.setdefault(task.job_pk, []).append((task, how))

    def settle(self) -> None:
        """Write what was kept."""
        for job_pk, ends in self._plain.items():
            job = self._job(job_pk)
            complete(self._tx, job, ends, self._now)
            if job.ends_when_complete:
                del self._jobs[job_pk]  # it may be ending now
        self._plain.clear()


def _note_exit(tx: Tx, task: TaskRow | None, ended: Ended) -> None:
    """A task that was terminated while it ran keeps the exit code of the process that was ended for it (contract 3.3)."""
    if task is None or task.state != TaskState.COMPLETED or task.exit_code is not None or ended.exit_code is None:
        return
    if task.failure is None or _failure.decode(task.failure).code != ENDED_BY_USER.cause:
        return
    used = used_by(ended)
    tx.count(task.job_pk, **used)
    task_rows.move(tx, task, exit_code=ended.exit_code, **{name: getattr(task, name) + us for name, us in used.items()})


def verdict_of(task: TaskRow, ended: Ended) -> Verdict:
    """What an end means for its task."""
    return outcomes.after_end(
        exit_code=ended.exit_code,
        stage=ended.stage,
        failed=ended.failure is not None,
        retryable=ended.outcome is Outcome.BAD_EXIT,
        retries=task.retries,
        max_retries=task.max_retries,
        conditions=_conditions.decode(task.conditions) if task.conditions else None,
        stopped=ended.stopped,
    )


def wait_again(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, ended: Ended, used: Mapping[str, int], now: int) -> None:
    """Put a task whose run was not its last among those that wait; only a retry counts as one."""
    spent = {name: getattr(task, name) + us for name, us in used.items()}
    if happened is TaskHappened.RETRY_DUE:
        spent |= {"retries": task.retries + 1, "last_retry": now, "exit_code": ended.exit_code}
    tx.count(job.pk, retries=int(happened is TaskHappened.RETRY_DUE), **used)
    put_back(tx, job, task, happened, now, **spent)


def used_by(ended: Ended) -> dict[str, int]:
    """What a run cost, in microseconds."""
    wall = ended.ended - ended.started if ended.started is not None else 0
    return {"user_us": ended.user_cpu_us, "kernel_us": ended.kernel_cpu_us, "wall_us": max(wall, 0)}


def act(tx: Tx, job: JobRow, action: JobAction, now: int) -> None:
    """Do to the job what an exit condition says."""
    fresh = job_rows.get(tx, job.pk)
    if action is JobAction.TERMINATE and transitions.JOB.allows(fresh.state, transitions.JobHappened.TERMINATE_REQUESTED):
        end_job(tx, fresh, "TaskFailed", now)
    if action is JobAction.DISABLE and transitions.JOB.allows(fresh.state, transitions.JobHappened.DISABLE_REQUESTED):
        disable_job(tx, fresh, DisableJobOption.REQUEUE, now)


def put_back(tx: Tx, job: JobRow, task: TaskRow, happened: TaskHappened, now: int, **changes: Any) -> None:
    """Put a task that ran back among those that wait; the caller frees its node. One of a job that is ending ends with it."""
    if job.state in _ENDING:
        complete(tx, job, [(task, ENDED_BY_USER)], now)
    else:
        requeue(tx, job, task, happened, now, **changes)


def lose(tx: Tx, node: NodeRow, now: int, *, blame: bool = True, unwatched: bool = False) -> NodeRow:
    """Take back every task of a node whose agent is gone; they run again elsewhere without touching their counters. The node then.

    `blame` counts it towards the losses that a task may have: it may have been the task that brought the node down.
    `unwatched` says that they may have run to an end that nobody saw: then it shows as a requeue that they run twice.
    """
    special_tasks.lose(tx, node, now)
    return _clear(tx, node, now, lambda job, task: lost(tx, job, task, now, blame=blame, unwatched=unwatched))


def lost(tx: Tx, job: JobRow, task: TaskRow, now: int, *, blame: bool = True, unwatched: bool = False) -> None:
    """Nobody knows how the run ended: it is made again, a bounded number of times."""
    counted = {"requeues": task.requeues + 1, "last_requeue": now} if unwatched and task.state == TaskState.RUNNING else {}
    if task.losses >= INTERNAL_RETRIES:
        complete(tx, job, [(task, _LOST_TOO_OFTEN)], now)
    else:
        put_back(tx, job, task, TaskHappened.NODE_LOST, now, losses=task.losses + blame, **counted)


def vacate(tx: Tx, node: NodeRow, now: int, *, terminate: bool) -> NodeRow:
    """Take every task off a node that shall stop: terminated ones fail with TaskEnded, others wait again, counted (contract 2.2).

    The node then.
    """

    def take_off(job: JobRow, task: TaskRow) -> None:
        if terminate:
            complete(tx, job, [(task, ENDED_BY_USER)], now)
        else:
            put_back(tx, job, task, TaskHappened.REQUEUED, now, requeues=task.requeues + 1, last_requeue=now)

    return _clear(tx, node, now, take_off, final=terminate)


def _clear(tx: Tx, node: NodeRow, now: int, take: Callable[[JobRow, TaskRow], None], *, final: bool = False) -> NodeRow:
    """Take every task off a node and free its slots; the node then. `final` says that the tasks are completed by that."""
    gangs = task_rows.gangs_on_node(tx, node.pk)
    for task in gangs:  # which gives back what they have of this node too
        take(job_rows.get(tx, task.job_pk), task)
        give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=now, run=int(final))
    tasks = task_rows.on_node(tx, node.pk)
    for task in tasks:
        take(job_rows.get(tx, task.job_pk), task)
    if not tasks and not gangs:
        return node
    run = len(tasks) if final else 0
    fresh = give_back(tx, node.pk, slots=sum(task.held for task in tasks), tasks=len(tasks), now=now, run=run)
    assert fresh is not None, f"node {node.pk} vanished while tasks were taken off it"
    return fresh
