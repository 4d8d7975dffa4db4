"""What every provider of nodes does (decision D12): launch, observe and release may be repeated."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod

import pytest

from batchyard.providers.base import NoCapacity, NodeOrder, NodeProvider, Seen

LIMIT = 3
_numbers = itertools.count(1)


def order(node_id: str | None = None) -> NodeOrder:
    """A node that nobody ordered before, unless it is named."""
    number = next(_numbers)
    return NodeOrder("pool", node_id or f"tvmps_{number}_d", number, f"{number}.token", "small", 2, True)


class ProviderSuite(ABC):
    """Run as `class TestMine(ProviderSuite)` with the three fixtures of words that follow."""

    @abstractmethod
    def again(self, provider: NodeProvider) -> NodeProvider:
        """A new provider over the same nodes, as after a restart of the server."""

    @abstractmethod
    def kill(self, provider: NodeProvider, handle: str) -> None:
        """End the machine behind a handle without asking the provider; returns when it is gone."""

    @abstractmethod
    def machines(self, provider: NodeProvider) -> int:
        """How many machines there really are."""

    async def test_a_launched_node_is_alive(self, provider: NodeProvider) -> None:
        handle = await provider.launch(order())
        assert await provider.observe([handle]) == {handle: Seen.ALIVE}
        assert self.machines(provider) == 1

    async def test_launching_twice_gives_the_same_node(self, provider: NodeProvider) -> None:
        wanted = order()
        handle = await provider.launch(wanted)
        assert await provider.launch(wanted) == handle
        assert await self.again(provider).launch(wanted) == handle
        assert self.machines(provider) == 1

    async def test_one_observation_sees_many(self, provider: NodeProvider) -> None:
        handles = [await provider.launch(order()) for _ in range(LIMIT)]
        self.kill(provider, handles[1])
        seen = await provider.observe(handles)
        assert [seen[handle] for handle in handles] == [Seen.ALIVE, Seen.GONE, Seen.ALIVE]
        assert await provider.observe([]) == {}

    async def test_a_dead_node_comes_back_under_the_same_handle(self, provider: NodeProvider) -> None:
        wanted = order()
        handle = await provider.launch(wanted)
        self.kill(provider, handle)
        assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert await provider.launch(wanted) == handle
        assert await provider.observe([handle]) == {handle: Seen.ALIVE}

    async def test_what_is_released_is_gone_and_may_be_released_again(self, provider: NodeProvider) -> None:
        handle = await provider.launch(order())
        for _ in range(2):
            await provider.release([handle])
            assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert self.machines(provider) == 0
        await provider.release([])

    async def test_the_dead_can_be_released(self, provider: NodeProvider) -> None:
        handle = await provider.launch(order())
        self.kill(provider, handle)
        await self.again(provider).release([handle])
        assert await provider.observe([handle]) == {handle: Seen.GONE}

    async def test_there_is_a_limit_for_launches_at_the_same_time_too(self, provider: NodeProvider) -> None:
        results = await asyncio.gather(*(provider.launch(order()) for _ in range(LIMIT + 2)), return_exceptions=True)
        assert sum(isinstance(result, NoCapacity) for result in results) == 2
        assert self.machines(provider) == LIMIT
        handles = [result for result in results if isinstance(result, str)]
        await provider.release(handles[:1])
        await provider.launch(order())
        with pytest.raises(NoCapacity):
            await provider.launch(order())

    async def test_a_restarted_server_finds_its_nodes(self, provider: NodeProvider) -> None:
        handles = [await provider.launch(order()) for _ in range(2)]
        later = self.again(provider)
        assert set((await later.observe(handles)).values()) == {Seen.ALIVE}
        await later.release(handles)
        assert self.machines(provider) == 0
