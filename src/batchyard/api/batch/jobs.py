"""Job operations."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET
from starlette.responses import Response

from batchyard.api.batch import autoscale, selection, views
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine import lookup
from batchyard.engine.auto_pools import auto_pools
from batchyard.engine.work import jobs
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent, JobDisable, JobPatch, JobTerminate, JobUpdate, PoolInformation
from batchyard.model.states import JobState
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.store import jobs as rows
from batchyard.store import special_tasks as special_rows
from batchyard.store.filters import Page
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.reader import Reader
from batchyard.store.special_tasks import SpecialTaskRow
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /jobs"""
    sent = call.decode(JobCreateContent)
    await autoscale.read_ahead_of(sent.pool_info.auto_pool_specification)
    job = await call.db.run(auto_pools.add, sent, call.now, call.demand)
    return wire.nothing(201, modified=job.modified, resource=call.url("jobs", job.id), location=True)


async def list_(call: Call) -> Response:
    """GET /jobs"""
    chosen, found = selection.of(call, selection.JOB), call.filter(odata.JOBS)
    after, most = call.page()
    with_stats = call.expands_stats()

    def query(reader: Reader) -> tuple[Page[JobRow], list[JobCounts | None]]:
        page = rows.filtered(reader, found, after, most)
        return page, [rows.counts(reader, row.pk) if with_stats else None for row in page.rows]

    page, counts = await call.db.read(query)
    items = chosen.all(views.job(row, call, its) for row, its in zip(page.rows, counts, strict=True))
    return wire.listing(call.base, "jobs", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /jobs/{jobId}"""
    chosen = selection.of(call, selection.JOB)
    with_stats = call.expands_stats()

    def query(reader: Reader, job_id: str) -> tuple[JobRow, JobCounts | None]:
        job = lookup.job(reader, job_id)
        return job, rows.counts(reader, job.pk) if with_stats else None

    job, counts = await call.db.read(query, call.ids["job_id"])
    call.conditions().check(job.modified, reading=True)
    return wire.tag(wire.element(call.base, "jobs", chosen.one(views.job(job, call, counts))), job.modified)


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

    def use(tx: Tx, row: JobRow) -> JobRow:
        _keep_pool(call, row, None if change.pool_info is UNSET else change.pool_info)
        return jobs.patch(tx, row, change, call.now, call.demand)

    job = await _change(call, use)
    return wire.nothing(200, modified=job.modified, resource=call.url("jobs", job.id))


async def update(call: Call) -> Response:
    """PUT /jobs/{jobId}"""
    given = call.decode(JobUpdate)

    def use(tx: Tx, row: JobRow) -> JobRow:
        _keep_pool(call, row, given.pool_info)
        return jobs.update(tx, row, given, call.now, call.demand)

    job = await _change(call, use)
    return wire.nothing(200, modified=job.modified, resource=call.url("jobs", job.id))


def _keep_pool(call: Call, job: JobRow, wanted: PoolInformation | None) -> None:
    """Pools are the boundary between tasks, so a task's token takes no job across it, nor keeps its pool alive. Raises Forbidden."""
    if not call.by_task or wanted is None:
        return
    if job.auto_pool is not None:
        jobs.keeps_pool(job, wanted, call.demand)
    elif wanted.pool_id is None or wanted.pool_id.lower() != job.pool_key:
        raise BatchError("Forbidden", Reason="A task's token does not allow moving its job to another pool")


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
    chosen, found = selection.of(call, selection.SPECIAL_TASKS), call.filter(odata.SPECIAL_TASKS)
    after, most = call.page()

    def query(reader: Reader, job_id: str) -> tuple[JobRow, Page[list[SpecialTaskRow]]]:
        job = lookup.job(reader, job_id)
        if job.preparation_id is None:
            raise BatchError("JobPreparationTaskOrReleaseTaskNotSpecified")
        return job, special_rows.filtered(reader, job.pk, found, after, most)

    job, page = await call.db.read(query, call.ids["job_id"])
    items = chosen.all(views.special_tasks(runs, job, call) for runs in page.rows)
    return wire.listing(call.base, "jobpreparationandreleasetaskstatuslist", items, call.next_link(page.more))


async def task_counts(call: Call) -> Response:
    """GET /jobs/{jobId}/taskcounts"""

    def query(reader: Reader, job_id: str) -> JobCounts:
        job = lookup.job(reader, job_id)
        if job.state == JobState.DELETING:
            raise BatchError("JobBeingDeleted")
        return rows.counts(reader, job.pk)

    return wire.element(call.base, "taskcountsresult", views.task_counts(await call.db.read(query, call.ids["job_id"])))
