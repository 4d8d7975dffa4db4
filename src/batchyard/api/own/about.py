"""What the server knows of a node: a read beside the Azure operations."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api.batch import node_views, nodes
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.model import times
from batchyard.model.about import AboutNode, NodeEvent
from batchyard.store import events
from batchyard.store.events import EventRow
from batchyard.store.nodes import NodeView
from batchyard.store.reader import Reader

EVENTS = 200


async def node(call: Call) -> Response:
    """GET /batchyard/pools/{poolId}/nodes/{nodeId}"""

    def query(reader: Reader, pool_id: str, node_id: str) -> tuple[NodeView, list[EventRow]]:
        row = nodes.find(reader, pool_id, node_id)
        return row, events.last(reader, "node", row.pk, EVENTS)

    row, happened = await call.db.read(query, call.ids["pool_id"], call.ids["node_id"])
    return wire.element(call.base, "nodes", wire.encode(_about(row, happened)))


def _event(row: EventRow) -> NodeEvent:
    return NodeEvent(time=times.iso(row.at), happened=row.happened, old=row.old, new=row.new, cause=row.cause)


def _about(row: NodeView, happened: list[EventRow]) -> AboutNode:
    about = AboutNode(
        id=row.id,
        pool_id=row.pool_id,
        state=row.state,
        provider=row.provider,
        last_seen=None if row.last_seen is None else times.iso(row.last_seen),
        launches=row.launches,
        launch_error=row.launch_error,
        action=row.action,
        cores=row.cores,
        memory_bytes=row.memory,
        events=[_event(each) for each in happened],
    )
    known = node_views.facts(row)
    if known is not None:
        about.host_name, about.system, about.disk_bytes = known.host_name, known.system, known.disk_bytes
        about.machine_cores, about.machine_memory_bytes = known.cores, known.memory_bytes
        about.process_control, about.switches_users = known.process_control, known.switches_users
        about.limits, about.not_isolated = known.limits, known.not_isolated
    return about
