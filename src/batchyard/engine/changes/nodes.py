"""Changes of the state of compute nodes."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import NODE, NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.tx import Tx


def change_node(tx: Tx, node: NodeRow, happened: NodeHappened, now: int, *, cause: str | None = None, **columns: Any) -> NodeRow:
    """Move a node to the state that follows; the node as it is then. Raises IllegalChange, Conflict."""
    state = NODE.after(node.state, happened)
    fresh = node_rows.set_state(tx, node, columns | {"state": state, "state_time": now})
    tx.log(now, "node", node.pk, happened, old=node.state, new=state, cause=cause)
    return fresh
