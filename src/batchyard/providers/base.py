"""The seam between the engine and whatever supplies machines (decision D12).

Three calls, all repeatable: launching the same node twice gives the same node, releasing what is gone is no error,
one observation sees many nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

Handle = str
"""A provider's name for a node; opaque text kept in the node's row."""


class NodeOrder(msgspec.Struct, frozen=True):
    """A node that shall exist."""

    pool_id: str
    node_id: str
    number: int
    """Small number that no other node has while this one lives."""
    token: str
    """What its agent shows to the server."""
    vm_size: str
    slots: int
    dedicated: bool


class Seen(StrEnum):
    """What a provider sees of a node."""

    ALIVE = "alive"
    GONE = "gone"


class NoCapacity(Exception):
    """The provider has no room for another node now; the message says why."""


class NodeProvider(Protocol):
    """Where nodes come from."""

    async def launch(self, order: NodeOrder) -> Handle:
        """Start the node's agent, unless it runs. Raises NoCapacity."""
        ...

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """What became of the nodes behind these handles."""
        ...

    async def release(self, handles: Sequence[Handle]) -> None:
        """End the nodes with all they run and keep; returns when they are gone."""
        ...
