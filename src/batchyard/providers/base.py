"""The seam between the engine and whatever supplies machines (decision D12).

Four calls, all repeatable: launching the same node twice gives the same node, stopping or releasing what is gone is no
error, one observation sees many nodes. A call may take minutes and may fail in any way: the engine waits beside its
loops, never makes two calls for one node at once, and repeats what failed, later each time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

Handle = str
"""A provider's name for a node; opaque text kept in the node's row."""


class NodeOrder(msgspec.Struct, frozen=True):
    """A node that shall exist."""

    pool_id: str
    node_id: str
    token: str
    """What its agent shows to the server."""
    vm_size: str
    slots: int
    dedicated: bool
    cores: int = 0
    """Cores that its tasks may use; 0 for no limit."""
    memory_bytes: int = 0
    """Memory that its tasks may use; 0 for no limit."""
    communicates: bool = False
    """Nodes of its pool may reach each other."""
    labels: Mapping[str, str] = {}
    """The operator's words about the size, for the provider to choose a machine by."""


class Seen(StrEnum):
    """What a provider sees of a node."""

    ALIVE = "alive"
    GONE = "gone"
    PREEMPTED = "preempted"
    """The machine was taken away; another launch brings the node back once there is capacity."""


class NoCapacity(Exception):
    """The provider has no room for another node now; the message says why."""


class NodeProvider(Protocol):
    """Where nodes come from."""

    restarts: bool = False
    """It can end a node's agent and start it anew, however the agent is."""

    async def launch(self, order: NodeOrder) -> Handle:
        """Start the node's agent, unless it runs. Raises NoCapacity; any other error is a launch that failed and is tried again."""
        ...

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """What became of the nodes behind these handles."""
        ...

    async def why(self, handle: Handle) -> str:
        """Why a node is gone, as far as the provider knows; empty when it does not."""
        return ""

    async def stop(self, handles: Sequence[Handle]) -> None:
        """End the agents with all they run; returns when they have ended. What nodes keep stays where the provider can keep it."""
        ...

    async def release(self, handles: Sequence[Handle]) -> None:
        """End the nodes with all they run and keep; returns when they are gone."""
        ...

    async def sweep(self, known: Collection[str]) -> None:
        """Release this server's nodes whose ids are not known: launched, and never noted because the server was killed."""
        return None
