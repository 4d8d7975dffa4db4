"""Gathers the facts of explanations with bounded queries: what placement would read now, and the tasks that tasks wait for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from batchyard.engine.checks import schedules as schedule_checks
from batchyard.engine.pools.resizing import KIND
from batchyard.engine.schedules import advance
from batchyard.engine.scheduling.queues import Queues
from batchyard.engine.settling import special_tasks
from batchyard.engine.work.jobs import has_room
from batchyard.model import ids
from batchyard.model.job import JobSchedulingError
from batchyard.model.node import ComputeNodeError
from batchyard.model.pool import ResizeError
from batchyard.model.states import AllocationState, NodeState, PoolState, SchedulingState, TaskResult, TaskState
from batchyard.model.sync import FAILURE_EXIT_CODE
from batchyard.model.task import TaskCreateContent, TaskFailureInformation
from batchyard.rules import exits
from batchyard.rules.facts import (
    MOST_AHEAD,
    MOST_JOBS,
    Held,
    JobFacts,
    LaunchFailure,
    NamedNode,
    NextRound,
    NodeGroup,
    PoolFacts,
    Rival,
    ScheduleFacts,
    Snapshot,
    TaskFacts,
    Wait,
)
from batchyard.rules.placement import Room
from batchyard.rules.schedules import Missed
from batchyard.rules.supply import MOST_QUIET_S
from batchyard.store import explain as rows
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import ready
from batchyard.store import special_tasks as special_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeView
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.schedules import ScheduleRow
from batchyard.store.tasks import TaskRow

ANY_SLOTS = 2**31 - 1
_MOST_EXPANDED = 200
"""Blocked tasks whose waits are followed."""
_MOST_PARENTS = 100
_MOST_MISSING = 10
_CHUNK, _CHUNKS = 1000, 10
_MOST_POOLS = 5
_MOST_IN_THE_WAY = 3
_LONGEST = 200
"""Characters of a message that are told."""
MOST_NAMED = 100
"""Nodes of a pool that are looked at by name."""
_failure = msgspec.json.Decoder(TaskFailureInformation)
_scheduling_error = msgspec.json.Decoder(JobSchedulingError)
_node_errors = msgspec.json.Decoder(list[ComputeNodeError])
_resize_errors = msgspec.json.Decoder(list[ResizeError])
_body = msgspec.json.Decoder(TaskCreateContent)


def snapshot(reader: Reader, row: JobRow, keys: Iterable[str], now: int) -> Snapshot:
    """All that explains tasks of a job."""
    found = pool_rows.find(reader, row.pool_key)
    tasks = _with_parents(reader, row, keys)
    return Snapshot(job(reader, row, found), None if found is None else pool(reader, found, row, now), tasks)


def job(reader: Reader, row: JobRow, found: PoolView | None) -> JobFacts:
    """A job as explanations see it."""
    counts, prepares = job_rows.counts(reader, row.pk), row.preparation_id is not None
    closed = special_tasks.closed(reader, row.pk) if prepares else frozenset[int]()
    failed = rows.preparation_failure(reader, row.pk) if closed else None
    return JobFacts(
        pk=row.pk,
        id=row.id,
        state=row.state,
        since=row.state_time,
        pool_id=row.pool_key if found is None else found.id,
        priority=row.priority,
        limit=None if row.max_parallel < 0 else row.max_parallel,
        ready=counts.ready,
        active=counts.active,
        running=counts.running,
        completed=counts.completed,
        ended_by=row.terminate_reason,
        pool_failure=None if row.scheduling_error is None else _scheduling_failure(row.scheduling_error),
        closed=closed,
        closed_working=rows.closed_working(reader, row.pk, found.pk) if closed and found is not None else 0,
        preparation_failure=None if failed is None else _how(*failed),
        preparation_id=row.preparation_id,
    )


def _scheduling_failure(text: bytes) -> str:
    error = _scheduling_error.decode(text)
    details = "".join(f" ({pair.name}: {_short(pair.value)})" for pair in error.details or () if pair.value)
    return f"{error.code}: {error.message}".rstrip(".") + details


def _how(exit_code: int | None, failure: bytes | None) -> str:
    """How a special task failed."""
    return exits.told(exit_code) if exit_code else _told(failure) or "no exit code"


def pool(reader: Reader, row: PoolView, asked: JobRow | None, now: int) -> PoolFacts:
    """A pool as placement would find it now; `asked` is the job that is asked about."""
    start_failed, errors = rows.start_task_failure(reader, row.pk), rows.node_errors(reader, row.pk)
    lacking = row.current_dedicated + row.current_low_priority < row.target_dedicated + row.target_low_priority
    return PoolFacts(
        id=row.id,
        since=row.allocation_time,
        deleting=row.state == PoolState.DELETING,
        resizing=row.allocation_state != AllocationState.STEADY,
        target=row.target_dedicated + row.target_low_priority,
        dedicated=row.target_dedicated,
        formula=row.autoscale_formula is not None,
        slots_per_node=row.slots_per_node,
        failure=_resize_failure(row.resize_errors),
        groups=rows.node_groups(reader, row.pk),
        named=rows.named_nodes(reader, row.pk, now - MOST_QUIET_S * 1_000_000, MOST_NAMED),
        now=now,
        others=rows.other_pools(reader, row.pk, _MOST_POOLS) if lacking else (),
        next=_next_round(reader, row, asked, now),
        takes_gangs=row.takes_gangs,
        running=rows.running_longest(reader, row.pk, _MOST_IN_THE_WAY) if row.takes_gangs else (),
        rivals=_rivals(reader, row.id.lower(), asked),
        launch_failure=rows.launch_failure(reader, row.pk),
        start_task_failure=None if start_failed is None else _how(*start_failed),
        node_problem=None if errors is None else problems(errors, 1),
    )


def schedule(reader: Reader, row: ScheduleRow, now: int, quota: int | None) -> ScheduleFacts:
    """A job schedule as explanations see it; `quota` is that of active jobs and schedules."""
    job = advance.active_job(reader, row)
    timing = schedule_checks.check_timing(advance.content.decode(row.body))
    due = row.due if row.ended is None and (timing.end is None or (row.due or 0) < timing.end) else None
    closing = [] if due is None else [timing.following(due), timing.end, None if timing.window is None else due + timing.window]
    return ScheduleFacts(
        id=row.id,
        state=row.state,
        since=row.state_time,
        due=due,
        closes=min((at for at in closing if at is not None), default=None),
        now=now,
        job_id=None if job is None else job.id,
        job_state=None if job is None else job.state,
        job_since=0 if job is None else job.state_time,
        full=not has_room(reader, quota),
        retry_s=advance.RETRY_US // 1_000_000,
        missed=row.missed,
        missed_why=None if row.missed_why is None else Missed[row.missed_why],
    )


def node(pool: PoolView, row: NodeView, now: int) -> PoolFacts:
    """A node as if its pool had no other."""
    enabled = row.scheduling_state == SchedulingState.ENABLED and row.action is None
    group = NodeGroup(row.state, enabled, bool(row.dedicated), 1, row.slots, row.slots, row.slots_used, row.state_time)
    failed = row.state == NodeState.START_TASK_FAILED
    launch = None if row.launch_error is None else LaunchFailure(row.id, row.launches, row.launch_error)
    return PoolFacts(
        id=pool.id,
        since=row.state_time,
        target=1,
        dedicated=row.dedicated,
        groups=[group],
        named=[named(row)],
        now=now,
        launch_failure=launch if row.launches else None,
        start_task_failure=_how(row.start_exit_code, row.start_failure) if failed else None,
        node_problem=None if row.errors is None else problems(row.errors, 1),
    )


def named(row: NodeView) -> NamedNode:
    """A node by its name."""
    return NamedNode(row.id, row.state, row.scheduling_state != SchedulingState.ENABLED, row.action, row.last_seen)


def problems(errors: bytes, n: int) -> str:
    """The first of a node's errors in words, with their details."""
    told = []
    for error in _node_errors.decode(errors)[:n]:
        details = "".join(f" ({pair.name}: {pair.value})" for pair in error.error_details or () if pair.value)
        told.append(f"{error.message}{details}")
    return "; ".join(told)


