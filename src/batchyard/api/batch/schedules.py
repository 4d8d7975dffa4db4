"""Job schedule operations."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET
from starlette.responses import Response

from batchyard.api.batch import autoscale, selection, views
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.schedules import schedules
from batchyard.model.job import JobSpecification
from batchyard.model.jobschedule import JobScheduleCreateContent, JobSchedulePatch, JobScheduleUpdate
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.store import jobs as job_rows
from batchyard.store import schedules as rows
from batchyard.store.filters import Page
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.reader import Reader
from batchyard.store.schedules import ScheduleCounts, ScheduleRow
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /jobschedules"""
    sent = call.decode(JobScheduleCreateContent)
    await _read_ahead(sent.job_specification)
    schedule = await call.db.run(schedules.add, sent, call.now, call.demand)
    return wire.nothing(201, modified=schedule.modified, resource=call.url("jobschedules", schedule.id), location=True)


async def _read_ahead(sent: JobSpecification) -> None:
    await autoscale.read_ahead_of(sent.pool_info.auto_pool_specification)


async def list_(call: Call) -> Response:
    """GET /jobschedules"""
    chosen, found = selection.of(call, selection.SCHEDULE), call.filter(odata.SCHEDULES)
    after, most = call.page()
    with_stats = call.expands_stats()

    def query(reader: Reader) -> tuple[Page[ScheduleRow], list[ScheduleCounts | None]]:
        page = rows.filtered(reader, found, after, most)
        return page, [rows.counts(reader, row.pk) if with_stats else None for row in page.rows]

    page, counts = await call.db.read(query)
    items = chosen.all(views.schedule(row, call, its) for row, its in zip(page.rows, counts, strict=True))
    return wire.listing(call.base, "jobschedules", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /jobschedules/{jobScheduleId}"""
    chosen = selection.of(call, selection.SCHEDULE)
    with_stats = call.expands_stats()

    def query(reader: Reader, schedule_id: str) -> tuple[ScheduleRow, ScheduleCounts | None]:
        schedule = schedules.find(reader, schedule_id)
        return schedule, rows.counts(reader, schedule.pk) if with_stats else None

    schedule, counts = await call.db.read(query, call.ids["schedule_id"])
    call.conditions().check(schedule.modified, reading=True)
    item = chosen.one(views.schedule(schedule, call, counts))
    return wire.tag(wire.element(call.base, "jobschedules", item), schedule.modified)


async def exists(call: Call) -> Response:
    """HEAD /jobschedules/{jobScheduleId}"""
    schedule = await call.db.read(schedules.find, call.ids["schedule_id"])
    call.conditions().check(schedule.modified, reading=True)
    return wire.nothing(200, modified=schedule.modified)


async def _change(call: Call, use: Callable[[Tx, ScheduleRow], ScheduleRow]) -> ScheduleRow:
    """The schedule as a use case leaves it; it must be open and as the conditional headers want it."""

    def unit(tx: Tx, schedule_id: str, conditions: Conditions) -> ScheduleRow:
        schedule = schedules.open_schedule(tx, schedule_id)
        conditions.check(schedule.modified)
        return use(tx, schedule)

    return await call.db.run(unit, call.ids["schedule_id"], call.conditions())


async def patch(call: Call) -> Response:
    """PATCH /jobschedules/{jobScheduleId}"""
    change = call.decode(JobSchedulePatch)
    if change.job_specification is not UNSET and change.job_specification is not None:
        await _read_ahead(change.job_specification)
    schedule = await _change(call, lambda tx, row: schedules.patch(tx, row, change, call.now, call.demand))
    return wire.nothing(200, modified=schedule.modified, resource=call.url("jobschedules", schedule.id))


async def update(call: Call) -> Response:
    """PUT /jobschedules/{jobScheduleId}"""
    given = call.decode(JobScheduleUpdate)
    await _read_ahead(given.job_specification)
    schedule = await _change(call, lambda tx, row: schedules.update(tx, row, given, call.now, call.demand))
    return wire.nothing(200, modified=schedule.modified, resource=call.url("jobschedules", schedule.id))


async def disable(call: Call) -> Response:
    """POST /jobschedules/{jobScheduleId}/disable"""
    schedule = await _change(call, lambda tx, row: schedules.disable(tx, row, call.now, call.demand))
    return wire.nothing(204, modified=schedule.modified, resource=call.url("jobschedules", schedule.id, "disable"))


async def enable(call: Call) -> Response:
    """POST /jobschedules/{jobScheduleId}/enable"""
    schedule = await _change(call, lambda tx, row: schedules.enable(tx, row, call.now, call.demand))
    return wire.nothing(204, modified=schedule.modified, resource=call.url("jobschedules", schedule.id, "enable"))


async def terminate(call: Call) -> Response:
    """POST /jobschedules/{jobScheduleId}/terminate"""
    force = call.flag("force")
    schedule = await _change(call, lambda tx, row: schedules.terminate(tx, row, call.now, force=force))
    return wire.nothing(202, modified=schedule.modified, resource=call.url("jobschedules", schedule.id, "terminate"))


async def delete(call: Call) -> Response:
    """DELETE /jobschedules/{jobScheduleId}: the only change that a schedule takes in every state but deleting."""
    force = call.flag("force")

    def unit(tx: Tx, schedule_id: str, conditions: Conditions, now: int) -> None:
        schedule = schedules.find(tx, schedule_id)
        conditions.check(schedule.modified)
        schedules.delete(tx, schedule, now, force=force)

    await call.db.run(unit, call.ids["schedule_id"], call.conditions(), call.now)
    return wire.nothing(202)


async def jobs(call: Call) -> Response:
    """GET /jobschedules/{jobScheduleId}/jobs"""
    chosen, found = selection.of(call, selection.JOB), call.filter(odata.JOBS_OF_SCHEDULE)
    after, most = call.page()
    with_stats = call.expands_stats()

    def query(reader: Reader, schedule_id: str) -> tuple[Page[JobRow], list[JobCounts | None]]:
        page = rows.jobs_filtered(reader, schedules.find(reader, schedule_id).pk, found, after, most)
        return page, [job_rows.counts(reader, row.pk) if with_stats else None for row in page.rows]

    page, counts = await call.db.read(query, call.ids["schedule_id"])
    items = chosen.all(views.job(row, call, its) for row, its in zip(page.rows, counts, strict=True))
    return wire.listing(call.base, "jobs", items, call.next_link(page.more))
