"""Job schedule rows, and their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchyard.model.states import JobScheduleState
from batchyard.rules.odata import Filter
from batchyard.store import jobs
from batchyard.store.filters import ALL, Page, by_key, condition, reach
from batchyard.store.filters import page as page_of
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned


class ScheduleRow(msgspec.Struct):
    """A row of `job_schedule`."""

    pk: int
    id: str
    state: JobScheduleState
    version: int
    state_time: int
    previous_state: JobScheduleState | None
    previous_time: int | None
    created: int
    modified: int
    ended: int | None
    starts: int | None
    """doNotRunUntil."""
    stops: int | None
    """doNotRunAfter."""
    due: int | None
    """The next time at which a job is due, or the last one while it may still be served."""
    look: int | None
    """When there is something to do; None while only the end of a job or a client changes that."""
    jobs: int
    """How many it made; the newest bears the number."""
    newest_due: int | None
    """When the newest was due."""
    missed: int | None
    """The newest due time for which no job was made, and why."""
    missed_why: str | None
    forced: int
    pool_id: str | None
    """The pool that its jobs share, once there is one."""
    pool_stale: int
    """The next job gets another, because what was asked of it has changed."""
    body: bytes

    @property
    def recent(self) -> str | None:
        """Id of the newest job."""
        return f"{self.id}:job-{self.jobs}" if self.jobs else None


class ScheduleCounts(msgspec.Struct):
    """What the jobs of a schedule used, as far as they are still there."""

    succeeded: int
    failed: int
    retries: int
    user_us: int
    kernel_us: int
    wall_us: int


_LOOKED_AT = 5_000
"""Schedules or jobs that a page by `$filter` looks at."""
FILTERED_BY = {
    "id": "id",
    "state": "state",
    "stateTransitionTime": "state_time",
    "creationTime": "created",
    "lastModified": "modified",
    "executionInfo/endTime": "ended",
    "schedule/doNotRunUntil": "starts",
    "schedule/doNotRunAfter": "stops",
}
_COLUMNS = columns(ScheduleRow)
ROWS = Versioned("job_schedule", ScheduleRow)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM job_schedule WHERE lower(id) = :key", ScheduleRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM job_schedule WHERE pk = :pk", ScheduleRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM job_schedule WHERE pk > :after ORDER BY pk LIMIT :n", ScheduleRow)
_DUE = Statement(f"SELECT {_COLUMNS} FROM job_schedule WHERE look IS NOT NULL AND look <= :now ORDER BY look, pk LIMIT :n", ScheduleRow)
_NEXT = Statement("SELECT look FROM job_schedule WHERE look IS NOT NULL ORDER BY look LIMIT 1", int)
_OPEN = Statement("SELECT count(*) FROM (SELECT 1 FROM job_schedule WHERE state NOT IN ('completed', 'deleting') LIMIT :n) AS open", int)
_STIR = Change("UPDATE job_schedule SET look = :now, version = version + 1 WHERE pk = :pk")
_JOBS = Statement(f"SELECT {columns(JobRow)} FROM job WHERE schedule_pk = :schedule_pk AND pk > :after ORDER BY pk LIMIT :n", JobRow)
_KEPT = Statement(
    f"SELECT {columns(JobRow)} FROM job WHERE schedule_pk = :schedule_pk AND state <> 'deleting' ORDER BY pk LIMIT :n", JobRow
)
_HAS_JOBS = Statement("SELECT 1 FROM job WHERE schedule_pk = :schedule_pk LIMIT 1", int)
_COUNTS = Statement(
    "SELECT coalesce(sum(succeeded), 0), coalesce(sum(failed), 0), coalesce(sum(retries), 0), coalesce(sum(user_us), 0),"
    " coalesce(sum(kernel_us), 0), coalesce(sum(wall_us), 0) FROM job_counts JOIN job ON job.pk = job_pk WHERE schedule_pk = :schedule_pk",
    lambda *sums: ScheduleCounts(*(int(total) for total in sums)),
)
_DELETE = Change("DELETE FROM job_schedule WHERE pk = :pk")


def find(reader: Reader, schedule_id: str) -> ScheduleRow | None:
    """Schedule by id, case-insensitively."""
    return reader.first(_BY_ID, key=schedule_id.lower())


def get(reader: Reader, pk: int) -> ScheduleRow | None:
    """Schedule by key."""
    return reader.first(_BY_PK, pk=pk)


def page(reader: Reader, after: int, n: int) -> list[ScheduleRow]:
    """The next `n` schedules behind key `after`, in the order they were added."""
    return reader.all(_PAGE, after=after, n=n)


def filtered(reader: Reader, found: Filter | None, after: int, most: int) -> Page[ScheduleRow]:
    """At most `most` schedules behind key `after` that are asked for, in the order they were added."""
    if found is None:
        return page_of(page(reader, after, most + 1), most, by_key)
    where, params = condition(found, FILTERED_BY)
    until = reach(reader, "job_schedule", "1 = 1", after, _LOOKED_AT)
    sql = f"SELECT {_COLUMNS} FROM job_schedule WHERE pk > :after AND pk <= :until AND {where} ORDER BY pk LIMIT :n"
    rows = reader.all(Statement(sql, ScheduleRow), after=after, until=ALL if until is None else until, n=most + 1, **params)
    return page_of(rows, most, by_key, until)


def jobs_filtered(reader: Reader, schedule_pk: int, found: Filter | None, after: int, most: int) -> Page[JobRow]:
    """The same of the jobs of a schedule."""
    if found is None:
        return page_of(reader.all(_JOBS, schedule_pk=schedule_pk, after=after, n=most + 1), most, by_key)
    where, params = condition(found, jobs.FILTERED_BY)
    until = reach(reader, "job", "schedule_pk = :schedule_pk", after, _LOOKED_AT, schedule_pk=schedule_pk)
    sql = (
        f"SELECT {columns(JobRow)} FROM job WHERE schedule_pk = :schedule_pk AND pk > :after AND pk <= :until AND {where}"
        " ORDER BY pk LIMIT :n"
    )
    rows = reader.all(
        Statement(sql, JobRow), schedule_pk=schedule_pk, after=after, until=ALL if until is None else until, n=most + 1, **params
    )
    return page_of(rows, most, by_key, until)


def due(reader: Reader, now: int, n: int) -> list[ScheduleRow]:
    """The first `n` schedules that have something to do, who waits longest first."""
    return reader.all(_DUE, now=now, n=n)


def next_look(reader: Reader) -> int | None:
    """When the next schedule has something to do; None when none has."""
    return reader.first(_NEXT)


def open_ones(reader: Reader, n: int) -> int:
    """How many schedules have not ended yet, counted up to `n`."""
    return reader.first(_OPEN, n=n) or 0


def kept_jobs(reader: Reader, schedule_pk: int, n: int) -> list[JobRow]:
    """The first `n` jobs of a schedule that are not being deleted."""
    return reader.all(_KEPT, schedule_pk=schedule_pk, n=n)


def has_jobs(reader: Reader, schedule_pk: int) -> bool:
    """True while there is a job of the schedule."""
    return reader.first(_HAS_JOBS, schedule_pk=schedule_pk) is not None


def counts(reader: Reader, schedule_pk: int) -> ScheduleCounts:
    """Sums over the jobs of a schedule."""
    found = reader.first(_COUNTS, schedule_pk=schedule_pk)
    assert found is not None
    return found


def add(tx: Tx, **values: Any) -> int:
    """Insert a schedule; its key."""
    return tx.insert("job_schedule", **values)


def move(tx: Tx, schedule: ScheduleRow, **changes: Any) -> ScheduleRow:
    """Change a schedule, but for its state, that nobody changed since it was read; the schedule as it is then."""
    return tx.move(ROWS, schedule, changes)


def set_state(tx: Tx, schedule: ScheduleRow, changes: Mapping[str, Any]) -> ScheduleRow:
    """The same with its state, for `engine.changes` alone."""
    return tx.set_state(ROWS, schedule, changes)


def stir(tx: Tx, pk: int, now: int) -> None:
    """Have a schedule looked at again; nothing when it is gone."""
    tx.change(_STIR, pk=pk, now=now)


def delete(tx: Tx, pk: int) -> None:
    """Remove a schedule whose jobs are gone."""
    tx.change(_DELETE, pk=pk)
