"""Nodes of machines that joined by themselves: nothing is launched and nothing is ended here, their agents come and go by themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from batchyard.providers.base import Handle, NodeOrder, Seen

JOINED = "joined"
"""The provider's name, and the handle of all its nodes."""


class JoinedProvider:
    """Whether a machine is there is known from its agent's words alone."""

    restarts = False

    async def launch(self, order: NodeOrder) -> Handle:
        """Wait for the machine's agent, which has its token."""
        return JOINED

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """All are there."""
        return dict.fromkeys(handles, Seen.ALIVE)

    async def why(self, handle: Handle) -> str:
        """Nobody tells."""
        return ""

    async def stop(self, handles: Sequence[Handle]) -> None:
        """Nothing: the agent learns from the server that it is over."""

    async def release(self, handles: Sequence[Handle]) -> None:
        """Nothing: the agent learns from the server that its node is gone."""

    async def sweep(self, known: Collection[str]) -> None:
        """Nothing is left anywhere."""
