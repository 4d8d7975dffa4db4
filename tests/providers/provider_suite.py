"""What every provider of nodes does (decision D12): launch, observe, stop and release may be repeated, and may be broken off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from batchyard.providers.base import NoCapacity, NodeOrder, NodeProvider, Seen

LIMIT = 3
_numbers = itertools.count(1)


def order(node_id: str | None = None) -> NodeOrder:
    """A node that nobody ordered before, unless it is named."""
    number = next(_numbers)
    return NodeOrder("pool", node_id or f"tvmps_{number}_d", f"{number}.token", "small", 2, True)


class Gate(Protocol):
    """What a slow launch waits for."""

    def set(self) -> None:
        """Let it go on."""


class ProviderSuite(ABC):
    """Run as `class TestMine(ProviderSuite)` with the words that follow."""

    stages: Sequence[str]
    """Where a launch can fail."""
    middles: Sequence[str]
    """Where a launch can be when its server is killed."""

    @abstractmethod
    def again(self, provider: NodeProvider) -> NodeProvider:
        """A new provider over the same nodes, as after a restart of the server."""

    @abstractmethod
    def kill(self, provider: NodeProvider, handle: str) -> None:
        """End the machine behind a handle without asking the provider; returns when it is gone."""

    @abstractmethod
    def machines(self, provider: NodeProvider) -> int:
        """How many machines there really are."""

    @abstractmethod
    def remains(self, provider: NodeProvider) -> Sequence[str]:
        """Nodes of which the provider keeps anything."""

    @abstractmethod
    def failing(self, provider: NodeProvider, stage: str) -> AbstractContextManager[None]:
        """While the block runs, launches fail with an OSError at this stage."""

    @abstractmethod
    def slow(self, provider: NodeProvider, node_id: str) -> AbstractContextManager[Gate]:
        """While the block runs, a launch of the node waits for the gate."""

    @abstractmethod
    async def break_off(self, provider: NodeProvider, wanted: NodeOrder, middle: str) -> None:
        """Leave a launch as a killed server leaves it."""

    @abstractmethod
    def keep(self, handle: str, provider: NodeProvider) -> None:
        """Have the node keep a file."""

    @abstractmethod
    def keeps(self, handle: str, provider: NodeProvider) -> bool:
        """Whether it still has it."""

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

    async def test_a_slow_launch_holds_up_nobody(self, provider: NodeProvider) -> None:
        slow, other = order(), order()
        with self.slow(provider, slow.node_id) as gate:
            launching = asyncio.ensure_future(provider.launch(slow))
            handle = await provider.launch(other)
            assert await provider.observe([handle]) == {handle: Seen.ALIVE}
            await provider.release([handle])
            assert not launching.done()
            gate.set()
            late = await launching
        assert await provider.observe([late, handle]) == {late: Seen.ALIVE, handle: Seen.GONE}

    async def test_launching_twice_at_once_gives_one_node(self, provider: NodeProvider) -> None:
        wanted = order()
        first, second = await asyncio.gather(provider.launch(wanted), provider.launch(wanted))
        assert first == second
        assert self.machines(provider) == 1

    async def test_a_launch_that_fails_at_any_stage_leaves_nothing_and_can_be_repeated(self, provider: NodeProvider) -> None:
        for stage in self.stages:
            wanted = order()
            with self.failing(provider, stage):
                for _ in range(LIMIT + 1):
                    with pytest.raises(OSError, match=r".+"):
                        await provider.launch(wanted)
            assert (self.machines(provider), list(self.remains(provider))) == (0, []), stage
            handle = await provider.launch(wanted)
            assert await provider.observe([handle]) == {handle: Seen.ALIVE}, stage
            await provider.release([handle])

    async def test_a_failed_launch_of_an_old_node_keeps_its_files(self, provider: NodeProvider) -> None:
        wanted = order()
        handle = await provider.launch(wanted)
        self.keep(handle, provider)
        for stage in self.stages:
            self.kill(provider, handle)
            with self.failing(provider, stage), contextlib.suppress(OSError):
                await provider.launch(wanted)
            assert await provider.launch(wanted) == handle
            assert self.keeps(handle, provider), stage
            assert self.machines(provider) == 1, stage

    async def test_a_node_that_dies_before_its_first_word_is_gone_and_there_is_a_reason_or_none(self, provider: NodeProvider) -> None:
        handle = await provider.launch(order())
        self.kill(provider, handle)
        assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert isinstance(await provider.why(handle), str)
        await provider.release([handle])
        assert isinstance(await provider.why(handle), str)

    async def test_of_many_launches_some_succeed(self, provider: NodeProvider) -> None:
        wanted = [order() for _ in range(LIMIT + 2)]
        results = await asyncio.gather(*(provider.launch(one) for one in wanted), return_exceptions=True)
        handles = [result for result in results if isinstance(result, str)]
        assert len(handles) == LIMIT == len(self.remains(provider))
        assert set((await provider.observe(handles)).values()) == {Seen.ALIVE}

    async def test_a_stopped_node_keeps_its_files_and_comes_back(self, provider: NodeProvider) -> None:
        wanted = order()
        handle = await provider.launch(wanted)
        self.keep(handle, provider)
        for _ in range(2):
            await provider.stop([handle])
            assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert self.machines(provider) == 0
        assert await self.again(provider).launch(wanted) == handle
        assert self.keeps(handle, provider)
        assert await provider.observe([handle]) == {handle: Seen.ALIVE}

    async def test_what_is_gone_is_stopped_and_released_with_the_rest(self, provider: NodeProvider) -> None:
        gone, killed, alive = [await provider.launch(order()) for _ in range(3)]
        await provider.release([gone])
        self.kill(provider, killed)
        await provider.stop([gone, killed, alive])
        assert await provider.observe([gone, killed, alive]) == dict.fromkeys([gone, killed, alive], Seen.GONE)
        await provider.release([gone, killed, alive])
        assert (self.machines(provider), list(self.remains(provider))) == (0, [])
        await provider.stop([])

    async def test_a_launch_that_a_killed_server_left_in_the_middle_is_finished_by_the_next(self, provider: NodeProvider) -> None:
        for middle in self.middles:
            wanted = order()
            await self.break_off(provider, wanted, middle)
            later = self.again(provider)
            handle = await later.launch(wanted)
            assert await later.observe([handle]) == {handle: Seen.ALIVE}, middle
            assert self.machines(later) == 1, middle
            await later.release([handle])
            assert list(self.remains(later)) == [], middle

    async def test_a_node_can_be_released_while_it_is_launched(self, provider: NodeProvider) -> None:
        wanted = order()
        handle = await provider.launch(wanted)
        self.kill(provider, handle)
        with self.slow(provider, wanted.node_id) as gate:
            launching = asyncio.ensure_future(provider.launch(wanted))
            await asyncio.sleep(0)
            releasing = asyncio.ensure_future(provider.release([handle]))
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(launching, releasing)
        await provider.release([handle])
        assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert (self.machines(provider), list(self.remains(provider))) == (0, [])

    async def test_a_sweep_releases_what_nobody_knows(self, provider: NodeProvider) -> None:
        await provider.sweep([])
        kept, forgotten = order(), order()
        handle, other = await provider.launch(kept), await provider.launch(forgotten)
        await self.break_off(provider, order(), self.middles[0])
        for _ in range(2):
            await self.again(provider).sweep({kept.node_id, "unknown"})
        assert await provider.observe([handle, other]) == {handle: Seen.ALIVE, other: Seen.GONE}
        assert len(self.remains(provider)) == 1
