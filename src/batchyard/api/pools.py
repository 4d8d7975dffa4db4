"""Pool operations."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api import autoscale, selection, views, wire
from batchyard.api.call import Call
from batchyard.engine import pools
from batchyard.model.errors import BatchError
from batchyard.model.pool import PoolCreateContent, PoolResize
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.store import pools as rows
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /pools"""
    sent = call.decode(PoolCreateContent)
    if sent.enable_auto_scale:
        await autoscale.read_ahead(sent.auto_scale_formula)
    pool = await call.db.run(pools.add, sent, call.now, shortest_interval_us=call.services.shortest_autoscale_us)
    return wire.nothing(201, modified=pool.modified, resource=call.url("pools", pool.id), location=True)


async def list_(call: Call) -> Response:
    """GET /pools"""
    chosen, found = selection.of(call, selection.POOL), call.filter(odata.POOLS)
    page = await call.db.read(rows.filtered, found, *call.page())
    items = chosen.all(views.pool(row, call) for row in page.rows)
    return wire.listing(call.base, "pools", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /pools/{poolId}"""
    chosen, pool = selection.of(call, selection.POOL), await _find(call)
    return wire.tag(wire.element(call.base, "pools", chosen.one(views.pool(pool, call))), pool.modified)


async def exists(call: Call) -> Response:
    """HEAD /pools/{poolId}"""
    return wire.nothing(200, modified=(await _find(call)).modified)


async def _find(call: Call) -> PoolView:
    pool = await call.db.read(rows.find, call.ids["pool_id"])
    if pool is None:
        raise BatchError("PoolNotFound")
    call.conditions().check(pool.modified, reading=True)
    return pool


async def delete(call: Call) -> Response:
    """DELETE /pools/{poolId}"""

    def unit(tx: Tx, pool_id: str, conditions: Conditions, now: int) -> None:
        pool = pools.open_pool(tx, pool_id)
        conditions.check(pool.modified)
        pools.delete(tx, pool, now)

    await call.db.run(unit, call.ids["pool_id"], call.conditions(), call.now)
    return wire.nothing(202)


async def resize(call: Call) -> Response:
    """POST /pools/{poolId}/resize"""

    def unit(tx: Tx, pool_id: str, wanted: PoolResize, conditions: Conditions, now: int) -> PoolView:
        pool = pools.open_pool(tx, pool_id)
        conditions.check(pool.modified)
        return pools.resize(tx, pool, wanted, now)

    pool = await call.db.run(unit, call.ids["pool_id"], call.decode(PoolResize), call.conditions(), call.now)
    return wire.nothing(202, modified=pool.modified, resource=call.url("pools", pool.id, "resize"))
