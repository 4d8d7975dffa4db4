"""Why is it not running? Reads beside the Azure operations."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.explain import explain


async def task(call: Call) -> Response:
    """GET /batchyard/explain/jobs/{jobId}/tasks/{taskId}"""
    found = await call.db.read(explain.task, call.ids["job_id"], call.ids["task_id"], call.now)
    return wire.element(call.base, "explanations", wire.encode(found))


async def job(call: Call) -> Response:
    """GET /batchyard/explain/jobs/{jobId}"""
    return wire.element(call.base, "explanations", wire.encode(await call.db.read(explain.job, call.ids["job_id"], call.now)))


async def schedule(call: Call) -> Response:
    """GET /batchyard/explain/jobschedules/{jobScheduleId}"""
    quota = call.services.offer.quotas.active_jobs
    found = await call.db.read(explain.schedule, call.ids["schedule_id"], call.now, quota)
    return wire.element(call.base, "explanations", wire.encode(found))


async def pool(call: Call) -> Response:
    """GET /batchyard/explain/pools/{poolId}"""
    return wire.element(call.base, "explanations", wire.encode(await call.db.read(explain.pool, call.ids["pool_id"], call.now)))


async def node(call: Call) -> Response:
    """GET /batchyard/explain/pools/{poolId}/nodes/{nodeId}"""
    found = await call.db.read(explain.node, call.ids["pool_id"], call.ids["node_id"], call.now)
    return wire.element(call.base, "explanations", wire.encode(found))
