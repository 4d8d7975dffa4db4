"""Job preparation and job release tasks: once per node, before the job's first task there and when the job ends (contract 3.6).

What they have in common with start tasks is in `special_runs`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.instances import change_instance
from batchyard.engine.changes.tasks import change_task
from batchyard.engine.settling import start_tasks
from batchyard.engine.settling.moves import give_back, requeue
from batchyard.engine.settling.special_runs import INTERNAL_RETRIES, begin_anew, complete, current, put_off, run_again, settle
from batchyard.model import times
from batchyard.model.job import JobCreateContent, JobPreparationTask, JobReleaseTask
from batchyard.model.states import ErrorCategory, SpecialTaskState
from batchyard.model.sync import Ended, Outcome
from batchyard.model.task import TaskConstraints, TaskCreateContent, TaskFailureInformation
from batchyard.rules import outcomes
from batchyard.rules.attempts import Run
from batchyard.rules.transitions import SubtaskHappened, TaskHappened
from batchyard.store import instances as instance_rows
from batchyard.store import jobs as job_rows
from batchyard.store import leftovers
from batchyard.store import nodes as node_rows
from batchyard.store import special_tasks as rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.reader import Reader
from batchyard.store.special_tasks import PREPARATION, RELEASE, START, SpecialTaskRow
from batchyard.store.tx import Tx

RELEASE_PATIENCE_US = 16 * 60 * 1_000_000
"""After this a release task counts as failed: its own 15 minutes, and one for the node to say so."""
_GIVEN_UP = TaskFailureInformation(
    category=ErrorCategory.SERVER_ERROR, code="TaskEnded", message="The node did not report the end of the task in time"
)
_JOB_ENDED = TaskFailureInformation(category=ErrorCategory.USER_ERROR, code="TaskEnded", message="The job ended before the task did")
_job_body = msgspec.json.Decoder(JobCreateContent)


def _preparation(job: JobRow) -> JobPreparationTask:
    spec = _job_body.decode(job.body).job_preparation_task
    assert spec is not None, f"job {job.id} has no preparation task"
    return spec


def enter(tx: Tx, job_pk: int, node: NodeRow, pool_id: str, now: int) -> TaskHappened:
    """What happens to a task of the job on a node: assigned until the preparation task has succeeded there, else it starts."""
    job = job_rows.get(tx, job_pk)
    waits = _preparation(job).wait_for_success is not False
    row = rows.find(tx, job_pk, PREPARATION, node.pk)
    if row is None:
        pk = rows.add(tx, job_pk=job_pk, node_pk=node.pk, kind=PREPARATION, node_id=node.id, pool_id=pool_id, started=now)
        tx.log(now, PREPARATION, pk, "started", new=SpecialTaskState.RUNNING, cause=f"node {node.pk}")
    elif row.stale:
        begin_anew(tx, row, now)
    done = row is not None and not row.stale and row.state == SpecialTaskState.COMPLETED
    return TaskHappened.ASSIGNED if waits and not done else TaskHappened.STARTED


def closed(tx: Reader, job_pk: int) -> frozenset[int]:
    """Nodes that the job cannot use: its preparation task failed there, and its tasks wait for a success."""
    nodes = rows.closed_nodes(tx, job_pk)
    if not nodes or _preparation(job_rows.get(tx, job_pk)).wait_for_success is False:
        return frozenset()
    return frozenset(nodes)


def order_body(job_body: bytes, kind: str) -> bytes:
    """A special task in the form in which nodes are told of tasks."""
    job = _job_body.decode(job_body)
    spec: JobPreparationTask | JobReleaseTask | None = job.job_preparation_task if kind == PREPARATION else job.job_release_task
    assert spec is not None, f"job {job.id} has no {kind} task"
    if isinstance(spec, JobPreparationTask):
        constraints = spec.constraints
    else:
        constraints = TaskConstraints(max_wall_clock_time=spec.max_wall_clock_time, retention_time=spec.retention_time)
    return msgspec.json.encode(
        TaskCreateContent(
            id=spec.id or "",
            command_line=spec.command_line,
            resource_files=spec.resource_files,
            environment_settings=spec.environment_settings,
            user_identity=spec.user_identity,
            container_settings=spec.container_settings,
            constraints=constraints,
        )
    )


def report(tx: Tx, node: NodeRow, named: Run, ended: Ended, now: int) -> None:
    """Record how a special task ended on a node; a repeated or late report changes nothing."""
    row = current(tx, node, named)
    if row is None:
        return
    if ended.outcome is Outcome.UNKNOWN and row.losses < INTERNAL_RETRIES:
        run_again(tx, row, now)
        return
    if outcomes.is_interrupted(exit_code=ended.exit_code, stopped=ended.stopped):
        _interrupted(tx, node, row, now)
        return
    if row.kind == START:
        start_tasks.report(tx, node, row, ended, now)
        return
    job = job_rows.get(tx, row.job_pk)
    if row.kind == RELEASE:
        complete(tx, row, ended.failure, ended.exit_code, now)
        tx.wake(wakes.UPKEEP)
        return
    spec = _preparation(job)
    limits = spec.constraints or TaskConstraints()
    if settle(tx, row, ended, limits.max_task_retry_count or 0, now) and spec.wait_for_success is not False:
        _let_tasks_go(tx, job, node, TaskHappened.PREPARED if ended.failure is None else TaskHappened.PREPARATION_FAILED, now)


def _interrupted(tx: Tx, node: NodeRow, row: SpecialTaskRow, now: int) -> None:
    """The service stopped the run: that is no failure, and what waited for it on the node waits elsewhere (contract 3.4, 3.6)."""
    tx.log(now, row.kind, row.pk, TaskHappened.NODE_LOST, old=row.state)
    if row.kind == PREPARATION:
        _forget(tx, row)
        _let_tasks_go(tx, job_rows.get(tx, row.job_pk), node, TaskHappened.NODE_LOST, now)
    else:
        put_off(tx, row)


def _let_tasks_go(tx: Tx, job: JobRow, node: NodeRow, happened: TaskHappened, now: int) -> None:
    """The tasks that waited on the node run when it is prepared, else they wait again for another node, or others."""
    tasks = task_rows.preparing(tx, node.pk, job.pk)
    succeeded = happened is TaskHappened.PREPARED
    cause = "JobPreparationTaskFailed" if happened is TaskHappened.PREPARATION_FAILED else None
    instances = instance_rows.preparing(tx, node.pk, job.pk)
    if succeeded:
        for row in instances:
            change_instance(tx, row, SubtaskHappened.PREPARED, now, started=now)
    else:
        _let_gangs_go(tx, job, [row.task_pk for row in instances if row.number], happened, cause, now)
    for task in tasks:
        if succeeded:
            change_task(tx, task, TaskHappened.PREPARED, now, started=now)
        else:
            requeue(tx, job, task, happened, now, cause=cause)
    if tasks and not succeeded:
        give_back(tx, node.pk, slots=sum(task.held for task in tasks), tasks=len(tasks), now=now)
    tx.wake(wakes.node(node.pk))
    tx.wake(wakes.pool(job.pool_key))


def _let_gangs_go(tx: Tx, job: JobRow, task_pks: Sequence[int], happened: TaskHappened, cause: str | None, now: int) -> None:
    """Multi-instance tasks of which an instance beside the primary cannot begin on its node wait again as a whole."""
    for task in task_rows.some(tx, task_pks).values():
        requeue(tx, job, task, happened, now, cause=cause)
        give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=now)


def rebooted(tx: Tx, node: NodeRow) -> None:
    """Preparations that succeeded are made again before the next task of their job, unless their job says no (contract 3.6)."""
    for row in rows.prepared(tx, node.pk):
        if _preparation(job_rows.get(tx, row.job_pk)).rerun_on_node_reboot_after_success is not False:
            rows.move(tx, row, stale=1)


def emptied(tx: Tx, node: NodeRow, now: int) -> None:
    """All that the node kept is gone: preparations are made again whatever came of them, and none is released (contract 3.6)."""
    rows.delete_preparations(tx, node.pk)
    for row in rows.running(tx, node.pk):
        if row.kind == RELEASE:
            complete(tx, row, _GIVEN_UP, None, now)
            tx.wake(wakes.UPKEEP)


def lose(tx: Tx, node: NodeRow, now: int) -> None:
    """The node's agent is gone: a preparation that ran is forgotten; start and release tasks run again when the node is back."""
    for row in rows.running(tx, node.pk):
        if row.kind == PREPARATION:
            _forget(tx, row)
        else:
            put_off(tx, row)
        tx.log(now, row.kind, row.pk, TaskHappened.NODE_LOST, old=row.state)


