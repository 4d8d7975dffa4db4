"""Job operations."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api import views, wire
from batchyard.api.call import Call
from batchyard.engine import jobs
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent, JobPatch, JobTerminate
from batchyard.model.states import JobState
from batchyard.rules.conditions import Conditions
from batchyard.store import jobs as rows
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /jobs"""
    job = await call.db.run(jobs.add, call.decode(JobCreateContent), call.now)
    return wire.nothing(201, modified=job.modified, resource=call.url("jobs", job.id), location=True)


async def list_(call: Call) -> Response:
    """GET /jobs"""
    after, most = call.page()
    page = await call.db.read(rows.page, after, most + 1)
    link = call.next_link(page[most - 1].pk) if len(page) > most else None
    return wire.listing(call.base, "jobs", [views.job(row, call) for row in page[:most]], link)


async def get(call: Call) -> Response:
    """GET /jobs/{jobId}"""
    job = await call.db.read(_find, call.ids["job_id"])
    call.conditions().check(job.modified, reading=True)
    return wire.tag(wire.element(call.base, "jobs", views.job(job, call)), job.modified)


def _find(reader: Reader, job_id: str) -> JobRow:
    job = rows.find(reader, job_id)
    if job is None:
        raise BatchError("JobNotFound")
    return job


async def patch(call: Call) -> Response:
    """PATCH /jobs/{jobId}"""

    def unit(tx: Tx, job_id: str, change: JobPatch, conditions: Conditions, now: int) -> JobRow:
        job = jobs.open_job(tx, job_id)
        conditions.check(job.modified)
        return jobs.patch(tx, job, change, now)

    job = await call.db.run(unit, call.ids["job_id"], call.decode(JobPatch), call.conditions(), call.now)
    return wire.nothing(200, modified=job.modified, resource=call.url("jobs", job.id))


async def terminate(call: Call) -> Response:
    """POST /jobs/{jobId}/terminate"""

    def unit(tx: Tx, job_id: str, reason: str | None, conditions: Conditions, now: int) -> JobRow:
        job = jobs.open_job(tx, job_id)
        conditions.check(job.modified)
        return jobs.terminate(tx, job, reason, now)

    reason = call.decode(JobTerminate, empty=JobTerminate()).terminate_reason
    job = await call.db.run(unit, call.ids["job_id"], reason, call.conditions(), call.now)
    return wire.nothing(202, modified=job.modified, resource=call.url("jobs", job.id, "terminate"))


async def delete(call: Call) -> Response:
    """DELETE /jobs/{jobId}"""

    def unit(tx: Tx, job_id: str, conditions: Conditions, now: int) -> None:
        job = jobs.find(tx, job_id)
        conditions.check(job.modified)
        jobs.delete(tx, job, now)

    await call.db.run(unit, call.ids["job_id"], call.conditions(), call.now)
    return wire.nothing(202)


async def task_counts(call: Call) -> Response:
    """GET /jobs/{jobId}/taskcounts"""

    def query(reader: Reader, job_id: str) -> JobCounts:
        job = _find(reader, job_id)
        if job.state == JobState.DELETING:
            raise BatchError("JobBeingDeleted")
        return rows.counts(reader, job.pk)

    return wire.element(call.base, "taskcountsresult", views.task_counts(await call.db.read(query, call.ids["job_id"])))
