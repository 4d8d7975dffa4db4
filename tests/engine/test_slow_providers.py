"""Providers that take minutes and fail: what is under way holds up nothing, what failed is repeated later (contract 2.2, 3.13)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from engine_world import JOIN_US, SECOND_US, Agent, Steady, World
from failing_providers import AnswersLate, Blind, FailsToLaunch, HoldsOn, LosesNodes, NoRoom, SlowProvider

from batchyard.engine.changes.nodes import change_node
from batchyard.engine.errands import Errands, delay_us
from batchyard.engine.pools.capacity import LAUNCHES_AT_ONCE, Capacity
from batchyard.rules.transitions import NodeHappened
from batchyard.store import nodes as node_rows

JOIN_S = JOIN_US // SECOND_US


@pytest.fixture
def worlds() -> Iterator[Any]:
    """Worlds with a provider of the test's choice; their rows agree at the end."""
    made: list[World] = []

    def make(provider: Steady) -> World:
        made.append(World(provider=provider))
        return made[-1]

    yield make
    for world in made:
        world.check()
        world.close()


def pool_facts(world: World, pool_id: str) -> tuple[str, int, list[str]]:
    """Allocation state, nodes, and codes of resize errors."""
    pool = world.pool_row(pool_id)
    assert pool is not None
    errors = msgspec.json.decode(pool.resize_errors) if pool.resize_errors else []
    return str(pool.allocation_state), pool.current_dedicated, [error["code"] for error in errors]


def only_node(world: World) -> Any:
    [node] = world.nodes()
    return node


async def rounds(world: World, until: Any) -> None:
    """Rounds, without waiting for what they begin, until something holds."""
    for _ in range(200):
        if until():
            return
        await world.capacity_job.run_once()
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come to it")


# slow


def test_a_slow_launch_holds_up_no_other_pool_nor_watching_nor_releasing(worlds: Any) -> None:
    provider = SlowProvider("slow")
    world = worlds(provider)
    [agent] = world.working_pool()
    world.pool("slow", 2)
    world.pool("quick", 1)

    async def story() -> None:
        await rounds(world, lambda: len(provider.waiting) == 2 and pool_facts(world, "quick")[0] == "steady")
        assert pool_facts(world, "slow")[0] == "resizing"
        provider.gone.add(world.node(agent.node_pk).handle or "")
        await rounds(world, lambda: provider.launched.count(world.node(agent.node_pk).id) == 2)
        world.resize(0, "quick")
        await rounds(world, lambda: pool_facts(world, "quick") == ("steady", 0, []))
        assert len(provider.waiting) == 2, "no launch is begun twice"
        provider.go.set()
        await rounds(world, lambda: pool_facts(world, "slow") == ("steady", 2, []))
        await world.capacity_job.settle()

    asyncio.run(story())


def test_there_are_not_too_many_launches_at_once(worlds: Any) -> None:
    provider = SlowProvider()
    world = worlds(provider)
    world.pool("one", LAUNCHES_AT_ONCE)
    world.pool("two", 2)

    async def story() -> None:
        await rounds(world, lambda: len(provider.waiting) == LAUNCHES_AT_ONCE)
        await world.capacity_job.run_once()
        await asyncio.sleep(0)
        assert len(provider.waiting) == LAUNCHES_AT_ONCE
        provider.go.set()
        await rounds(world, lambda: len(provider.machines) == LAUNCHES_AT_ONCE + 2)
        await world.capacity_job.settle()

    asyncio.run(story())


def test_a_server_that_is_killed_while_it_launches_launches_the_same_nodes_again(worlds: Any) -> None:
    provider = SlowProvider()
    world = worlds(provider)
    world.pool("pool", 2)

    async def killed() -> None:
        await rounds(world, lambda: len(provider.waiting) == 2)
        await world.capacity_job._errands.close(0)

    asyncio.run(killed())
    assert [node.handle for node in world.nodes()] == [None, None]
    world.capacity_job = Capacity(world.db, {"local": world.provider}, world.clock, b"key")
    provider.go.set()
    world.capacity(2)
    assert sorted(provider.waiting[:2]) == sorted(provider.waiting[2:])
    assert pool_facts(world, "pool") == ("steady", 2, [])
    assert len(provider.machines) == 2


