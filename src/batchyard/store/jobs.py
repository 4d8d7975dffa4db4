"""Job rows and their counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from batchyard.model.states import JobState
from batchyard.rules.odata import Filter
from batchyard.store.filters import ALL, Page, by_key, condition, reach
from batchyard.store.filters import page as page_of
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned


class JobRow(msgspec.Struct):
    """A row of `job`."""

    pk: int
    id: str
    state: JobState
    version: int
    state_time: int
    previous_state: JobState | None
    previous_time: int | None
    created: int
    modified: int
    started: int
    ended: int | None
    deadline: int | None
    pool_key: str
    priority: int
    max_parallel: int
    max_retries: int
    uses_dependencies: int
    ends_when_complete: int
    acts_on_failure: int
    terminate_reason: str | None
    environment: bytes | None
    body: bytes
    disable_option: str | None
    forced: int
    ends_with_manager: int
    preemptible: int
    preparation_id: str | None
    release_id: str | None
    schedule_pk: int | None
    """The schedule that made it."""
    auto_pool: str | None
    """Id of the pool that was made for it, or for the jobs of its schedule."""
    scheduling_error: bytes | None


class JobCounts(msgspec.Struct):
    """Counters of a job: tasks by state, slots by state."""

    ready: int
    active: int
    running: int
    completed: int
    succeeded: int
    failed: int
    active_slots: int
    running_slots: int
    completed_slots: int
    succeeded_slots: int
    failed_slots: int
    retries: int
    user_us: int
    kernel_us: int
    wall_us: int


class JobDemand(msgspec.Struct):
    """A job of which a task may start, as far as placement has to know it."""

    pk: int
    priority: int
    max_parallel: int
    running: int
    ready: int
    smallest: int
    """No task of it that may start needs fewer slots; 0 while nobody has looked, `BARRED` when it may not run where there is room."""
    prepares: int
    restarted: int
    """True where its manager may have run before and wait to run again."""
    looked: int
    """When it was last found to be barred."""


BARRED = -1
"""For the slots of the smallest task of a job that may not run where there is room, whatever it needs."""

ABOVE_ALL = 2**31
"""A priority that is higher than all."""
_LOOKED_AT = 5_000
"""Jobs that a page by `$filter` looks at."""
FILTERED_BY = {
    "id": "id",
    "state": "state",
    "stateTransitionTime": "state_time",
    "creationTime": "created",
    "lastModified": "modified",
    "executionInfo/startTime": "started",
    "executionInfo/endTime": "ended",
    "executionInfo/poolId": "pool_key",
}
_COLUMNS = columns(JobRow)
ROWS = Versioned("job", JobRow)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM job WHERE lower(id) = :key", JobRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM job WHERE pk = :pk", JobRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM job WHERE pk > :after ORDER BY pk LIMIT :n", JobRow)
_CHANGING = Statement(
    f"SELECT {_COLUMNS} FROM job WHERE pk > :after AND state IN ('disabling', 'enabling', 'terminating', 'deleting') ORDER BY pk LIMIT :n",
    JobRow,
)
_OVERDUE = Statement(f"SELECT {_COLUMNS} FROM job WHERE deadline <= :now ORDER BY deadline LIMIT :n", JobRow)
_OLDER = Statement("SELECT pk FROM job WHERE created <= :before AND state NOT IN ('completed', 'deleting')", int)
_ACTIVE = Statement("SELECT count(*) FROM (SELECT 1 FROM job WHERE state NOT IN ('completed', 'deleting') LIMIT :n) AS active", int)
_COUNTS = Statement(f"SELECT {columns(JobCounts)} FROM job_counts WHERE job_pk = :job_pk", JobCounts)
_ADD_COUNTS = Change(
    "INSERT INTO job_counts (job_pk, pool_key, priority, max_parallel, open, preemptible, prepares)"
    " VALUES (:job_pk, :pool_key, :priority, :max_parallel, :open, :preemptible, :prepares)"
)
_COPIED = {"state": "open", "pool_key": "pool_key", "priority": "priority", "max_parallel": "max_parallel", "preemptible": "preemptible"}
"""What counters know of their job, so that one index finds who comes next: columns of `job` and what they are called there."""
# The terms of the partial indexes, letter by letter.
_MAY_START = "pool_key = :pool_key AND ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel)"
_DEMAND = "job_counts.job_pk, priority, max_parallel, running, job_counts.ready, smallest, prepares, restarted, looked"
_FIRST = Statement(f"SELECT {_DEMAND} FROM job_counts WHERE {_MAY_START} LIMIT :n", JobDemand)
# One step through an index for each size that occurs.
_EACH_SIZE = (
    "WITH RECURSIVE size (slots) AS ("
    f"SELECT min(smallest) FROM job_counts WHERE {_MAY_START} AND smallest >= :low UNION ALL"
    f" SELECT (SELECT min(smallest) FROM job_counts WHERE {_MAY_START} AND smallest > size.slots) FROM size WHERE size.slots < :high)"
)
_SIZES = Statement(f"{_EACH_SIZE} SELECT slots FROM size WHERE slots <= :high", int)
_HIGHEST = Statement(
    f"{_EACH_SIZE} SELECT max(priority) FROM (SELECT (SELECT priority FROM job_counts WHERE {_MAY_START} AND smallest = size.slots"
    " AND priority < :below ORDER BY priority DESC LIMIT 1) AS priority FROM size WHERE slots <= :high) AS highest"
    " HAVING max(priority) IS NOT NULL",
    int,
)
_OF_SIZE = f"{_MAY_START} AND priority = :priority AND smallest = :size"
_IN_TURN = Statement(
    f"SELECT {_DEMAND} FROM job_counts WHERE {_OF_SIZE} AND (running, job_pk) > (:running, :job_pk) ORDER BY running, job_pk LIMIT :n",
    JobDemand,
)
_BY_AGE = Statement(f"SELECT {_DEMAND} FROM job_counts WHERE {_OF_SIZE} AND job_pk > :job_pk ORDER BY job_pk LIMIT :n", JobDemand)
_BARRED = Statement(f"SELECT {_DEMAND} FROM job_counts WHERE {_MAY_START} AND smallest = -1 ORDER BY looked LIMIT :n", JobDemand)
_RESTARTED = Statement(
    f"SELECT {_DEMAND} FROM job_counts WHERE {_MAY_START} AND restarted = 1 ORDER BY priority DESC, running, job_pk LIMIT :n", JobDemand
)
_SET_RESTARTED = Change("UPDATE job_counts SET restarted = :restarted WHERE job_pk = :job_pk")
_HOLDING = Statement(
    f"SELECT DISTINCT {_DEMAND} FROM task CROSS JOIN job_counts"
    " WHERE job_counts.job_pk = task.job_pk AND holds = 1 AND task.ready = 1 AND pool_key = :pool_key AND job_counts.ready > 0 AND open = 1"
    " AND (max_parallel < 0 OR running < max_parallel) ORDER BY priority DESC, running, job_counts.job_pk",
    JobDemand,
)
_LOWEST_YIELDING = Statement(
    "SELECT priority FROM job_counts WHERE pool_key = :pool_key AND preemptible = 1 AND running > 0 AND open = 1 ORDER BY priority LIMIT 1",
    int,
)
_WAITING = Statement(f"SELECT {_DEMAND} FROM job_counts WHERE job_pk = :job_pk AND ready > 0", JobDemand)
_ABLE = Statement(
    f"SELECT {_DEMAND} FROM job_counts WHERE {_MAY_START} AND priority > :low AND priority <= :high AND smallest = :size"
    " ORDER BY priority DESC, running, job_pk LIMIT :n",
    JobDemand,
)
_SET_SMALLEST = Change("UPDATE job_counts SET smallest = :smallest, looked = :now WHERE job_pk = :job_pk")
_FORGET_SMALLEST = Change("UPDATE job_counts SET smallest = 0 WHERE job_pk IN (SELECT pk FROM job WHERE pool_key = :pool_key)")
_POOLS_WITH_DEMAND = Statement(
    "SELECT DISTINCT pool_key FROM job_counts WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel)", str
)
_PURGE_EVENTS = Change("DELETE FROM event WHERE pk IN (SELECT pk FROM event WHERE at < :before ORDER BY at LIMIT :n)")
_DELETE = Change("DELETE FROM job WHERE pk = :pk")
_DELETE_COUNTS = Change("DELETE FROM job_counts WHERE job_pk = :pk")


def active(reader: Reader, n: int) -> int:
    """How many jobs have not ended yet, counted up to `n`."""
    return reader.first(_ACTIVE, n=n) or 0


def find(reader: Reader, job_id: str) -> JobRow | None:
    """Job by id, case-insensitively."""
    return reader.first(_BY_ID, key=job_id.lower())


def get(reader: Reader, pk: int) -> JobRow:
    """Job by key."""
    found = reader.first(_BY_PK, pk=pk)
    assert found is not None, f"no job {pk}"
    return found


def page(reader: Reader, after: int, n: int) -> list[JobRow]:
    """The next `n` jobs behind key `after`, in the order they were added."""
    return reader.all(_PAGE, after=after, n=n)


def filtered(reader: Reader, found: Filter | None, after: int, most: int) -> Page[JobRow]:
    """At most `most` jobs behind key `after` that are asked for, in the order they were added."""
    if found is None:
        return page_of(page(reader, after, most + 1), most, by_key)
    where, params = condition(found, FILTERED_BY)
    until = reach(reader, "job", "1 = 1", after, _LOOKED_AT)
    sql = f"SELECT {_COLUMNS} FROM job WHERE pk > :after AND pk <= :until AND {where} ORDER BY pk LIMIT :n"
    rows = reader.all(Statement(sql, JobRow), after=after, until=ALL if until is None else until, n=most + 1, **params)
    return page_of(rows, most, by_key, until)


def changing(reader: Reader, after: int, n: int) -> list[JobRow]:
    """The next `n` jobs behind key `after` that are on their way to another state."""
    return reader.all(_CHANGING, after=after, n=n)


def overdue(reader: Reader, now: int, n: int) -> list[JobRow]:
    """Jobs whose wall clock is spent."""
    return reader.all(_OVERDUE, now=now, n=n)


def older_than(reader: Reader, before: int) -> list[int]:
    """Open jobs that were added before a time."""
    return reader.all(_OLDER, before=before)


def counts(reader: Reader, job_pk: int) -> JobCounts:
    """Counters of a job."""
    found = reader.first(_COUNTS, job_pk=job_pk)
    assert found is not None, f"job {job_pk} has no counters"
    return found


def may_start(reader: Reader, pool_key: str, n: int) -> Sequence[JobDemand]:
    """Some `n` jobs of a pool that have a task that may start; all of them where they are fewer."""
    return reader.soon(_FIRST, pool_key=pool_key, n=n)


def sizes(reader: Reader, pool_key: str, low: int, high: int) -> list[int]:
    """What the smallest tasks of jobs of a pool that may start need, each number within bounds once."""
    return reader.all(_SIZES, pool_key=pool_key, low=low, high=high)


def highest(reader: Reader, pool_key: str, below: int = ABOVE_ALL, within: tuple[int, int] = (BARRED, ALL)) -> int | None:
    """The highest priority below another, of which a job of the pool has a task that may start and its `smallest` lies within bounds."""
    low, high = within
    return reader.first(_HIGHEST, pool_key=pool_key, below=below, low=low, high=high)


def in_turn(
    reader: Reader, pool_key: str, priority: int, size: int, behind: JobDemand | None, n: int, *, oldest_first: bool
) -> list[JobDemand]:
    """The next `n` jobs of a priority that have a task that may start, in the order of their turns, `behind` the last one seen.

    Only those whose `smallest` is `size`. Costs a step through an index for each job, whatever else waits.
    """
    running, job_pk = (-1, 0) if behind is None else (behind.running, behind.pk)
    if oldest_first:
        return reader.all(_BY_AGE, pool_key=pool_key, priority=priority, size=size, job_pk=job_pk, n=n)
    return reader.all(_IN_TURN, pool_key=pool_key, priority=priority, size=size, running=running, job_pk=job_pk, n=n)


def barred(reader: Reader, pool_key: str, n: int) -> list[JobDemand]:
    """The `n` jobs that may not run where there is room and that were not looked at for longest."""
    return reader.all(_BARRED, pool_key=pool_key, n=n)


def restarted(reader: Reader, pool_key: str, n: int) -> list[JobDemand]:
    """The first `n` jobs of a pool whose manager may have run before and wait to run again, highest priority first."""
    return reader.all(_RESTARTED, pool_key=pool_key, n=n)


def holding(reader: Reader, pool_key: str) -> Sequence[JobDemand]:
    """Jobs of a pool with a task for which a node is held against its equals, highest priority first."""
    return reader.soon(_HOLDING, pool_key=pool_key)


def lowest_yielding(reader: Reader, pool_key: str) -> int | None:
    """The lowest priority of a job of the pool that runs tasks and lets more important ones take their place."""
    return reader.first(_LOWEST_YIELDING, pool_key=pool_key)


def pools_with_demand(reader: Reader) -> list[str]:
    """Pools that some task which may start waits for."""
    return reader.all(_POOLS_WITH_DEMAND)


def forget_events(tx: Tx, before: int, n: int) -> int:
    """Remove up to `n` events from before a time; how many."""
    return tx.changed(_PURGE_EVENTS, before=before, n=n)


def add(tx: Tx, **values: Any) -> int:
    """Insert a job with its counters; its key."""
    pk = tx.insert("job", **values)
    copied = {"preemptible": 0} | _copied(values)
    tx.change(_ADD_COUNTS, job_pk=pk, prepares=values.get("preparation_id") is not None, **copied)
    return pk


def move(tx: Tx, job: JobRow, **changes: Any) -> JobRow:
    """Change a job, but for its state, that nobody changed since it was read; the job as it is then."""
    fresh = tx.move(ROWS, job, changes)
    _tell_counters(tx, job.pk, changes)
    return fresh


def set_state(tx: Tx, job: JobRow, changes: Mapping[str, Any]) -> JobRow:
    """The same with its state, for `engine.changes` alone."""
    fresh = tx.set_state(ROWS, job, changes)
    _tell_counters(tx, job.pk, changes)
    return fresh


def _tell_counters(tx: Tx, pk: int, changes: Mapping[str, Any]) -> None:
    copied = _copied(changes)
    if "pool_key" in copied:
        copied["smallest"] = 0  # what was noted is of other nodes
    if copied:
        tx.change(Change(_copy_sql(tuple(copied))), job_pk=pk, **copied)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a change of a job its counters have to know."""
    found = {_COPIED[name]: value for name, value in values.items() if name in _COPIED}
    if "open" in found:
        found["open"] = found["open"] == JobState.ACTIVE
    return found


