"""Gathers the facts of explanations with bounded queries: what placement would read now, and the tasks that tasks wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from batchyard.engine import special_tasks
from batchyard.engine.resizing import KIND
from batchyard.model import ids
from batchyard.model.node import ComputeNodeError
from batchyard.model.pool import ResizeError
from batchyard.model.states import AllocationState, PoolState, TaskResult, TaskState
from batchyard.model.task import TaskCreateContent, TaskFailureInformation
from batchyard.rules.facts import MOST_AHEAD, MOST_JOBS, JobFacts, PoolFacts, Rival, Snapshot, TaskFacts, Wait
from batchyard.rules.placement import Queue, Room, Waiting
from batchyard.store import explain as rows
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store import tasks as task_rows
from batchyard.store.explain import WaitingJob
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import FreeNode
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tasks import TaskRow

ANY_SLOTS = 2**31 - 1
_MOST_EXPANDED = 200
"""Blocked tasks whose waits are followed."""
_MOST_PARENTS = 100
_MOST_MISSING = 10
_CHUNK, _CHUNKS = 1000, 10
Queues = tuple[list[Queue], frozenset[int], list[Rival], bool]
_failure = msgspec.json.Decoder(TaskFailureInformation)
_node_errors = msgspec.json.Decoder(list[ComputeNodeError])
_resize_errors = msgspec.json.Decoder(list[ResizeError])
_body = msgspec.json.Decoder(TaskCreateContent)


def snapshot(reader: Reader, row: JobRow, keys: Iterable[str]) -> Snapshot:
    """All that explains tasks of a job."""
    found = pool_rows.find(reader, row.pool_key)
    tasks = _with_parents(reader, row, keys)
    return Snapshot(job(reader, row, found), None if found is None else pool(reader, found, row), tasks)


def job(reader: Reader, row: JobRow, found: PoolView | None) -> JobFacts:
    """A job as explanations see it."""
    counts, prepares = job_rows.counts(reader, row.pk), row.preparation_id is not None
    closed = special_tasks.closed(reader, row.pk) if prepares else frozenset[int]()
    failed = rows.preparation_failure(reader, row.pk) if closed else None
    return JobFacts(
        pk=row.pk, id=row.id, state=row.state, since=row.state_time, pool_id=row.pool_key if found is None else found.id,
        priority=row.priority, limit=None if row.max_parallel < 0 else row.max_parallel, ready=counts.ready, active=counts.active,
        running=counts.running, completed=counts.completed, ended_by=row.terminate_reason,
        closed=closed, closed_working=rows.closed_working(reader, row.pk, found.pk) if closed and found is not None else 0,
        preparation_failure=None if failed is None else _how(*failed),
    )  # fmt: skip


def _how(exit_code: int | None, failure: bytes | None) -> str:
    """How a special task failed."""
    return f"exit code {exit_code}" if exit_code else _told(failure) or "no exit code"


def pool(reader: Reader, row: PoolView, asked: JobRow | None) -> PoolFacts:
    """A pool as placement would find it now; `asked` is the job that is asked about."""
    key = row.id.lower()
    free = node_rows.free(reader, key)
    queues, own, rivals, cut = _queues(reader, key, free, asked)
    start_failed, errors = rows.start_task_failure(reader, row.pk), rows.node_errors(reader, row.pk)
    return PoolFacts(
        id=row.id, since=row.allocation_time, deleting=row.state == PoolState.DELETING,
        resizing=row.allocation_state != AllocationState.STEADY, target=row.target_dedicated + row.target_low_priority,
        slots_per_node=row.slots_per_node, pack=bool(row.pack), failure=_resize_failure(row.resize_errors),
        groups=rows.node_groups(reader, row.pk), rooms=[Room(node.pk, node.free, node.slots, bool(node.dedicated)) for node in free],
        queues=queues, own=own, cut=cut, rivals=rivals, launch_failure=rows.launch_failure(reader, row.pk),
        start_task_failure=None if start_failed is None else _how(*start_failed),
        node_problem=None if errors is None else _node_errors.decode(errors)[0].message,
    )  # fmt: skip


def _resize_failure(text: bytes | None) -> str | None:
    errors = _resize_errors.decode(text) if text else []
    told = []
    for error in errors:
        details = [pair.value for pair in error.values or () if pair.value and pair.name != KIND]
        told.append(f"{error.code}: {error.message}" + "".join(f" ({detail})" for detail in details))
    return "; ".join(told) or None


def _queues(reader: Reader, pool_key: str, free: list[FreeNode], asked: JobRow | None) -> Queues:
    """The queues as the scheduler makes them, the asked job's tasks in them, whom it contends with, whether a queue is cut."""
    queues: list[Queue] = []
    cut = False
    rivals: list[Rival] = []
    own: frozenset[int] = frozenset()
    by_name = {node.id.lower(): node.pk for node in free}
    room = sum(node.free for node in free)
    for job in _contenders(reader, pool_key, asked):
        may_start = None if job.max_parallel < 0 else job.max_parallel - job.running
        if not job.ready or (may_start is not None and may_start <= 0):
            continue
        if asked is not None and job.pk != asked.pk and job.priority >= asked.priority:
            rivals.append(Rival(job.id, job.priority, job.ready))
        closed = special_tasks.closed(reader, job.pk) if job.prepares else frozenset[int]()
        largest = max((node.free for node in free if node.pk not in closed), default=0)
        most = min(room, MOST_AHEAD) if may_start is None else min(room, may_start, MOST_AHEAD)
        ready = task_rows.ready(reader, job.pk, largest, most) if room else []
        cut = cut or len(ready) == most < job.ready
        tasks = [
            Waiting(task.pk, task.slots, by_name.get(task.affinity or ""), bool(task.exclusive), bool(task.dedicated_only))
            for task in ready
        ]
        queues.append(Queue(job.priority, job.running, tasks, may_start, closed, bool(ready) and bool(ready[0].restarted)))
        if asked is not None and job.pk == asked.pk:
            own = frozenset(task.key for task in tasks)
    return queues, own, rivals, cut