def test_a_machine_whose_server_was_killed_before_it_was_noted_goes_with_its_node(worlds: Any) -> None:
    provider = AnswersLate()
    world = worlds(provider)
    world.pool("pool", 1)
    world.pool("other", 1)

    async def killed() -> None:
        await rounds(world, lambda: len(provider.machines) == 2)
        await world.capacity_job._errands.close(0)

    asyncio.run(killed())
    world.capacity_job = Capacity(world.db, {"local": world.provider}, world.clock, b"key")
    world.delete_pool()
    provider.go.set()
    world.capacity(4)
    assert world.pool_row() is None
    assert [order.pool_id for order in provider.machines.values()] == ["other"]
    assert pool_facts(world, "other") == ("steady", 1, [])


def test_closing_waits_for_what_is_nearly_done(worlds: Any) -> None:
    provider = SlowProvider()
    world = worlds(provider)
    world.pool("pool", 1)

    async def story() -> None:
        await world.capacity_job.run_once()
        await provider.asked.wait()
        closing = asyncio.ensure_future(world.capacity_job.close())
        await asyncio.sleep(0)
        provider.go.set()
        await closing

    asyncio.run(story())
    assert only_node(world).handle in provider.machines


def test_a_machine_that_comes_when_its_node_is_no_more_is_released(worlds: Any) -> None:
    provider = SlowProvider()
    world = worlds(provider)
    world.pool("pool", 1)

    async def story() -> None:
        await world.capacity_job.run_once()
        await provider.asked.wait()
        world.run(node_rows.delete, only_node(world).pk)  # by another server
        provider.go.set()
        await world.capacity_job.settle()

    asyncio.run(story())
    assert len(provider.released) == 1
    assert provider.machines == {}


def test_what_was_seen_before_a_launch_says_nothing_of_the_node_after_it(worlds: Any) -> None:
    provider = Blind()
    provider.blind = False
    world = worlds(provider)
    world.pool("pool", 1)
    world.capacity(2)
    node = only_node(world)
    provider.gone.add(node.handle)
    provider.open.clear()
    provider.looking.clear()

    async def story() -> None:
        await world.capacity_job.run_once()
        await provider.looking.wait()
        Agent(world, node.pk).join()
        provider.open.set()
        await world.capacity_job.settle()

    asyncio.run(story())
    assert only_node(world).state == "idle"


# failing calls


def test_a_provider_that_cannot_observe_still_launches_and_releases(worlds: Any) -> None:
    provider = Blind()
    world = worlds(provider)
    world.pool("pool", 2)
    world.capacity(3)
    assert pool_facts(world, "pool") == ("steady", 2, [])
    asked = provider.asked
    world.resize(1)
    world.capacity(3)
    assert pool_facts(world, "pool") == ("steady", 1, [])
    assert provider.asked == asked, "it is asked again later"
    world.advance(0.25)
    world.capacity()
    assert provider.asked == asked + 1


def test_one_machine_that_cannot_be_released_holds_up_no_other(worlds: Any) -> None:
    provider = HoldsOn()
    world = worlds(provider)
    world.pool("pool", 5)
    world.capacity(2)
    stuck = world.nodes()[2]
    provider.stuck = {stuck.handle}
    world.resize(0)
    world.capacity(2)
    assert provider.calls == [5], "all in one call"
    world.advance(0.25)
    world.capacity()
    assert [node.pk for node in world.nodes()] == [stuck.pk]
    tried = len(provider.calls)
    for _ in range(120):
        world.advance(1)
        world.capacity()
    assert 6 <= len(provider.calls) - tried <= 10, "less and less often"
    provider.stuck.clear()
    world.advance(60)
    world.capacity(2)
    assert pool_facts(world, "pool") == ("steady", 0, [])


