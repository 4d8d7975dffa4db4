"""Completion of tasks, and what follows: dependants, the job manager's job, a job that ends with its last task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from batchyard.engine.changes.tasks import TaskChange, change_tasks
from batchyard.engine.settling.job_ends import end_job, end_when_complete
from batchyard.engine.settling.moves import RAN, disband, give_back, stir
from batchyard.model.states import ErrorCategory, TaskResult
from batchyard.model.task import TaskFailureInformation
from batchyard.rules import transitions
from batchyard.rules.transitions import TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

_NOTHING: Mapping[str, int] = MappingProxyType({})


class Completion(msgspec.Struct, frozen=True):
    """How a task completes."""

    happened: TaskHappened
    failure: TaskFailureInformation | None = None
    exit_code: int | None = None
    satisfies: bool = False
    """True when tasks that depend on it may start."""
    used: Mapping[str, int] = _NOTHING
    """What its last run cost, in microseconds."""

    @property
    def cause(self) -> str | None:
        """Code of the failure."""
        return None if self.failure is None else self.failure.code

    @property
    def result(self) -> TaskResult:
        """A task without a failure has succeeded."""
        return TaskResult.SUCCESS if self.failure is None else TaskResult.FAILURE


ENDED_BY_USER = Completion(
    TaskHappened.TERMINATED,
    TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="TaskEnded", message="Task Was Ended by User Request"),
)


def terminate(tx: Tx, job: JobRow, task: TaskRow, how: Completion, now: int, modified: int | None = None) -> TaskRow:
    """Complete a task that nobody reported, and free what it held on its node, which is told to end it."""
    fresh = complete(tx, job, [(task, how)], now, modified)[0]
    if task.state in RAN and task.node_pk is not None:
        give_back(tx, task.node_pk, slots=task.held, tasks=1, now=now, run=1)
    return fresh


def complete(tx: Tx, job: JobRow, ends: Sequence[tuple[TaskRow, Completion]], now: int, modified: int | None = None) -> list[TaskRow]:
    """Complete tasks of a job, whose nodes the caller frees; as they are then.

    Of two tasks with one number, which ranges of ids wait for, each completes by itself: or each would take the other for the first.
    """
    fresh = change_tasks(tx, [_change(task, how, now, task.modified if modified is None else modified) for task, how in ends], now)
    for task, _ in ends:
        disband(tx, task, now)
    if job.uses_dependencies:
        released = [slots for task in fresh if task.satisfied for slots in task_rows.release_dependants(tx, task)]
        tx.count(job.pk, ready=len(released), ready_slots=sum(released))
    if job.ends_with_manager and any(task.manager for task in fresh):
        _end_with_manager(tx, job.pk, now)
    if job.ends_when_complete:
        end_when_complete(tx, job_rows.get(tx, job.pk), now)
    stir(tx, job)
    return fresh


def _change(task: TaskRow, how: Completion, now: int, modified: int) -> TaskChange:
    columns = {
        "ended": now,
        "exit_code": how.exit_code,
        "result": how.result,
        "failure": None if how.failure is None else msgspec.json.encode(how.failure),
        "satisfied": int(how.satisfies),
        "modified": modified,
        "expires": None if not task.run or task.retention is None else now + task.retention,
    }
    return TaskChange(task, how.happened, columns, how.cause, how.used)


def _end_with_manager(tx: Tx, job_pk: int, now: int) -> None:
    """The job manager's completion, whatever its result, ends its job (contract 3.5)."""
    job = job_rows.get(tx, job_pk)
    if transitions.JOB.allows(job.state, transitions.JobHappened.TERMINATE_REQUESTED):
        end_job(tx, job, "JMComplete", now)
