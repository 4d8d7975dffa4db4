"""Pools and their nodes: sizes, deallocation options, providers that fail (contract 2.1, 2.2, 3.13)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from engine_world import Agent, Steady, World
from failing_providers import FailsToLaunch, ForgetsAnswers, HoldsOn, LosesNodes, NoRoom, SlowProvider

from batchyard.engine.nodes import node_changes
from batchyard.engine.pools import capacity
from batchyard.model.errors import BatchError
from batchyard.providers.base import Handle, NodeOrder, Seen
from batchyard.rules.offer import Offer
from batchyard.rules.sizes import SizeRule, Sizes


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


def allocation(world: World) -> str:
    pool = world.pool_row()
    assert pool is not None
    return str(pool.allocation_state)


def errors(world: World) -> list[str]:
    pool = world.pool_row()
    assert pool is not None
    return [error["code"] for error in msgspec.json.decode(pool.resize_errors)] if pool.resize_errors else []


def size(world: World) -> tuple[int, int]:
    pool = world.pool_row()
    assert pool is not None
    return pool.current_dedicated, pool.current_low_priority


def provider_of(world: World) -> Steady:
    assert isinstance(world.provider, Steady)
    return world.provider


# sizes


def test_a_new_pool_is_resizing_even_to_nothing(world: World) -> None:
    world.pool()
    assert allocation(world) == "resizing"
    world.capacity()
    assert allocation(world) == "steady"


def test_a_pool_gets_its_nodes_of_both_kinds(world: World) -> None:
    world.pool("pool", 2, targetLowPriorityNodes=1)
    world.capacity(2)
    assert (allocation(world), size(world), errors(world)) == ("steady", (2, 1), [])
    nodes = world.nodes()
    assert [node.state for node in nodes] == ["starting"] * 3
    assert sorted(node.id[-2:] for node in nodes) == ["_d", "_d", "_p"]
    assert all(node.id.startswith("tvmps_") and len(node.id) == 72 for node in nodes)
    world.capacity(3)
    assert len(provider_of(world).launched) == 3
    tokens = {order.token for order in provider_of(world).machines.values()}
    assert len(tokens) == 3


def test_a_pool_that_exists_and_one_that_goes(world: World) -> None:
    world.pool("Pool")
    with pytest.raises(BatchError, match="PoolExists"):
        world.pool("pOOL")
    world.delete_pool()
    with pytest.raises(BatchError, match="PoolBeingDeleted"):
        world.pool()
    with pytest.raises(BatchError, match="PoolBeingDeleted"):
        world.resize(1)
    with pytest.raises(BatchError, match="PoolBeingDeleted"):
        world.delete_pool()


def test_a_resize_needs_a_steady_pool_and_leaves_the_other_target(world: World) -> None:
    world.pool("pool", 1, targetLowPriorityNodes=1)
    with pytest.raises(BatchError, match="PoolBeingResized"):
        world.resize(2)
    world.capacity(2)
    world.resize(3)
    assert allocation(world) == "resizing"
    world.capacity(2)
    assert (allocation(world), size(world)) == ("steady", (3, 1))
    world.resize(None, targetLowPriorityNodes=0)
    world.capacity(3)
    assert (allocation(world), size(world)) == ("steady", (3, 0))
    with pytest.raises(BatchError, match="MissingRequiredProperty"):
        world.resize(None)


def test_idle_nodes_leave_first(world: World) -> None:
    agents = world.working_pool(nodes=3)
    world.job()
    world.add("a", "b")
    world.schedule()
    busy = {world.task(name).node_pk for name in "ab"}
    world.resize(2)
    world.capacity(3)
    assert {node.pk for node in world.nodes()} == busy
    assert world.states("a", "b") == ["running", "running"]
    assert len(agents) == 3


# deallocation options


@pytest.mark.parametrize("option", [None, "requeue", "terminate", "taskcompletion", "retaineddata"])
def test_deallocation_options(world: World, option: str | None) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a", "b")
    world.schedule()
    world.advance(1)
    world.resize(0, nodeDeallocationOption=option)
    world.capacity(3)
    task = world.task("a")
    if option in (None, "requeue"):
        assert (task.state, task.requeues, task.last_requeue, task.retries, task.losses) == ("active", 1, world.now, 0, 0)
    elif option == "terminate":
        assert (task.state, task.result) == ("completed", "failure")
        assert task.failure is not None
        assert b"TaskEnded" in task.failure
    else:
        node = world.node(agent.node_pk)
        assert (task.state, node.action, allocation(world)) == ("running", "remove", "resizing")
        world.advance(3600)
        agent.sync()
        world.capacity(2)
        assert allocation(world) == "resizing", "the timeout forces nothing"
        agent.end(world.attempt("a"))
        assert (world.state("a"), world.node(agent.node_pk).state) == ("completed", "idle")
        assert world.schedule() == 0, "the node takes no new task"
        if option == "retaineddata":
            world.advance(7 * 86_400 - 1)
            agent.sync()
            world.capacity(2)
            assert (world.node(agent.node_pk).state, allocation(world)) == ("idle", "resizing"), "what the task left is kept"
            world.advance(1)
        world.capacity(3)
    assert (world.nodes(), size(world), allocation(world), errors(world)) == ([], (0, 0), "steady", [])
    assert world.task("b").run == 0
    world.resize(1)
    world.capacity(2)
    [node] = world.nodes()
    Agent(world, node.pk).join()
    assert world.schedule() == 1


def test_with_taskcompletion_the_chosen_node_leaves_and_the_other_goes_on(world: World) -> None:
    agents = {agent.node_pk: agent for agent in world.working_pool(nodes=2)}
    world.job()
    world.add("a", "b")
    world.schedule()
    world.resize(1, nodeDeallocationOption="taskcompletion")
    world.capacity()
    [chosen] = [node.pk for node in world.nodes() if node.action == "remove"]
    [other] = set(agents) - {chosen}
    agents[other].end_all()
    world.capacity(2)
    assert {node.pk for node in world.nodes()} == {chosen, other}
    agents[chosen].end_all()
    world.capacity(3)
    [left] = world.nodes()
    assert (left.pk, left.scheduling_state, allocation(world)) == (other, "enabled", "steady")
    world.add("c")
    assert world.schedule() == 1


def test_a_node_that_dies_while_it_is_waited_for_leaves(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    world.resize(0, nodeDeallocationOption="taskcompletion")
    world.capacity()
    provider = provider_of(world)
    provider.gone |= set(provider.machines)
    world.capacity(4)
    assert (world.nodes(), allocation(world), world.state("a")) == ([], "steady", "active")
    assert provider.machines == {}


# deleting


def test_deleting_a_pool_requeues_and_the_job_waits_for_another(world: World) -> None:
    world.working_pool(slots=2)
    world.job()
    world.add("a", "b", "c")
    world.schedule()
    world.delete_pool()
    assert world.schedule() == 0
    world.capacity(4)
    assert (world.pool_row(), world.nodes(), provider_of(world).machines) == (None, [], {})
    assert [world.task(name).requeues for name in "abc"] == [1, 1, 0]
    assert world.job_state() == "active"
    [agent] = world.working_pool(slots=3)
    assert world.schedule() == 3
    agent.end_all()
    assert world.counts().succeeded == 3


def test_a_pool_is_deleted_while_its_nodes_are_launched(worlds: Any) -> None:
    provider = SlowProvider()
    world = worlds(provider)
    world.pool("pool", 2)

    async def meanwhile() -> None:
        running = asyncio.ensure_future(world.capacity_round())
        await provider.asked.wait()
        await asyncio.to_thread(world.delete_pool)
        await world.capacity_job.run_once()
        assert len(world.nodes()) == 2, "a node is not let go while its machine is being made"
        provider.go.set()
        await running

    asyncio.run(meanwhile())
    world.capacity(4)
    assert (world.pool_row(), provider.machines) == (None, {})


# providers


def test_no_room_ends_the_resize_with_what_there_is(worlds: Any) -> None:
    world = worlds(NoRoom(2))
    world.pool("pool", 4)
    world.capacity(3)
    assert (allocation(world), size(world), errors(world)) == ("steady", (2, 0), ["AllocationFailed"])
    world.capacity(5)
    assert len(world.nodes()) == 2, "a steady pool asks for nothing"
    pool = world.pool_row()
    assert pool is not None
    assert pool.target_dedicated == 4
    assert b"room for 2 nodes only" in (pool.resize_errors or b"")
    world.provider.room = 4
    world.resize(4)
    assert errors(world) == []
    world.capacity(3)
    assert (allocation(world), size(world), errors(world)) == ("steady", (4, 0), [])


def test_a_failed_launch_is_repeated_later_each_time(worlds: Any) -> None:
    provider = FailsToLaunch(4)
    world = worlds(provider)
    world.pool("pool", 1)
    world.capacity(2)
    waits = []
    while not provider.machines:
        asked, seconds = provider.asked, 0.0
        while provider.asked == asked:
            world.advance(0.25)
            seconds += 0.25
            world.capacity()
        waits.append(seconds)
    assert waits == [0.25, 0.5, 1.0, 2.0]
    world.capacity()
    assert (allocation(world), errors(world)) == ("steady", [])


def test_a_launch_that_never_works_ends_the_resize_in_time(worlds: Any) -> None:
    world = worlds(FailsToLaunch(1_000_000))
    world.pool("pool", 2, resizeTimeout="PT5M")
    world.capacity(2)
    world.advance(299)
    world.capacity()
    assert allocation(world) == "resizing"
    world.advance(1)
    world.capacity(3)
    assert (allocation(world), errors(world), size(world)) == ("steady", ["AllocationTimedOut"], (0, 0))


def test_a_lost_node_is_launched_again_under_its_id(worlds: Any) -> None:
    provider = LosesNodes()
    world = worlds(provider)
    one, other = world.working_pool(nodes=2)
    world.job()
    world.add("a", "b")
    world.schedule()
    lost = world.node(one.node_pk)
    provider.lose(lost.handle)
    world.capacity(2)
    node = world.node(one.node_pk)
    assert (node.id, node.state, provider.launched.count(node.id)) == (lost.id, "starting", 2)
    assert one.sync() is None, "the dead agent's session is over"
    one.join()
    assert world.node(one.node_pk).state == "idle"
    assert world.schedule() == 1
    assert (allocation(world), size(world)) == ("steady", (2, 0))
    assert other.sync() is not None


def test_a_node_that_keeps_dying_is_launched_less_and_less_often(worlds: Any) -> None:
    provider = LosesNodes()
    world = worlds(provider)
    world.pool("pool", 1)
    world.capacity(2)
    for _ in range(240):
        provider.lose(*provider.machines)
        world.advance(0.25)
        world.capacity()
    assert 6 <= len(provider.launched) <= 9, "within a minute"


@pytest.mark.parametrize("how", ["delete", "resize"])
def test_what_a_lost_node_left_behind_is_released_with_it(worlds: Any, how: str) -> None:
    provider = LosesNodes()
    world = worlds(provider)
    world.pool("pool", 1)
    world.capacity(2)
    for _ in range(6):
        provider.lose(*provider.machines)
        world.advance(0.25)
        world.capacity()
    [handle] = provider.machines
    if how == "delete":
        world.delete_pool()
    else:
        world.resize(0)
    world.capacity(4)
    assert handle in provider.released
    assert world.nodes() == []


def test_a_release_whose_answer_was_lost_is_repeated(worlds: Any) -> None:
    provider = ForgetsAnswers()
    world = worlds(provider)
    world.working_pool(nodes=2)
    world.resize(0)
    world.capacity(2)
    assert [node.state for node in world.nodes()] == ["leavingpool"] * 2
    world.advance(0.25)
    world.capacity(2)
    assert (world.nodes(), allocation(world), provider.machines) == ([], "steady", {})


def test_no_room_for_a_lost_node_keeps_it(worlds: Any) -> None:
    provider = NoRoom(1)
    world = worlds(provider)
    [agent] = world.working_pool()
    provider.machines.clear()
    provider.room = 0
    world.capacity(3)
    assert world.node(agent.node_pk).state == "starting"
    provider.room = 1
    world.advance(120)
    world.capacity(2)
    assert len(provider.machines) == 1


def test_a_machine_that_is_not_given_back_holds_up_its_pool_for_the_timeout_only(worlds: Any) -> None:
    provider = HoldsOn()
    world = worlds(provider)
    first, _ = world.working_pool(nodes=2)
    provider.stuck = {world.node(first.node_pk).handle or ""}
    world.remove_nodes(first.node_pk)
    world.capacity(3)
    assert allocation(world) == "resizing"
    world.advance(15 * 60)
    world.capacity(3)
    assert (allocation(world), errors(world)) == ("steady", ["RemoveNodesFailed"])
    world.resize(2)
    world.capacity(3)
    states = sorted(str(node.state) for node in world.nodes())
    assert (allocation(world), states) == ("steady", ["idle", "leavingpool", "starting"]), "it grows beside it"
    provider.stuck = set()
    world.advance(120)
    world.capacity(3)
    assert first.node_pk not in {node.pk for node in world.nodes()}


class Hangs(Steady):
    """Never answers the calls that are named."""

    def __init__(self, *calls: str) -> None:
        super().__init__()
        self.calls = calls

    async def launch(self, order: NodeOrder) -> Handle:
        if "launch" in self.calls:
            await asyncio.Event().wait()
        return await super().launch(order)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        if "observe" in self.calls:
            await asyncio.Event().wait()
        return await super().observe(handles)


@pytest.mark.parametrize("call", ["launch", "observe"])
def test_a_provider_that_never_answers_is_asked_again(worlds: Any, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(capacity, "LAUNCH_S", 0.01)
    monkeypatch.setattr(capacity, "CALL_S", 0.01)
    provider = Hangs(call)
    world = worlds(provider)
    world.pool(dedicated=1)
    world.capacity(2)
    if call == "launch":
        [node] = world.nodes()
        assert node.launch_error == "TimeoutError"
    provider.calls = ()
    world.advance(2)
    world.capacity(3)
    [node] = world.nodes()
    assert node.state == "starting"
    provider.gone.add(node.handle or "")
    world.advance(2)
    world.capacity(2)
    assert len(provider.launched) == 2, "it is watched again too"


class CannotStop(Steady):
    """Its machines go on whatever they are told."""

    async def stop(self, handles: Sequence[Handle]) -> None:
        raise OSError("the console does not answer")


def test_a_machine_that_does_not_stop_says_why(worlds: Any) -> None:
    world = worlds(CannotStop())
    [agent] = world.working_pool()
    world.change(node_changes.reboot, agent.node_pk, None)
    world.capacity(2)
    node = world.node(agent.node_pk)
    assert (node.state, node.launch_error) == ("rebooting", "the machine could not be stopped: the console does not answer")


def test_a_provider_hears_what_the_operator_says_of_a_size() -> None:
    rule = SizeRule("racked", cores=4, memory_bytes=1 << 30, labels={"rack": "north"})
    world = World(offer=Offer(sizes=Sizes((rule,))))
    world.pool(dedicated=1, vmSize="racked")
    world.capacity(2)
    [order] = world.provider.machines.values()  # type: ignore[attr-defined]
    assert (order.vm_size, order.labels, order.cores, order.memory_bytes) == ("racked", {"rack": "north"}, 4, 1 << 30)
    world.close()