def _contenders(reader: Reader, pool_key: str, asked: JobRow | None) -> list[WaitingJob]:
    """The first jobs that wait for the pool, and the one that is asked about wherever it stands."""
    jobs = rows.waiting_jobs(reader, pool_key, MOST_JOBS)
    if len(jobs) == MOST_JOBS and asked is not None and all(job.pk != asked.pk for job in jobs):
        counts = job_rows.counts(reader, asked.pk)
        prepares = int(asked.preparation_id is not None)
        jobs.append(
            WaitingJob(asked.pk, asked.id, asked.priority, asked.max_parallel, prepares, counts.running, counts.ready, counts.active)
        )  # fmt: skip
    return jobs


# tasks


def _with_parents(reader: Reader, job: JobRow, keys: Iterable[str]) -> dict[str, TaskFacts]:
    """Tasks by key, with those that they wait for, and so on, as far as the bounds go."""
    found: dict[str, TaskFacts] = {}
    due = deque(keys)
    first = [task.pk for task in task_rows.ready(reader, job.pk, ANY_SLOTS, MOST_AHEAD)]
    ahead = {pk: number for number, pk in enumerate(first)}
    expanded = 0
    while due:
        key = due.popleft()
        row = None if key in found else task_rows.find(reader, job.pk, key)
        if row is None:
            continue
        facts = found[key] = _task(reader, job, row, ahead.get(row.pk, MOST_AHEAD))
        if row.state == TaskState.ACTIVE and not row.ready and expanded < _MOST_EXPANDED:
            expanded += 1
            facts.waits = _waits(reader, job, row)
            for wait in facts.waits:
                due.extend([wait.task] if wait.task is not None else [one for _, one in wait.missing if one is not None])
    return found


def _task(reader: Reader, job: JobRow, row: TaskRow, ahead: int) -> TaskFacts:
    node = None if row.node_pk is None or row.state == TaskState.ACTIVE else node_rows.get(reader, row.node_pk)
    since = row.state_time
    if node is not None and row.state == TaskState.PREPARING:
        preparation = special_rows.find(reader, job.pk, special_rows.PREPARATION, node.pk)
        since = since if preparation is None else preparation.started
    return TaskFacts(
        pk=row.pk, id=row.id, state=row.state, since=since, ready=bool(row.ready), slots=row.slots, exclusive=bool(row.exclusive),
        dedicated_only=bool(row.dedicated_only), node_id=None if node is None else node.id, exit_code=row.exit_code,
        succeeded=row.result == TaskResult.SUCCESS, satisfied=bool(row.satisfied), failure=_told(row.failure), ahead=ahead,
    )  # fmt: skip


def _told(failure: bytes | None) -> str | None:
    """Code and message of a failure; None when the exit code is all that there is to tell."""
    info = _failure.decode(failure) if failure else None
    if info is None or info.code == "FailureExitCode":
        return None
    return f"{info.code}: {(info.message or '').splitlines()[0] if info.message else ''}".rstrip(": ")


def _waits(reader: Reader, job: JobRow, row: TaskRow) -> list[Wait]:
    """What a blocked task still waits for: named tasks, spelt-out ranges, wide ranges."""
    parents = rows.parents(reader, row.pk, _MOST_PARENTS)
    numbers = sorted(int(parent[1:]) for parent in parents if parent.startswith("#"))
    waits = [Wait(task=parent) for parent in parents if not parent.startswith("#")]
    if numbers:
        waits += _spelt_out(reader, job, row, numbers)
    for span in rows.ranges(reader, row.pk, _MOST_PARENTS):
        missing = _first_missing(reader, job.pk, span.low, span.high)
        waits.append(Wait(low=span.low, high=span.high, left=span.remaining, missing=_holders(reader, job.pk, missing)))
    return waits


def _spelt_out(reader: Reader, job: JobRow, row: TaskRow, numbers: list[int]) -> list[Wait]:
    """Single numbers as the ranges in which the client gave them."""
    depends_on = _body.decode(task_rows.body(reader, row.pk)).depends_on
    waits: list[Wait] = []
    for span in (depends_on.task_id_ranges if depends_on else None) or ():
        inside = [number for number in numbers if span.start <= number <= span.end]
        numbers = [number for number in numbers if number not in inside]
        if inside:
            missing = _holders(reader, job.pk, inside)
            waits.append(Wait(low=span.start, high=span.end, left=len(inside), missing=missing))
    return waits


def _first_missing(reader: Reader, job_pk: int, low: int, high: int) -> list[int]:
    """The first numbers of a range that are not satisfied; none when a bounded search finds none."""
    for start in range(low, min(high + 1, low + _CHUNK * _CHUNKS), _CHUNK):
        end = min(high, start + _CHUNK - 1)
        met = task_rows.satisfied_numbers(reader, job_pk, start, end)
        missing = [number for number in range(start, end + 1) if number not in met]
        if missing:
            return missing[:_MOST_MISSING]
    return []


def _holders(reader: Reader, job_pk: int, numbers: list[int]) -> tuple[tuple[int, str | None], ...]:
    """The first of the numbers, each with the key of the task that has it."""
    found = ((number, rows.by_number(reader, job_pk, number)) for number in numbers[:_MOST_MISSING])
    return tuple((number, None if row is None else ids.key(row.id)) for number, row in found)