def _resize_failure(text: bytes | None) -> str | None:
    errors = _resize_errors.decode(text) if text else []
    told = []
    for error in errors:
        details = [f"{pair.name}: {pair.value}" for pair in error.values or () if pair.value and pair.name != KIND]
        told.append(f"{error.code}: {error.message}" + (f" ({', '.join(details)})" if details else ""))
    return "; ".join(told) or None


def _next_round(reader: Reader, row: PoolView, asked: JobRow | None, now: int) -> NextRound:
    """What the scheduler would do now, as far as `MOST_AHEAD` starts."""
    room = pool_rows.room(reader, row.pk)
    assert room is not None, f"pool {row.pk} is gone"
    queues = Queues(reader, room, now)
    before = [msgspec.structs.replace(room) for room in queues.rooms]
    starts = queues.starts()
    placed = [task for task, _, _ in itertools.islice(starts, MOST_AHEAD)]
    cut = next(starts, None) is not None
    own = sum(task.job == asked.pk for task in placed) if asked is not None else 0
    held = {room.node: _held(reader, room, queues.names) for room in queues.rooms}
    return NextRound(
        rooms=before,
        placed=frozenset(task.key for task in placed),
        own=own,
        left=queues.rooms if cut else [],
        held={node: hold for node, hold in held.items() if hold is not None},
    )