def test_many_nodes_are_released_in_a_few_calls(worlds: Any) -> None:
    provider = HoldsOn()
    world = worlds(provider)
    world.pool("pool", 70)
    world.capacity(2)
    world.delete_pool()
    world.capacity(3)
    assert provider.calls == [50, 20]
    assert world.pool_row() is None


def test_a_failed_launch_is_seen_on_the_node_until_one_succeeds(worlds: Any) -> None:
    world = worlds(FailsToLaunch(2))
    world.pool("pool", 1)
    world.capacity()
    node = only_node(world)
    assert (node.state, node.launches, node.launch_error) == ("creating", 1, "the hypervisor is on fire")
    world.advance(0.25)
    world.capacity()
    assert (only_node(world).launches, only_node(world).handle) == (2, None)
    world.advance(0.5)
    world.capacity(2)
    assert (only_node(world).state, only_node(world).launch_error) == ("starting", None)
    assert [happened for happened, _, _ in world.events("node", node.pk)] == ["added", "launch failed", "launch failed", "launched"]


def test_a_provider_that_the_server_does_not_have_is_a_launch_error(worlds: Any) -> None:
    world = worlds(Steady())
    world.pool("pool", 1)
    world.capacity_job = Capacity(world.db, {"slurm": world.provider}, world.clock, b"key", offer=world.offer)
    world.capacity()
    assert only_node(world).launch_error == "this server has no provider named 'local', only slurm"
    world.run(lambda tx: node_rows.move(tx, only_node_row(tx), provider="slurm"))
    world.advance(0.25)
    world.capacity(2)
    assert pool_facts(world, "pool") == ("steady", 1, [])
    world.delete_pool()
    world.capacity(3)
    assert world.pool_row() is None


def only_node_row(tx: Any) -> Any:
    [node] = node_rows.every(tx)
    return node


def test_no_room_for_a_lost_node_is_not_asked_about_all_the_time(worlds: Any) -> None:
    provider = NoRoom(1)
    world = worlds(provider)
    [agent] = world.working_pool()
    provider.machines.clear()
    provider.room = 0
    for _ in range(60):
        world.advance(1)
        world.capacity()
    node = world.node(agent.node_pk)
    assert (node.state, node.launch_error) == ("starting", "room for 0 nodes only")
    assert node.launches <= 8


def test_a_preempted_node_that_comes_back_to_no_room_waits_and_is_not_forgotten(worlds: Any) -> None:
    provider = NoRoom(1)
    world = worlds(provider)
    [agent] = world.working_pool()

    def taken_away(tx: Any) -> None:
        for happened in (NodeHappened.PREEMPTED, NodeHappened.CAPACITY_RETURNED):
            node = only_node_row(tx)
            change_node(tx, node, happened, world.now, handle=None)

    world.run(taken_away)
    provider.machines.clear()
    provider.room = 0
    world.capacity(2)
    assert (only_node(world).pk, only_node(world).state, only_node(world).launches) == (agent.node_pk, "creating", 1)
    provider.room = 1
    world.advance(1)
    world.capacity(2)
    assert (only_node(world).state, pool_facts(world, "pool")) == ("starting", ("steady", 1, []))


def test_of_many_launches_some_succeed_and_the_pool_is_steady_with_those(worlds: Any) -> None:
    provider = NoRoom(3)
    world = worlds(provider)
    world.pool("pool", 5)
    world.capacity(3)
    assert pool_facts(world, "pool") == ("steady", 3, ["AllocationFailed"])
    for node in world.nodes():
        Agent(world, node.pk).join()
    assert [node.state for node in world.nodes()] == ["idle"] * 3


# between launch and first word


