"""Job operations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from starlette.responses import Response

from batchyard.api import views, wire
from batchyard.api.call import Call
from batchyard.engine import jobs, lookup
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent, JobDisable, JobPatch, JobTerminate, JobUpdate
from batchyard.model.states import JobState
from batchyard.rules.conditions import Conditions
from batchyard.store import jobs as rows
from batchyard.store import special_tasks as special_rows
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.reader import Reader
from batchyard.store.special_tasks import SpecialTaskRow
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /jobs"""
    job = await call.db.run(jobs.add, call.decode(JobCreateContent), call.now, call.services.offer.quotas.active_jobs)
    return wire.nothing(201, modified=job.modified, resource=call.url("jobs", job.id), location=True)


async def list_(call: Call) -> Response:
    """GET /jobs"""
    after, most = call.page()
    with_stats = call.expands_stats()

    def query(reader: Reader) -> list[tuple[JobRow, JobCounts | None]]:
        return [(row, rows.counts(reader, row.pk) if with_stats else None) for row in rows.page(reader, after, most + 1)]

    page = await call.db.read(query)
    link = call.next_link(page[most - 1][0].pk) if len(page) > most else None
    return wire.listing(call.base, "jobs", [views.job(row, call, counts) for row, counts in page[:most]], link)


async def get(call: Call) -> Response:
    """GET /jobs/{jobId}"""
    with_stats = call.expands_stats()

    def query(reader: Reader, job_id: str) -> tuple[JobRow, JobCounts | None]:
        job = lookup.job(reader, job_id)
        return job, rows.counts(reader, job.pk) if with_stats else None

    job, counts = await call.db.read(query, call.ids["job_id"])
    call.conditions().check(job.modified, reading=True)
    return wire.tag(wire.element(call.base, "jobs", views.job(job, call, counts)), job.modified)


async def _change(call: Call, use: Callable[[Tx, JobRow], JobRow]) -> JobRow:
    """The job as a use case leaves it; it must be open and as the conditional headers want it."""

    def unit(tx: Tx, job_id: str, conditions: Conditions) -> JobRow:
        job = lookup.open_job(tx, job_id)
        conditions.check(job.modified)
        return use(tx, job)

    return await call.db.run(unit, call.ids["job_id"], call.conditions())


async def patch(call: Call) -> Response:
    """PATCH /jobs/{jobId}"""
    change = call.decode(JobPatch)
    job = await _change(call, lambda tx, row: jobs.patch(tx, row, change, call.now))
    return wire.nothing(200, modified=job.modified, resource=call.url("jobs", job.id))


async def update(call: Call) -> Response:
    """PUT /jobs/{jobId}"""
    given = call.decode(JobUpdate)
    job = await _change(call, lambda tx, row: jobs.update(tx, row, given, call.now))
    return wire.nothing(200, modified=job.modified, resource=call.url("jobs", job.id))


async def disable(call: Call) -> Response:
    """POST /jobs/{jobId}/disable"""
    option = call.decode(JobDisable).disable_tasks
    job = await _change(call, lambda tx, row: jobs.disable(tx, row, option, call.now))
    return wire.nothing(202, modified=job.modified, resource=call.url("jobs", job.id, "disable"))


async def enable(call: Call) -> Response:
    """POST /jobs/{jobId}/enable"""
    job = await _change(call, lambda tx, row: jobs.enable(tx, row, call.now))
    return wire.nothing(202, modified=job.modified, resource=call.url("jobs", job.id, "enable"))


async def terminate(call: Call) -> Response:
    """POST /jobs/{jobId}/terminate"""
    force = call.flag("force")
    reason = call.decode(JobTerminate, empty=JobTerminate()).terminate_reason
    job = await _change(call, lambda tx, row: jobs.terminate(tx, row, reason, call.now, force=force))
    return wire.nothing(202, modified=job.modified, resource=call.url("jobs", job.id, "terminate"))


async def delete(call: Call) -> Response:
    """DELETE /jobs/{jobId}: the only change that a job takes in every state but deleting."""
    force = call.flag("force")

    def unit(tx: Tx, job_id: str, conditions: Conditions, now: int) -> None:
        job = lookup.job(tx, job_id)
        conditions.check(job.modified)
        jobs.delete(tx, job, now, force=force)

    await call.db.run(unit, call.ids["job_id"], call.conditions(), call.now)
    return wire.nothing(202)


async def special_task_status(call: Call) -> Response:
    """GET /jobs/{jobId}/jobpreparationandreleasetaskstatus"""
    after, most = call.page()

    def query(reader: Reader, job_id: str) -> tuple[JobRow, list[SpecialTaskRow]]:
        job = lookup.job(reader, job_id)
        if job.preparation_id is None:
            raise BatchError("JobPreparationTaskOrReleaseTaskNotSpecified")
        return job, special_rows.page(reader, job.pk, after, most + 1)

    job, page = await call.db.read(query, call.ids["job_id"])
    by_node = {key: list(rows) for key, rows in groupby(page, key=lambda row: row.node_pk)}
    shown = list(by_node)[:most]
    link = call.next_link(shown[-1]) if len(by_node) > most else None
    items = [views.special_tasks(by_node[key], job, call) for key in shown]
    return wire.listing(call.base, "jobpreparationandreleasetaskstatuslist", items, link)


async def task_counts(call: Call) -> Response:
    """GET /jobs/{jobId}/taskcounts"""

    def query(reader: Reader, job_id: str) -> JobCounts:
        job = lookup.job(reader, job_id)
        if job.state == JobState.DELETING:
            raise BatchError("JobBeingDeleted")
        return rows.counts(reader, job.pk)

    return wire.element(call.base, "taskcountsresult", views.task_counts(await call.db.read(query, call.ids["job_id"])))
