"""Providers with something wrong; the name says what."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from engine_world import Steady

from batchyard.providers.base import Handle, NoCapacity, NodeOrder, Seen


class NoRoom(Steady):
    """Has machines for so many nodes and not one more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def launch(self, order: NodeOrder) -> Handle:
        if len(self.machines) >= self.room:
            raise NoCapacity(f"room for {self.room} nodes only")
        return await super().launch(order)


class FailsToLaunch(Steady):
    """Raises at the first launches."""

    def __init__(self, times: int = 1_000_000) -> None:
        super().__init__()
        self.left, self.asked = times, 0

    async def launch(self, order: NodeOrder) -> Handle:
        self.asked += 1
        if self.left > 0:
            self.left -= 1
            raise OSError("the hypervisor is on fire")
        return await super().launch(order)


class SlowProvider(Steady):
    """Launches nodes of the pool `slow`, or of any pool if told so, only when the test lets it."""

    def __init__(self, pool_id: str | None = None) -> None:
        super().__init__()
        self.pool_id = pool_id
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.waiting: list[str] = []

    async def launch(self, order: NodeOrder) -> Handle:
        if self.pool_id in (None, order.pool_id):
            self.waiting.append(order.node_id)
            self.asked.set()
            await self.go.wait()
        return await super().launch(order)


class AnswersLate(Steady):
    """Has the machine long before it says so, and releases what nobody knows when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def launch(self, order: NodeOrder) -> Handle:
        handle = await super().launch(order)
        await self.go.wait()
        return handle

    async def sweep(self, known: Collection[str]) -> None:
        await self.release([handle for handle, order in self.machines.items() if order.node_id not in known])


class LosesNodes(Steady):
    """Its machines vanish when the test says so, and it knows why."""

    reason = ""

    def lose(self, *handles: Handle | None) -> None:
        self.gone |= {handle for handle in handles if handle is not None}

    async def why(self, handle: Handle) -> str:
        return self.reason


class ForgetsAnswers(Steady):
    """Raises at the first release, after having released."""

    failed = False

    async def release(self, handles: Sequence[Handle]) -> None:
        await super().release(handles)
        if not self.failed:
            self.failed = True
            raise OSError("the answer was lost")


class HoldsOn(Steady):
    """Cannot release some of its machines, and fails a call that is about one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: set[Handle] = set()
        self.calls: list[int] = []

    async def release(self, handles: Sequence[Handle]) -> None:
        self.calls.append(len(handles))
        if self.stuck & set(handles):
            raise OSError("the machine is held by somebody")
        await super().release(handles)


class Blind(Steady):
    """Cannot say what became of its machines while `blind`, or says it only later."""

    def __init__(self) -> None:
        super().__init__()
        self.blind, self.asked = True, 0
        self.open = asyncio.Event()
        self.open.set()
        self.looking = asyncio.Event()

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        self.asked += 1
        if self.blind:
            raise TimeoutError
        seen = await super().observe(handles)
        self.looking.set()
        await self.open.wait()
        return seen