def _forget(tx: Tx, row: SpecialTaskRow) -> None:
    """The next task of the job has the node prepared from the beginning; what the preparation left there goes with the job."""
    leftovers.add(tx, job_pk=row.job_pk, task_pk=leftovers.SPECIAL, node_pk=row.node_pk)
    rows.delete(tx, row.pk)


def leave(tx: Tx, node_pk: int, now: int) -> None:
    """The node is gone for good: what it still had to run has failed."""
    for row in rows.running(tx, node_pk):
        complete(tx, row, _GIVEN_UP, None, now)
        tx.wake(wakes.UPKEEP)


def release(tx: Tx, job: JobRow, now: int) -> bool:
    """End what still prepares, and have every prepared node run the release task, once; True while some still does."""
    if job.preparation_id is None:
        return False
    preparations = rows.of_job(tx, job.pk, PREPARATION)
    for prepared in preparations:
        if prepared.state == SpecialTaskState.RUNNING:
            complete(tx, prepared, _JOB_ENDED, None, now)
            tx.wake(wakes.node(prepared.node_pk))
    if job.release_id is None or job.forced:
        return False
    done = {row.node_pk: row for row in rows.of_job(tx, job.pk, RELEASE)}
    waiting = False
    for prepared in preparations:
        row = done.get(prepared.node_pk)
        if row is None:
            waiting |= _begin_release(tx, job, prepared, now)
        elif row.state == SpecialTaskState.RUNNING:
            if now >= row.started + RELEASE_PATIENCE_US:
                complete(tx, row, _GIVEN_UP, None, now)
            else:
                waiting = True
    return waiting


