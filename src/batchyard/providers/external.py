"""Nodes whose agents somebody else starts, on this machine or on others: a place is kept for each, and its token.

A node is a directory `{nodes}/{node id}` with a file `token`, readable by its owner only. Who starts
`batchyard agent --token-file` with it becomes the node; whether one did is known from its words alone, so a node that
never speaks stays `starting`, and one that falls silent becomes unknown.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import structlog

from batchyard.providers.base import Handle, NoCapacity, NodeOrder, Seen

log = structlog.get_logger()


class ExternalProvider:
    """At most `max_nodes` places, with the `others` that are none of this directory's."""

    restarts = False

    def __init__(self, directory: Path, max_nodes: int, *, others: Callable[[], int] = lambda: 0) -> None:
        self._directory = directory
        self._others = others
        self._max_nodes = max_nodes

    async def launch(self, order: NodeOrder) -> Handle:
        """Keep a place for a node. Raises NoCapacity."""
        home = self._directory / order.node_id
        if not home.exists():
            if self.count() + self._others() >= self._max_nodes:
                raise NoCapacity(f"this server is set to have {self._max_nodes} nodes at most")
            self._directory.mkdir(mode=0o711, exist_ok=True)
            home.mkdir(mode=0o700)
        new = home / "token.new"
        new.touch(mode=0o600)
        new.write_text(order.token)
        new.replace(home / "token")  # at once: whoever waits for the file reads all of it
        log.info("node may join", node=order.node_id, pool=order.pool_id, token_file=str(home / "token"))
        return str(home)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """A node is there as long as its token is."""
        return {handle: Seen.ALIVE if os.path.exists(f"{handle}/token") else Seen.GONE for handle in handles}

    async def why(self, handle: Handle) -> str:
        """Nobody tells."""
        return ""

    async def stop(self, handles: Sequence[Handle]) -> None:
        """Take the tokens back until the next launch; an agent that has one already learns from the server that it is over."""
        for handle in handles:
            Path(handle, "token").unlink(missing_ok=True)

    async def release(self, handles: Sequence[Handle]) -> None:
        """Give the places up; their tokens are good for nothing once the nodes are gone."""
        await asyncio.to_thread(_remove, [Path(handle) for handle in handles])

    async def sweep(self, known: Collection[str]) -> None:
        """Give up what an earlier server kept and never noted: places that are no known node's."""
        await asyncio.to_thread(_remove, [home for home in self._homes() if home.name not in known])

    async def stop_all(self) -> None:
        """Nothing: agents wait until a server answers again."""

    def count(self) -> int:
        """Places of this directory."""
        return len(self._homes())

    def _homes(self) -> list[Path]:
        return [home for home in self._directory.iterdir() if home.is_dir()] if self._directory.exists() else []


def _remove(homes: Sequence[Path]) -> None:
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)