@lru_cache
def _copy_sql(names: tuple[str, ...]) -> str:
    return f"UPDATE job_counts SET {', '.join(f'{name} = :{name}' for name in names)} WHERE job_pk = :job_pk"


def waiting(reader: Reader, pk: int) -> JobDemand | None:
    """A job, while a task of it may start but for room."""
    return reader.first(_WAITING, job_pk=pk)


def able(reader: Reader, pool_key: str, priorities: tuple[int, int | None], most: int, n: int) -> list[JobDemand]:
    """The first `n` jobs of a pool with a task that may start and, as far as is known, needs at most so many slots.

    `priorities`: above the first, up to the second. The most important come first.
    """
    low, high = priorities
    bounds = {"pool_key": pool_key, "low": low, "high": ABOVE_ALL if high is None else high, "n": n}
    found = [job for size in sizes(reader, pool_key, BARRED, most) for job in reader.all(_ABLE, size=size, **bounds)]
    return sorted(found, key=lambda job: (-job.priority, job.running, job.pk))[:n]


def note_smallest(tx: Tx, found: Mapping[int, int], now: int) -> None:
    """Note by job how many slots the smallest of its ready tasks needs at least, or that it is `BARRED`."""
    tx.change_many(_SET_SMALLEST, [{"job_pk": pk, "smallest": smallest, "now": now} for pk, smallest in found.items()])


def forget_smallest(tx: Tx, pool_key: str) -> None:
    """Have all jobs of a pool looked at again, whose nodes are to be others than they were."""
    tx.change(_FORGET_SMALLEST, pool_key=pool_key)


def note_restarted(tx: Tx, pks: Iterable[int], *, restarted: bool) -> None:
    """Note whether managers of jobs may have run before and wait to run again."""
    tx.change_many(_SET_RESTARTED, [{"job_pk": pk, "restarted": restarted} for pk in pks])


def delete(tx: Tx, pk: int) -> None:
    """Remove a job whose tasks are gone."""
    tx.change(_DELETE_COUNTS, pk=pk)
    tx.change(_DELETE, pk=pk)
