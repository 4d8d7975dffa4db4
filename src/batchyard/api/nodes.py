"""Compute node operations."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api import selection, views, wire
from batchyard.api.call import Call
from batchyard.model.errors import BatchError
from batchyard.rules import odata
from batchyard.store import nodes as rows
from batchyard.store import pools as pool_rows
from batchyard.store.filters import Page
from batchyard.store.nodes import NodeView
from batchyard.store.reader import Reader


async def list_(call: Call) -> Response:
    """GET /pools/{poolId}/nodes"""
    chosen, found = selection.of(call, selection.NODE), call.filter(odata.NODES)
    after, most = call.page()

    def query(reader: Reader, pool_id: str) -> Page[NodeView]:
        return rows.filtered(reader, _pool(reader, pool_id), found, after, most)

    page = await call.db.read(query, call.ids["pool_id"])
    items = chosen.all(views.node(row, call) for row in page.rows)
    return wire.listing(call.base, "nodes", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}"""
    chosen = selection.of(call, selection.NODE)
    node = await call.db.read(find, call.ids["pool_id"], call.ids["node_id"])
    return wire.element(call.base, "nodes", chosen.one(views.node(node, call)))


def _pool(reader: Reader, pool_id: str) -> int:
    pool = pool_rows.find(reader, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool.pk


def find(reader: Reader, pool_id: str, node_id: str) -> NodeView:
    """Node of a pool. Raises PoolNotFound, NodeNotFound."""
    node = rows.view(reader, _pool(reader, pool_id), node_id)
    if node is None:
        raise BatchError("NodeNotFound")
    return node