def test_a_node_that_dies_before_its_first_word_says_why(worlds: Any) -> None:
    provider = LosesNodes()
    provider.reason = "the agent exited with code 1: no space left"
    world = worlds(provider)
    world.pool("pool", 1)
    world.capacity()
    node = only_node(world)
    provider.lose(*provider.machines)
    world.capacity(3)
    node = only_node(world)
    assert (node.state, node.launches, node.launch_error) == ("starting", 1, provider.reason)
    told = [happened for happened, _, _ in world.events("node", node.pk)]
    assert told == ["added", "launched", "launch failed"], "once, however often it is seen"
    world.advance(0.25)
    world.capacity(1)
    node = only_node(world)
    assert (node.state, node.launches, node.launch_error) == ("starting", 2, None)
    Agent(world, node.pk).join()
    assert (only_node(world).state, only_node(world).launches) == ("idle", 0)
    assert pool_facts(world, "pool") == ("steady", 1, [])


def test_an_agent_that_never_speaks_makes_its_node_unusable_and_is_launched_again(worlds: Any) -> None:
    provider = LosesNodes()
    world = worlds(provider)
    world.pool("pool", 2)
    world.capacity(2)
    one, other = world.nodes()
    Agent(world, other.pk).join()
    for _ in range(JOIN_S // 20):
        assert world.node(one.pk).state == "starting"
        world.advance(20)
        world.capacity()
    node = world.node(one.pk)
    assert (node.state, node.launches) == ("unusable", 1)
    [error] = msgspec.json.decode(node.errors or b"")
    assert error == {"code": "NodeNotReady", "message": "The node was launched and its agent did not speak to the server within 300 s"}
    assert node.launch_error == error["message"]
    assert provider.gone == {node.handle}, "its machine was stopped"
    assert world.node(other.pk).state == "idle"
    world.capacity(2)
    assert world.node(one.pk).state == "unusable"
    world.advance(0.25)
    world.capacity(2)
    node = world.node(one.pk)
    assert (node.state, node.launches, node.errors, node.launch_error) == ("starting", 2, None, None)
    Agent(world, one.pk).join()
    assert world.node(one.pk).state == "idle"


def test_an_unusable_node_can_leave(worlds: Any) -> None:
    world = worlds(LosesNodes())
    world.pool("pool", 1)
    world.capacity(2)
    for _ in range(JOIN_S // 20):
        world.advance(20)
        world.capacity()
    assert only_node(world).state == "unusable"
    world.resize(0)
    world.capacity(3)
    assert (world.nodes(), world.provider.machines) == ([], {})


def test_time_in_which_the_server_slept_is_not_the_agents_fault(worlds: Any) -> None:
    world = worlds(Steady())
    world.pool("pool", 1)
    world.capacity(2)
    world.advance(JOIN_S * 3)
    world.capacity()
    assert only_node(world).state == "starting"
    world.capacity_job = Capacity(world.db, {"local": world.provider}, world.clock, b"key", JOIN_US)
    world.advance(20)
    world.capacity()
    assert only_node(world).state == "starting"


def test_orders_carry_what_a_node_of_its_size_gets(worlds: Any) -> None:
    world = worlds(FailsToLaunch(1))
    world.pool("pool", 1)
    world.capacity()
    world.run(lambda tx: node_rows.move(tx, only_node_row(tx), cores=2, memory=1 << 30))
    world.advance(1)
    world.capacity()
    [order] = world.provider.machines.values()
    assert (order.cores, order.memory_bytes) == (2, 1 << 30)


# the errands themselves


def test_delays_double_from_a_quarter_of_a_second_to_a_minute() -> None:
    assert [delay_us(n) / SECOND_US for n in range(11)] == [0, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert delay_us(10_000) == 60 * SECOND_US


async def test_an_errand_keeps_its_keys_until_it_ends(world: World) -> None:
    errands, gate = Errands(world.clock), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise OSError("no")

    errands.start("work", [1, "two"], work)
    assert (errands.busy(1), errands.busy("two"), errands.due(1), errands.due(3), errands.under_way("work")) == (True, True, False, True, 1)
    gate.set()
    await errands.settle()
    assert (errands.busy(1), errands.due(1), errands.failures(1), errands.under_way("work")) == (False, False, 1, 0)
    world.advance(0.25)
    assert errands.due(1)
    world.advance(-100)
    assert errands.due(1), "a clock that was set back keeps nobody waiting"
