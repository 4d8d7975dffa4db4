"""On whose machine a node is, where several servers have a world open and each has nodes on its own machine.

The server that plans gives each new node to a server that has room. From then on that server alone launches, watches, stops and
releases it, whoever plans: nobody else can reach the machine. A node of a server that has vanished is what a node on a machine that was
lost is: silent, so unknown, until its server comes back, or it is not wanted any more.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from batchyard.model.states import NodeState
from batchyard.store import nodes as node_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx


class Here(msgspec.Struct, frozen=True):
    """A server, and what it knows of all."""

    server: str
    rooms: Mapping[str, int]
    """How many more nodes the machine of each server that lives has room for."""
    bound: frozenset[str]
    """Providers whose nodes are on the machine of their server."""
    there: frozenset[str] = frozenset()
    """Servers that lived a moment ago, so that their machines need not be given up."""
    missed: int = 0
    """How often this server was taken for gone so far: others may have given up nodes of its machine."""

    def has(self, node: NodeRow) -> bool:
        """True for a node that this server looks after when it plans: its own, and what is nobody's."""
        return node.provider not in self.bound or node.server in (None, self.server)

    def lost(self, node: NodeRow) -> bool:
        """True for a node on the machine of a server that has vanished."""
        return node.provider in self.bound and node.server is not None and node.server not in self.there


class Rooms:
    """Gives nodes to servers, each at most what it has room for; in one round of planning."""

    def __init__(self, here: Here) -> None:
        self._here, self._left = here, dict(here.rooms)

    def settle(self, tx: Tx, node: NodeRow) -> NodeRow:
        """The node, given to a server when it is nobody's: to the one with the most room, where nobody has any to who plans."""
        here = self._here
        if node.provider not in here.bound or node.state == NodeState.LEAVING_POOL:
            return node
        if node.server is not None and (node.handle is not None or node.server in here.rooms):
            return node
        server = max(self._left, key=lambda name: (self._left[name], name == here.server), default=here.server)
        if self._left.get(server, 0) <= 0:
            server = here.server  # which says why there is none
        self._left[server] = self._left.get(server, 0) - 1
        return node if server == node.server else node_rows.move(tx, node, server=server)


def elsewhere(tx: Tx, node_pk: int, server: str) -> bool:
    """A server has no room after all for a node that was given to it: another one gets it. False when the node is not its to give."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.server != server or node.handle is not None:
        return False
    node_rows.move(tx, node, server=None)
    return True


def at_home(reader: Reader, here: Here | None) -> set[str]:
    """Ids of all nodes that have something here which stays."""
    nodes = [node for node in node_rows.every(reader) if node.state != NodeState.DEALLOCATED]
    return {node.id for node in nodes if here is None or node.server == here.server}
