"""Autoscale operations of pools, and the read beside them that tells how a pool was scaled."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.autoscale import settings
from batchyard.engine.checks import autoscale as checks
from batchyard.engine.pools import pools
from batchyard.model.errors import BatchError
from batchyard.model.job import AutoPoolSpecification
from batchyard.model.pool import PoolEnableAutoScale, PoolEvaluateAutoScale
from batchyard.rules.conditions import Conditions
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx


async def enable(call: Call) -> Response:
    """POST /pools/{poolId}/enableautoscale"""

    def unit(tx: Tx, pool_id: str, wanted: PoolEnableAutoScale, conditions: Conditions, shortest_us: int, now: int) -> PoolView:
        pool = pools.open_pool(tx, pool_id)
        conditions.check(pool.modified)
        return settings.enable(tx, pool, wanted, shortest_us, now)

    wanted = call.decode(PoolEnableAutoScale, empty=PoolEnableAutoScale())
    await read_ahead(wanted.auto_scale_formula)
    shortest_us = call.services.shortest_autoscale_us
    pool = await call.db.run(unit, call.ids["pool_id"], wanted, call.conditions(), shortest_us, call.now)
    return wire.nothing(200, modified=pool.modified, resource=call.url("pools", pool.id, "enableautoscale"))


async def read_ahead(formula: str | None) -> None:
    """Parse a formula beside the writer, which then finds it read: a long one takes a tenth of a second. Raises what it raises."""
    if formula is not None:
        await asyncio.to_thread(checks.formula, formula)


async def read_ahead_of(spec: AutoPoolSpecification | None) -> None:
    """The same for the formula of an auto pool; what is wrong with it is told by whoever makes the pool."""
    if spec is not None and spec.pool is not None and spec.pool.enable_auto_scale:
        with contextlib.suppress(BatchError):
            await read_ahead(spec.pool.auto_scale_formula)


async def disable(call: Call) -> Response:
    """POST /pools/{poolId}/disableautoscale"""

    def unit(tx: Tx, pool_id: str, now: int) -> PoolView:
        return settings.disable(tx, pools.open_pool(tx, pool_id), now)

    pool = await call.db.run(unit, call.ids["pool_id"], call.now)
    return wire.nothing(200, modified=pool.modified, resource=call.url("pools", pool.id, "disableautoscale"))


async def evaluate(call: Call) -> Response:
    """POST /pools/{poolId}/evaluateautoscale"""
    pool_id = call.ids["pool_id"]
    run = await call.db.read(settings.evaluate, pool_id, call.decode(PoolEvaluateAutoScale), call.now)
    metadata = wire.encode({"odata.metadata": f"{call.base}/$metadata#Microsoft.Azure.Batch.Protocol.Entities.AutoScaleRun"})
    response = Response(wire.splice(metadata, wire.encode(run)), media_type=wire.JSON)
    return wire.tag(response, None, call.url("pools", pool_id, "evaluateautoscale"))


async def report(call: Call) -> Response:
    """GET /batchyard/autoscale/pools/{poolId}"""
    found = await call.db.read(settings.report, call.ids["pool_id"], samples=call.flag("samples"))
    return wire.element(call.base, "autoscalereports", wire.encode(found))
