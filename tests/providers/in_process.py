"""A provider of machines that exist in memory only, as an engine elsewhere has them: it can be slow, and fail on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec

from batchyard.providers.base import Handle, NoCapacity, NodeOrder, NodeProvider, Seen

STAGES = ("asked", "made", "booted")


class Machine(msgspec.Struct):
    """A machine with what its node keeps."""

    runs: bool = False
    files: set[str] = msgspec.field(default_factory=set)


class Engine:
    """What lives on when the server does not: the machines, and what is wrong with making them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.machines: dict[Handle, Machine] = {}
        self.fails_at: str | None = None
        self.slow: dict[str, asyncio.Event] = {}


class InProcess(NodeProvider):
    """Nodes of an engine; one object per life of the server."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def launch(self, order: NodeOrder) -> Handle:
        handle = f"i-{order.node_id}"
        new = handle not in self.engine.machines
        self._stage("asked")
        if new and len(self.engine.machines) >= self.engine.limit:
            raise NoCapacity(f"the engine has room for {self.engine.limit}")
        machine = self.engine.machines.setdefault(handle, Machine())
        try:
            self._stage("made")
            if order.node_id in self.engine.slow:
                await self.engine.slow[order.node_id].wait()
            self._stage("booted")
        except OSError:
            if new:
                self.engine.machines.pop(handle, None)
            raise
        machine.runs = True
        return handle

    def _stage(self, name: str) -> None:
        if self.engine.fails_at == name:
            raise OSError(f"it broke when the machine was {name}")

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        alive = {handle for handle, machine in self.engine.machines.items() if machine.runs}
        return {handle: Seen.ALIVE if handle in alive else Seen.GONE for handle in handles}

    async def stop(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            if handle in self.engine.machines:
                self.engine.machines[handle].runs = False

    async def release(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            if machine := self.engine.machines.pop(handle, None):
                machine.runs = False

    async def sweep(self, known: Collection[str]) -> None:
        await self.release([handle for handle in self.engine.machines if handle.removeprefix("i-") not in known])
