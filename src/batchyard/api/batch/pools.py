"""Pool operations."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from batchyard.api.batch import autoscale, selection, views
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.pools import pools
from batchyard.model.errors import BatchError
from batchyard.model.pool import NodeRemove, PoolCreateContent, PoolPatch, PoolResize, PoolUpdateProperties
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.store import pools as rows
from batchyard.store import usage
from batchyard.store.filters import Page
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx


async def add(call: Call) -> Response:
    """POST /pools"""
    services, sent = call.services, call.decode(PoolCreateContent)
    if sent.enable_auto_scale:
        await autoscale.read_ahead(sent.auto_scale_formula)
    shortest_us = services.shortest_autoscale_us
    pool = await call.db.run(pools.add, sent, call.now, services.offer, shortest_interval_us=shortest_us)
    return wire.nothing(201, modified=pool.modified, resource=call.url("pools", pool.id), location=True)


async def list_(call: Call) -> Response:
    """GET /pools"""
    chosen, found = selection.of(call, selection.POOL), call.filter(odata.POOLS)
    after, most = call.page()
    with_stats = call.expands_stats()

    def query(reader: Reader) -> tuple[Page[PoolView], list[int | None]]:
        page = rows.filtered(reader, found, after, most)
        return page, [_core_time(reader, row, call.now) if with_stats else None for row in page.rows]

    page, core_times = await call.db.read(query)
    items = chosen.all(views.pool(row, call, core_time) for row, core_time in zip(page.rows, core_times, strict=True))
    return wire.listing(call.base, "pools", items, call.next_link(page.more))


def _core_time(reader: Reader, pool: PoolView, now: int) -> int:
    return usage.dedicated_core_time(reader, pool.pk, now)


async def get(call: Call) -> Response:
    """GET /pools/{poolId}"""
    chosen = selection.of(call, selection.POOL)
    with_stats = call.expands_stats()

    def query(reader: Reader, pool_id: str) -> tuple[PoolView | None, int | None]:
        pool = rows.find(reader, pool_id)
        return pool, _core_time(reader, pool, call.now) if pool is not None and with_stats else None

    pool, core_time = await call.db.read(query, call.ids["pool_id"])
    pool = _readable(call, pool)
    return wire.tag(wire.element(call.base, "pools", chosen.one(views.pool(pool, call, core_time))), pool.modified)


async def exists(call: Call) -> Response:
    """HEAD /pools/{poolId}"""
    pool = _readable(call, await call.db.read(rows.find, call.ids["pool_id"]))
    return wire.nothing(200, modified=pool.modified)


def _readable(call: Call, pool: PoolView | None) -> PoolView:
    if pool is None:
        raise BatchError("PoolNotFound")
    call.conditions().check(pool.modified, reading=True)
    return pool


async def _change(call: Call, use: Callable[[Tx, PoolView], PoolView]) -> PoolView:
    """The pool as a use case leaves it; it must be open and as the conditional headers want it."""

    def unit(tx: Tx, pool_id: str, conditions: Conditions) -> PoolView:
        pool = pools.open_pool(tx, pool_id)
        conditions.check(pool.modified)
        return use(tx, pool)

    return await call.db.run(unit, call.ids["pool_id"], call.conditions())


async def patch(call: Call) -> Response:
    """PATCH /pools/{poolId}"""
    change = call.decode(PoolPatch)
    pool = await _change(call, lambda tx, row: pools.patch(tx, row, change, call.now, call.services.offer))
    return wire.nothing(200, modified=pool.modified, resource=call.url("pools", pool.id))


async def update_properties(call: Call) -> Response:
    """POST /pools/{poolId}/updateproperties"""
    given = call.decode(PoolUpdateProperties)
    pool = await _change(call, lambda tx, row: pools.update_properties(tx, row, given, call.now, call.services.offer))
    return wire.nothing(204, modified=pool.modified, resource=call.url("pools", pool.id, "updateproperties"))


async def resize(call: Call) -> Response:
    """POST /pools/{poolId}/resize"""
    wanted = call.decode(PoolResize)
    pool = await _change(call, lambda tx, row: pools.resize(tx, row, wanted, call.now))
    return wire.nothing(202, modified=pool.modified, resource=call.url("pools", pool.id, "resize"))


async def stop_resize(call: Call) -> Response:
    """POST /pools/{poolId}/stopresize"""
    pool = await _change(call, lambda tx, row: pools.stop_resize(tx, row, call.now))
    return wire.nothing(202, modified=pool.modified, resource=call.url("pools", pool.id, "stopresize"))


async def remove_nodes(call: Call) -> Response:
    """POST /pools/{poolId}/removenodes"""
    leaving = call.decode(NodeRemove)
    pool = await _change(call, lambda tx, row: pools.remove_nodes(tx, row, leaving, call.now))
    return wire.nothing(202, modified=pool.modified, resource=call.url("pools", pool.id, "removenodes"))


async def delete(call: Call) -> Response:
    """DELETE /pools/{poolId}"""

    def unit(tx: Tx, pool_id: str, conditions: Conditions, now: int) -> None:
        pool = pools.open_pool(tx, pool_id)
        conditions.check(pool.modified)
        pools.delete(tx, pool, now)

    await call.db.run(unit, call.ids["pool_id"], call.conditions(), call.now)
    return wire.nothing(202)
