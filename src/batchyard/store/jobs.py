"""Job rows and their counters."""

from __future__ import annotations

from typing import Any

import msgspec

from batchyard.model.states import JobState
from batchyard.rules.odata import Filter
from batchyard.store import tasks
from batchyard.store.filters import ALL, Page, by_key, condition, reach
from batchyard.store.filters import page as page_of
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx


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
    """What placement has to know of a job."""

    pk: int
    priority: int
    max_parallel: int
    running: int
    ready: int
    prepares: int


class Pusher(msgspec.Struct):
    """The first waiting task of a job, where it may push others off a node."""

    job_pk: int
    prepares: int
    priority: int
    slots: int
    exclusive: int
    dedicated_only: int
    manager: int


_ANY_SIZE = 2**31
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
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM job WHERE lower(id) = :key", JobRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM job WHERE pk = :pk", JobRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM job WHERE pk > :after ORDER BY pk LIMIT :n", JobRow)
_CHANGING = Statement(f"SELECT {_COLUMNS} FROM job WHERE state IN ('disabling', 'enabling', 'terminating', 'deleting') ORDER BY pk", JobRow)
_OVERDUE = Statement(f"SELECT {_COLUMNS} FROM job WHERE deadline <= :now ORDER BY deadline LIMIT :n", JobRow)
_OLDER = Statement("SELECT pk FROM job WHERE created <= :before AND state NOT IN ('completed', 'deleting')", int)
_ACTIVE = Statement("SELECT count(*) FROM (SELECT 1 FROM job WHERE state NOT IN ('completed', 'deleting') LIMIT :n) AS active", int)
_COUNTS = Statement(f"SELECT {columns(JobCounts)} FROM job_counts WHERE job_pk = :job_pk", JobCounts)
_ADD_COUNTS = Change("INSERT INTO job_counts (job_pk) VALUES (:job_pk)")
_DEMAND = Statement(
    "SELECT job.pk, job.priority, job.max_parallel, job_counts.running, job_counts.ready, job.preparation_id IS NOT NULL FROM job"
    " JOIN job_counts ON job_counts.job_pk = job.pk"
    " WHERE job.state = 'active' AND job.pool_key = :pool_key AND job_counts.ready > 0 ORDER BY job.priority DESC, job.pk",
    JobDemand,
)
_MAY_PUSH = Statement(
    "SELECT job.pk, job.preparation_id IS NOT NULL, job.priority FROM job JOIN job_counts AS held ON held.job_pk = job.pk"
    " WHERE job.state = 'active' AND job.pool_key = :pool_key AND held.ready > 0"
    " AND (job.max_parallel < 0 OR held.running < job.max_parallel)"
    " AND (EXISTS (SELECT 1 FROM task WHERE task.job_pk = job.pk AND manager = 1 AND ready = 1 AND run > 0) OR EXISTS ("
    "SELECT 1 FROM job AS other JOIN job_counts ON job_counts.job_pk = other.pk WHERE other.state = 'active' AND other.pool_key = :pool_key"
    " AND other.preemptible = 1"
    " AND other.priority < job.priority AND job_counts.running > 0)) ORDER BY job.priority DESC, job.pk",
    lambda pk, prepares, priority: (int(pk), int(prepares), int(priority)),
)
_POOLS_WITH_DEMAND = Statement(
    "SELECT DISTINCT job.pool_key FROM job JOIN job_counts ON job_counts.job_pk = job.pk"
    " WHERE job.state = 'active' AND job_counts.ready > 0",
    str,
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


def changing(reader: Reader) -> list[JobRow]:
    """Jobs on their way to another state."""
    return reader.all(_CHANGING)


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


def demand(reader: Reader, pool_key: str) -> list[JobDemand]:
    """Active jobs of a pool with tasks that may start, highest priority first."""
    return reader.all(_DEMAND, pool_key=pool_key)


def pushers(reader: Reader, pool_key: str) -> list[Pusher]:
    """First waiting tasks of the jobs of a pool that may push others off, the most important first."""
    return [
        Pusher(pk, prepares, priority, task.slots, task.exclusive, task.dedicated_only, task.manager)
        for pk, prepares, priority in reader.all(_MAY_PUSH, pool_key=pool_key)
        for task in tasks.ready(reader, pk, _ANY_SIZE, 1)
    ]


def pools_with_demand(reader: Reader) -> list[str]:
    """Pools that some task waits for."""
    return reader.all(_POOLS_WITH_DEMAND)


def forget_events(tx: Tx, before: int, n: int) -> int:
    """Remove up to `n` events from before a time; how many."""
    return tx.change(_PURGE_EVENTS, before=before, n=n)


def add(tx: Tx, **values: Any) -> int:
    """Insert a job with its counters; its key."""
    pk = tx.insert("job", **values)
    tx.change(_ADD_COUNTS, job_pk=pk)
    return pk


def move(tx: Tx, job: JobRow, **changes: Any) -> None:
    """Change a job that nobody changed since it was read."""
    tx.guarded("job", job.pk, job.version, **changes)


def delete(tx: Tx, pk: int) -> None:
    """Remove a job whose tasks are gone."""
    tx.change(_DELETE_COUNTS, pk=pk)
    tx.change(_DELETE, pk=pk)