def _held(reader: Reader, room: Room, names: Mapping[int, str]) -> Held | None:
    task = None if room.held is None else task_rows.get(reader, room.held.key)
    if task is None or room.held is None:
        return None
    needs = room.need(room.held)
    job_id = job_rows.get(reader, task.job_pk).id
    return Held(names[room.node], task.pk, task.id, job_id, needs, room.free, room.held.slots if room.held.gang else 0)


def _rivals(reader: Reader, pool_key: str, asked: JobRow | None) -> list[Rival]:
    """Jobs that the asked one contends with."""
    if asked is None:
        return []
    found = (job for job in rows.waiting_jobs(reader, pool_key, MOST_JOBS) if job.pk != asked.pk and job.priority >= asked.priority)
    able = (job for job in found if job.ready and (job.max_parallel < 0 or job.running < job.max_parallel))
    return [Rival(job.id, job.priority, job.ready) for job in able]


# tasks


def _with_parents(reader: Reader, job: JobRow, keys: Iterable[str]) -> dict[str, TaskFacts]:
    """Tasks by key, with those that they wait for, and so on, as far as the bounds go."""
    found: dict[str, TaskFacts] = {}
    due = deque(keys)
    first = [task.pk for task in ready.first(reader, job.pk, ANY_SLOTS, MOST_AHEAD)]
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
        pk=row.pk,
        id=row.id,
        state=row.state,
        since=since,
        ready=bool(row.ready),
        slots=row.slots,
        exclusive=bool(row.exclusive),
        dedicated_only=bool(row.dedicated_only),
        instances=row.instances,
        held_since=row.held_since,
        node_id=None if node is None else node.id,
        exit_code=row.exit_code,
        succeeded=row.result == TaskResult.SUCCESS,
        satisfied=bool(row.satisfied),
        failure=_told(row.failure),
        ahead=ahead,
    )


def _told(failure: bytes | None) -> str | None:
    """Code and message of a failure; None when the exit code is all that there is to tell."""
    info = _failure.decode(failure) if failure else None
    if info is None or info.code == FAILURE_EXIT_CODE:
        return None
    details = [f"{pair.name}: {_short(pair.value)}" for pair in info.details or () if pair.value]
    return f"{info.code}: {_short(info.message or '')}".rstrip(": ") + (f" [{', '.join(details)}]" if details else "")


def _short(text: str) -> str:
    """The first line, at most 200 characters of it."""
    line = (text.splitlines() or [""])[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


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