def retain(tx: Tx, job: JobRow, now: int) -> None:
    """The job is completed: its directories on nodes go as `retentionTime` says, which no task of the job needs any more (contract 3.6)."""
    sent = _job_body.decode(job.body)
    preparation, after = sent.job_preparation_task, sent.job_release_task
    if preparation is not None:
        _retain(tx, job, PREPARATION, (preparation.constraints or TaskConstraints()).retention_time, now)
    if after is not None:
        _retain(tx, job, RELEASE, after.retention_time, now)


def _retain(tx: Tx, job: JobRow, kind: str, said: str | None, now: int) -> None:
    retention = times.duration(said) if said else None
    if retention is None:  # for ever
        return
    for row in rows.of_job(tx, job.pk, kind):
        if row.ended is not None:
            rows.move(tx, row, expires=max(row.ended + retention, now))


def _begin_release(tx: Tx, job: JobRow, prepared: SpecialTaskRow, now: int) -> bool:
    """True when the node still exists and was told."""
    if node_rows.get(tx, prepared.node_pk) is None:
        return False
    pk = rows.add(
        tx, job_pk=job.pk, node_pk=prepared.node_pk, kind=RELEASE, node_id=prepared.node_id, pool_id=prepared.pool_id, started=now
    )
    tx.log(now, RELEASE, pk, "started", new=SpecialTaskState.RUNNING, cause=f"node {prepared.node_pk}")
    tx.wake(wakes.node(prepared.node_pk))
    return True
