"""Disturbing a node on demand (docs/chaos.md): only a server that was started with `--chaos` knows the operation.

It needs an account key: a task's token is good for its job and nothing else, so it never comes this far.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.nodes import node_changes
from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState
from batchyard.model.sync import Chaos, FileRequest
from batchyard.store import nodes as rows
from batchyard.store.nodes import NodeView
from batchyard.store.tx import Tx

NOTICE_S = 30.0
"""What a task gets before its machine is taken away when nothing else is asked for, as the service gives it."""
_LONGEST_S = 86_400
_WITH_AGENT = (
    NodeState.IDLE,
    NodeState.RUNNING,
    NodeState.OFFLINE,
    NodeState.UNUSABLE,
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
)


class ChaosRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to do to the node; `seconds` is the notice of `preempt`, or by how much `slow` delays every start."""

    kind: Literal["preempt", "kill", "slow", "disk-full", "heal"]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=_LONGEST_S)] | None = None


class Disturbed(msgspec.Struct, rename="camel"):
    """Which node it was."""

    pool_id: str
    node_id: str
    kind: str


async def disturb(call: Call) -> Response:
    """POST /batchyard/chaos/nodes/{nodeId}"""
    if not call.services.chaos:
        raise BatchError("ResourceNotFound", Reason="The server was started without --chaos")
    if call.by_task:
        raise BatchError("InsufficientAccountPermissions")
    wish = call.decode(ChaosRequest)
    if wish.kind == "slow" and wish.seconds is None:
        raise BatchError("MissingRequiredProperty", PropertyName="seconds", Reason="The property is required for slow")
    if wish.kind == "preempt":
        node = await call.db.run(preempt, call.ids["node_id"], call.now, NOTICE_S if wish.seconds is None else wish.seconds)
    else:
        node = await call.db.read(rows.by_start, call.ids["node_id"])
        if node.state not in _WITH_AGENT:
            raise _not_now(f"The node is {node.state}: no agent speaks for it")
        await _ask(call, node, Chaos(kind=wish.kind, seconds=wish.seconds or 0.0))
    return Response(wire.encode(Disturbed(node.pool_id, node.id, wish.kind)), media_type=wire.JSON)


def preempt(tx: Tx, node_id: str, now: int, notice_s: float) -> NodeView:
    """Take a spot node's machine away after a notice. Raises NodeNotFound, OperationNotValidOnNode, what its state forbids."""
    node = rows.by_start(tx, node_id)
    node_changes.preempt(tx, node, int(notice_s * 1e6), now)
    return node


async def _ask(call: Call, node: NodeView, chaos: Chaos) -> None:
    """Have the agent do it. Raises Forbidden, OperationNotValidOnNode."""
    request = FileRequest(id="", operation="chaos", content=msgspec.Raw(msgspec.json.encode(chaos)))
    try:
        exchange = await call.services.relay.ask(node.pk, request)
    except BatchError as error:
        if error.code == "Forbidden":
            raise BatchError("Forbidden", Reason="The node's agent was started without --chaos") from None
        if error.code == "TaskFilesUnavailable":
            raise _not_now("The node's agent does not answer") from None
        raise
    exchange.close()


def _not_now(reason: str) -> BatchError:
    return BatchError("OperationNotValidOnNode", Reason=reason)
