"""Why is it not running? Answers for a task, a job, a pool or a node, from the facts that the scheduler itself decides on."""

from __future__ import annotations

from batchyard.engine import lookup
from batchyard.engine.explain import facts
from batchyard.engine.schedules import schedules
from batchyard.model import ids
from batchyard.model.errors import BatchError
from batchyard.model.explain import Code, Explanation, ReasonGroup
from batchyard.model.states import TaskState
from batchyard.rules import explain as rules
from batchyard.rules import schedule_reasons as rules_of_schedules
from batchyard.rules import supply
from batchyard.rules.facts import MOST_JOBS
from batchyard.store import explain as rows
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import ready as ready_tasks
from batchyard.store import tasks as task_rows
from batchyard.store.explain import WaitingJob
from batchyard.store.jobs import JobRow
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader

LOOKED_AT = 50
"""Ready tasks, and as many blocked ones, that a job's summary looks at."""
_JOBS_OF_POOL = 10
_ERRORS = 5
"""Errors of a node that are told."""


def task(reader: Reader, job_id: str, task_id: str, now: int) -> Explanation:
    """Why a task does not run. Raises JobNotFound, TaskNotFound."""
    job = lookup.job(reader, job_id)
    row = task_rows.find(reader, job.pk, task_id)
    if row is None:
        raise BatchError("TaskNotFound")
    key = ids.key(row.id)
    reasons = rules.Why(facts.snapshot(reader, job, [key], now)).task(key)
    return Explanation(kind="task", id=row.id, state=row.state, reasons=reasons, job_id=job.id, pool_id=job.pool_key)


def job(reader: Reader, job_id: str, now: int) -> Explanation:
    """Why a job, or what of it, does not run. Raises JobNotFound."""
    row = lookup.job(reader, job_id)
    keys = _first_waiting(reader, row, LOOKED_AT)
    snapshot = facts.snapshot(reader, row, keys, now)
    reasons, groups = rules.Why(snapshot).job(keys)
    return Explanation(
        kind="job",
        id=row.id,
        state=row.state,
        reasons=reasons,
        pool_id=row.pool_key,
        groups=groups,
        looked_at=len(keys),
        waiting=snapshot.job.active,
        running=snapshot.job.running,
    )


def schedule(reader: Reader, schedule_id: str, now: int, quota: int | None) -> Explanation:
    """Why a job schedule makes no job now, or why its job does not run. Raises JobScheduleNotFound."""
    row = schedules.find(reader, schedule_id)
    found = facts.schedule(reader, row, now, quota)
    because = [] if found.job_id is None else job(reader, found.job_id, now).reasons
    return Explanation(kind="schedule", id=row.id, state=row.state, reasons=rules_of_schedules.why(found, because), job_id=found.job_id)


def pool(reader: Reader, pool_id: str, now: int) -> Explanation:
    """Why a pool has not the nodes that it asks for, or has idle ones while tasks wait. Raises PoolNotFound."""
    found = pool_rows.find(reader, pool_id)
    if found is None:
        raise BatchError("PoolNotFound")
    waiting, groups, looked_at = _waiting_for(reader, found, now)
    reasons = rules.pool(facts.pool(reader, found, None, now), groups, sum(one.active for one in waiting))
    return Explanation(
        kind="pool",
        id=found.id,
        state=found.state,
        reasons=reasons,
        groups=groups,
        looked_at=looked_at,
        waiting=sum(one.active for one in waiting),
        running=sum(one.running for one in waiting),
    )


def node(reader: Reader, pool_id: str, node_id: str, now: int) -> Explanation:
    """Why a node takes no tasks, and what those that wait for its pool wait for. Raises PoolNotFound, NodeNotFound."""
    found = pool_rows.find(reader, pool_id)
    if found is None:
        raise BatchError("PoolNotFound")
    row = node_rows.view(reader, found.pk, node_id)
    if row is None:
        raise BatchError("NodeNotFound")
    errors = facts.problems(row.errors, _ERRORS) if row.errors is not None else ""
    waiting, groups, looked_at = _waiting_for(reader, found, now)
    return Explanation(
        kind="node",
        id=row.id,
        state=row.state,
        reasons=supply.node(facts.node(found, row, now), facts.named(row), errors),
        pool_id=found.id,
        groups=groups,
        looked_at=looked_at,
        waiting=sum(one.active for one in waiting),
        running=row.tasks_running,
    )


def _waiting_for(reader: Reader, found: PoolView, now: int) -> tuple[list[WaitingJob], list[ReasonGroup], int]:
    """Jobs with tasks that wait for a pool, what the first tasks of the first jobs wait for, and how many of these were looked at."""
    waiting = rows.waiting_jobs(reader, found.id.lower(), MOST_JOBS)
    groups: dict[Code, ReasonGroup] = {}
    looked_at = 0
    for one in waiting[:_JOBS_OF_POOL]:
        row = job_rows.get(reader, one.pk)
        keys = _first_waiting(reader, row, 1)
        looked_at += len(keys)
        for group in rules.Why(facts.snapshot(reader, row, keys, now)).job(keys)[1]:
            known = groups.setdefault(group.code, group)
            if known is not group:
                known.tasks += group.tasks
    return waiting, list(groups.values()), looked_at


def _first_waiting(reader: Reader, job: JobRow, n: int) -> list[str]:
    """Keys of the first `n` ready and the first `n` blocked tasks of a job."""
    ready = [task.pk for task in ready_tasks.first(reader, job.pk, facts.ANY_SLOTS, n)]
    found = (task_rows.get(reader, pk) for pk in [*ready, *rows.blocked(reader, job.pk, n)[:n]])
    return [ids.key(row.id) for row in found if row is not None and row.state == TaskState.ACTIVE]
