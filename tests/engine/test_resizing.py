"""Resizes: both kinds of nodes go their ways; stopped, partial, timed out, over quota, nodes removed by name (contract 2.1, 2.2, 3.13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from engine_world import OFFER, Agent, Steady, World

from batchyard.engine.nodes import node_changes
from batchyard.engine.pools import pools, resizing
from batchyard.model.errors import BatchError
from batchyard.model.pool import NodeRemove, PoolResize
from batchyard.providers.base import Handle, NoCapacity, NodeOrder
from batchyard.rules.offer import Offer, Quotas
from batchyard.rules.sizes import GIB, SizeRule, Sizes
from batchyard.store import nodes as node_rows
from batchyard.store import usage
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

HOUR = 3600
WINDOWS = {
    "imageReference": {"publisher": "microsoftwindowsserver", "offer": "windowsserver", "sku": "2022"},
    "nodeAgentSKUId": "batch.node.windows amd64",
}


class OnlyDedicated(Steady):
    """Has no low-priority machine, and dedicated ones only when told."""

    ready = False

    async def launch(self, order: NodeOrder) -> Handle:
        if not order.dedicated:
            raise NoCapacity("no spot machines today")
        if not self.ready:
            raise OSError("try later")
        return await super().launch(order)


class Broken(Steady):
    """Launches so many nodes and fails at every other."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def launch(self, order: NodeOrder) -> Handle:
        if len(self.machines) >= self.room:
            raise OSError("the hypervisor is on fire")
        return await super().launch(order)


@pytest.fixture
def worlds() -> Iterator[Any]:
    """Worlds with a provider and an offer of the test's choice; their rows agree at the end."""
    made: list[World] = []

    def make(provider: Steady | None = None, offer: Offer = OFFER) -> World:
        made.append(World(provider=provider, offer=offer))
        return made[-1]

    yield make
    for world in made:
        world.check()
        world.close()


def row(world: World, pool_id: str = "pool") -> PoolView:
    found = world.pool_row(pool_id)
    assert found is not None
    return found


def errors(world: World, pool_id: str = "pool") -> list[tuple[str, str]]:
    text = row(world, pool_id).resize_errors
    return [(error["code"], error["message"]) for error in msgspec.json.decode(text)] if text else []


def codes(world: World, pool_id: str = "pool") -> list[str]:
    return [code for code, _ in errors(world, pool_id)]


def details(world: World, pool_id: str = "pool") -> list[dict[str, str]]:
    """What errors of the last resize say beside their messages."""
    text = row(world, pool_id).resize_errors
    return [{pair["name"]: pair["value"] for pair in error["values"]} for error in msgspec.json.decode(text)] if text else []


def size(world: World, pool_id: str = "pool") -> tuple[int, int]:
    return row(world, pool_id).current_dedicated, row(world, pool_id).current_low_priority


def targets(world: World) -> tuple[int, int]:
    return row(world).target_dedicated, row(world).target_low_priority


def remove(world: World, nodes: Sequence[NodeRow | str], option: str | None = None, **more: Any) -> None:
    sent = {"nodeList": [node if isinstance(node, str) else node.id for node in nodes], "nodeDeallocationOption": option, **more}
    given = msgspec.convert(sent, NodeRemove)
    world.run(lambda tx: pools.remove_nodes(tx, pools.open_pool(tx, "pool"), given, world.now))


def refusal(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(BatchError) as refused:
        call(*args, **more)
    return refused.value.code


def test_nodes_take_the_smallest_numbers_that_are_free_in_their_pool(world: World) -> None:
    world.pool("pool", 3, targetLowPriorityNodes=1)
    world.pool("other", 2)
    world.capacity(2)

    def numbers() -> dict[int, int]:
        return {node.number: node.pk for node in world.nodes() if node.pool_pk == 1}

    assert sorted(numbers()) == [0, 1, 2, 3]
    assert sorted(node.number for node in world.nodes() if node.pool_pk == 2) == [0, 1]
    kept = numbers()
    remove(world, [world.node(kept[1]).id])
    world.capacity(3)
    assert sorted(numbers()) == [0, 2, 3]
    world.resize(4)
    world.capacity(2)
    assert sorted(numbers()) == [0, 1, 2, 3, 4]
    assert all(numbers()[number] == kept[number] for number in (0, 2, 3)), "who stays keeps its number"


class TestStop:
    """Stopping keeps what there is, and the targets."""

    def test_nodes_that_were_obtained_stay(self, worlds: Any) -> None:
        world = worlds(Broken(3))
        world.pool("pool", 5)
        world.capacity(2)
        world.advance(1)
        before = row(world)
        world.stop_resize()
        assert (row(world).allocation_state, row(world).allocation_time) == ("stopping", world.now)
        world.stop_resize()
        assert refusal(world.resize, 1) == "PoolBeingResized"
        world.capacity(3)
        assert (row(world).allocation_state, size(world), targets(world)) == ("steady", (3, 0), (5, 0))
        assert errors(world) == [
            ("ResizeStopped", "Desired number of dedicated nodes could not be allocated due to a StopPoolResize operation")
        ]
        assert row(world).modified == before.modified, "the tag does not move with the allocation state"
        world.advance(60)
        assert refusal(world.stop_resize) == "OperationInvalidForCurrentState"
        world.resize(3)
        assert codes(world) == []
        world.capacity(2)
        assert (row(world).allocation_state, codes(world)) == ("steady", [])

    def test_both_targets(self, worlds: Any) -> None:
        world = worlds(Broken(0))
        world.pool("pool", 1, targetLowPriorityNodes=1)
        world.capacity()
        world.stop_resize()
        world.capacity(3)
        assert [message.split(" nodes")[0] for _, message in errors(world)] == [
            "Desired number of dedicated",
            "Desired number of low-priority",
        ]

    def test_nodes_that_wait_to_leave_take_tasks_again(self, world: World) -> None:
        agents = {agent.node_pk: agent for agent in world.working_pool(nodes=2)}
        world.job()
        world.add("a", "b", "c")
        world.schedule()
        world.resize(0, nodeDeallocationOption="taskcompletion")
        world.capacity()
        first = world.task("a").node_pk
        assert first is not None
        agents[first].end_all()
        assert world.node(first).state == "idle"
        assert world.schedule() == 0
        world.stop_resize()
        world.capacity(2)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (2, 0), ["ResizeStopped"])
        assert {(node.state, node.scheduling_state, node.action) for node in world.nodes()} == {
            ("idle", "enabled", None),
            ("running", "enabled", None),
        }
        assert world.schedule() == 1

    def test_a_stop_does_not_call_off_what_else_waits_for_the_end_of_tasks(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.change(node_changes.reboot, agent.node_pk, "taskcompletion")
        waiting = world.node(agent.node_pk)
        assert waiting.action == "reboot"
        world.resize(3)
        world.stop_resize()
        world.capacity(2)
        assert (row(world).allocation_state, size(world)) == ("steady", (1, 0))
        assert world.node(agent.node_pk) == waiting

    def test_a_resize_that_reached_its_targets_in_the_meantime_has_no_error(self, world: World) -> None:
        world.pool("pool", 1)
        world.capacity()
        world.stop_resize()
        world.capacity(2)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (1, 0), [])

    @pytest.mark.parametrize("ended", ["by itself", "by a stop"])
    def test_a_stop_within_a_minute_of_the_end_changes_nothing(self, world: World, ended: str) -> None:
        world.pool("pool", 1)
        world.capacity()
        if ended == "by a stop":
            world.stop_resize()
        world.capacity(3)
        before = world.rows("SELECT * FROM pool") + world.rows("SELECT * FROM event")
        assert row(world).allocation_state == "steady"
        world.stop_resize()
        world.advance(59)
        world.stop_resize()
        world.capacity()
        assert world.rows("SELECT * FROM pool") + world.rows("SELECT * FROM event") == before
        world.advance(1)
        assert refusal(world.stop_resize) == "OperationInvalidForCurrentState"


class TestRemoveNodes:
    """The named nodes leave as the option says, and the targets fall by as many."""

    def test_the_named_ones_and_no_others(self, world: World) -> None:
        world.pool("pool", 3, targetLowPriorityNodes=2)
        world.capacity(2)
        nodes = world.nodes()
        chosen = [nodes[1], nodes[3]]
        before = row(world)
        world.advance(1)
        remove(world, [chosen[0].id.upper(), *chosen])
        assert (row(world).allocation_state, targets(world), size(world)) == ("resizing", (2, 1), (3, 2))
        assert row(world).modified > before.modified
        world.capacity(3)
        assert (row(world).allocation_state, codes(world)) == ("steady", [])
        assert {node.id for node in world.nodes()} == {node.id for node in nodes} - {node.id for node in chosen}

    @pytest.mark.parametrize("option", [None, "requeue", "terminate", "taskcompletion", "retaineddata"])
    def test_no_new_task_starts_on_a_node_that_is_to_leave(self, world: World, option: str | None) -> None:
        [agent] = world.working_pool(slots=2)
        world.job()
        world.add("a")
        world.schedule()
        remove(world, world.nodes(), option)
        world.add("b")
        assert world.schedule() == 0
        world.capacity()
        if option in (None, "requeue"):
            assert (world.state("a"), world.task("a").requeues) == ("active", 1)
        elif option == "terminate":
            assert (world.state("a"), world.task("a").result) == ("completed", "failure")
        else:
            world.advance(HOUR)
            agent.sync()
            world.capacity(2)
            assert (world.state("a"), row(world).allocation_state) == ("running", "resizing")
            agent.end_all()
        world.capacity(3)
        if option == "retaineddata":
            assert world.node(agent.node_pk).action_after == world.now + 7 * 24 * HOUR * 1_000_000
            world.advance(7 * 24 * HOUR - 1)
            world.capacity(2)
            assert size(world) == (1, 0)
            world.advance(1)
            world.capacity(3)
        assert (world.nodes(), size(world), row(world).allocation_state) == ([], (0, 0), "steady")
        assert world.states("b") == ["active"]

    def test_a_node_that_kept_nothing_leaves_at_once(self, world: World) -> None:
        world.working_pool()
        remove(world, world.nodes(), "retaineddata")
        world.capacity(3)
        assert (world.nodes(), row(world).allocation_state) == ([], "steady")

    def test_what_is_refused_changes_nothing(self, world: World) -> None:
        world.pool("pool", 1)
        assert refusal(remove, world, ["tvmps_0_d"]) == "PoolBeingResized"
        world.capacity(2)
        before = world.rows("SELECT * FROM pool") + world.rows("SELECT * FROM node")
        [node] = world.nodes()
        assert refusal(remove, world, [node, "tvmps_0_d"]) == "NodeNotFound"
        assert refusal(remove, world, []) == "InvalidPropertyValue"
        assert refusal(remove, world, [node] * 101) == "InvalidPropertyValue"
        assert refusal(remove, world, [node], resizeTimeout="PT1M") == "InvalidPropertyValue"
        assert world.rows("SELECT * FROM pool") + world.rows("SELECT * FROM node") == before

    @pytest.mark.parametrize("how", ["rebooted", "preempted"])
    def test_a_node_that_stops_in_the_meantime_is_removed_all_the_same(self, world: World, how: str) -> None:
        world.pool("pool", 0, targetLowPriorityNodes=2)
        world.capacity(2)
        chosen, other = [Agent(world, node.pk).join().node_pk for node in world.nodes()]
        world.job()
        world.add("a", "b")
        world.schedule()
        if how == "rebooted":
            world.run(lambda tx: node_changes.reboot(tx, world_node(tx, chosen), "requeue", world.now))
        world.remove_nodes(chosen, nodeDeallocationOption="taskcompletion")
        if how == "rebooted":
            world.run(node_changes.stopped, [chosen], world.now)
        else:
            world.run(node_changes.preempted, chosen, world.now)
        assert (world.node(chosen).action, targets(world)) == ("remove", (0, 1))
        world.capacity(3)
        assert [node.pk for node in world.nodes()] == [other]
        assert (row(world).allocation_state, codes(world)) == ("steady", [])


def world_node(tx: Tx, pk: int) -> NodeRow:
    node = node_rows.get(tx, pk)
    assert node is not None
    return node


class TestPartial:
    """An error of one target neither ends nor hides the other."""

    def test_no_capacity_for_one_kind(self, worlds: Any) -> None:
        provider = OnlyDedicated()
        world = worlds(provider)
        world.pool("pool", 2, targetLowPriorityNodes=2)
        world.capacity(3)
        assert (row(world).allocation_state, size(world), codes(world)) == ("resizing", (2, 0), ["AllocationFailed"])
        provider.ready = True
        world.advance(60)
        world.capacity(2)
        assert (row(world).allocation_state, size(world), targets(world)) == ("steady", (2, 0), (2, 2))
        assert codes(world) == ["AllocationFailed"]
        assert errors(world) == [
            ("AllocationFailed", "Desired number of low-priority nodes could not be allocated by the provider"),
        ]
        assert details(world) == [{"NodeKind": "low-priority", "ProviderErrorJson": "no spot machines today"}]

    def test_a_timeout_of_one_kind_while_the_other_waits_for_tasks(self, worlds: Any) -> None:
        world = worlds(Broken(1))
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.resize(0, targetLowPriorityNodes=1, nodeDeallocationOption="taskcompletion", resizeTimeout="PT5M")
        world.capacity(2)
        world.advance(301)
        agent.sync()
        world.capacity(2)
        assert (row(world).allocation_state, size(world), codes(world)) == ("resizing", (1, 0), ["AllocationTimedOut"])
        agent.end_all()
        world.capacity(3)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (0, 0), ["AllocationTimedOut"])

    def test_what_was_had_in_time_stays(self, worlds: Any) -> None:
        world = worlds(Broken(1))
        world.pool("pool", 2, targetLowPriorityNodes=1, resizeTimeout="PT5M")
        world.capacity(2)
        world.advance(300)
        world.capacity(4)
        assert (row(world).allocation_state, size(world), targets(world)) == ("steady", (1, 0), (2, 1))
        assert codes(world) == ["AllocationTimedOut", "AllocationTimedOut"]
        assert len(world.rows("SELECT pk FROM node_usage WHERE released IS NULL")) == 1

    def test_windows(self, world: World) -> None:
        world.pool("pool", 2, targetLowPriorityNodes=1, virtualMachineConfiguration=WINDOWS)
        world.capacity(2)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (0, 0), ["AllocationFailed"] * 2)
        assert b"Windows" in (row(world).resize_errors or b"")

    def test_a_size_that_is_no_longer_offered(self, world: World) -> None:
        world.pool("pool", 0)
        world.capacity(2)
        world.capacity_job.offer = Offer()
        world.resize(1)
        world.capacity(2)
        assert (row(world).allocation_state, codes(world)) == ("steady", ["AllocationFailed"])


class TestQuotas:
    """Cores of the whole account, each kind for itself."""

    def test_what_can_be_allocated_is(self, worlds: Any) -> None:
        world = worlds(offer=Offer(quotas=Quotas(dedicated_cores=7, low_priority_cores=4)))
        world.pool("pool", 5, targetLowPriorityNodes=2, vmSize="standard_d2s_v3")
        world.capacity(3)
        assert (row(world).allocation_state, size(world), targets(world)) == ("steady", (3, 2), (5, 2))
        assert errors(world) == [
            (
                "AccountCoreQuotaReached",
                "Desired number of dedicated nodes could not be allocated because the core quota of the account has been reached",
            ),
        ]
        assert details(world) == [{"NodeKind": "dedicated", "Quota": "7 cores", "Used": "6 cores", "Wanted": "4 cores"}]
        world.pool("other", 1, targetLowPriorityNodes=1, vmSize="standard_a1_v2")
        world.capacity(3)
        assert (size(world, "other"), codes(world, "other")) == ((1, 0), ["AccountLowPriorityCoreQuotaReached"])
        world.resize(0)
        world.capacity(3)
        world.run(lambda tx: pools.resize(tx, pools.open_pool(tx, "other"), _to(6), world.now))
        world.capacity(3)
        assert (size(world, "other"), codes(world, "other")) == ((6, 0), [])

    def test_more_nodes_than_a_round_adds(self, worlds: Any) -> None:
        world = worlds(offer=Offer(quotas=Quotas(dedicated_cores=130)))
        world.pool("pool", 200, vmSize="standard_a1_v2")
        world.capacity(4)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (130, 0), ["AccountCoreQuotaReached"])

    def test_none_at_all(self, worlds: Any) -> None:
        world = worlds(offer=Offer(quotas=Quotas(dedicated_cores=0)))
        world.pool("pool", 1, vmSize="standard_a1_v2")
        world.capacity(2)
        assert (row(world).allocation_state, size(world), codes(world)) == ("steady", (0, 0), ["AccountCoreQuotaReached"])


def _to(dedicated: int) -> Any:
    return msgspec.convert({"targetDedicatedNodes": dedicated, "targetLowPriorityNodes": 0}, PoolResize)


def test_a_node_gets_what_its_size_says(worlds: Any) -> None:
    rule = SizeRule("standard_d*", cores=3, memory_bytes=2 * GIB, max_slots=5)
    world = worlds(offer=Offer(sizes=Sizes((rule,))))
    world.pool("pool", 1, vmSize="standard_d4s_v3", taskSlotsPerNode=5)
    world.pool("free", 1, vmSize="standard_e4s_v3")
    world.capacity(2)
    limited, free = world.nodes()
    assert (limited.cores, limited.memory, limited.provider, limited.slots) == (3, 2 * GIB, "local", 5)
    assert (free.cores, free.memory) == (0, 0)
    orders = {order.pool_id: (order.cores, order.memory_bytes) for order in world.provider.machines.values()}
    assert orders == {"pool": (3, 2 * GIB), "free": (0, 0)}
    assert refusal(world.pool, "more", vmSize="standard_d4s_v3", taskSlotsPerNode=6) == "InvalidPropertyValue"


@pytest.mark.parametrize("state", ["resizing", "stopping", "steady", "removing"])
def test_a_pool_is_deleted_in_every_allocation_state(worlds: Any, state: str) -> None:
    world = worlds(Broken(1))
    world.pool("pool", 2 if state in ("resizing", "stopping") else 1)
    world.capacity(2)
    for node in world.nodes():
        if node.handle:
            Agent(world, node.pk).join()
    world.job()
    world.add("a")
    world.schedule()
    if state == "stopping":
        world.stop_resize()
    elif state == "removing":
        remove(world, world.nodes(), "taskcompletion")
        world.capacity()
    world.delete_pool()
    world.capacity(4)
    assert (world.pool_row(), world.nodes(), world.state("a")) == (None, [], "active")
    assert world.rows("SELECT pk FROM node_usage WHERE released IS NULL") == []


def test_core_time_is_counted_from_addition_to_leaving(world: World) -> None:
    world.pool("pool", 2, targetLowPriorityNodes=1, vmSize="standard_d2s_v3")
    world.capacity(2)
    world.advance(HOUR)
    world.resize(1)
    world.capacity(3)
    world.advance(HOUR)
    used = world.run(usage.dedicated_core_time, row(world).pk, world.now)
    assert used == (2 * 2 + 2) * HOUR * 1_000_000, "low-priority nodes are not dedicated core time"
    assert world.rows("SELECT dedicated, cores, released IS NULL FROM node_usage ORDER BY 1, 3") == [(0, 2, 1), (1, 2, 0), (1, 2, 1)]
    world.delete_pool()
    world.capacity(4)
    assert len(world.run(usage.overlapping, 0, world.now)) == 3, "known beyond the end of the pool"
    world.advance(91 * 24 * HOUR)
    world.upkeep()
    assert world.run(usage.overlapping, 0, world.now) == []


def test_a_node_that_never_had_a_machine_used_nothing(worlds: Any) -> None:
    world = worlds(Broken(0))
    world.pool("pool", 1, resizeTimeout="PT5M")
    world.capacity()
    world.advance(300)
    world.capacity(3)
    assert world.rows("SELECT * FROM node_usage") == []


def test_one_round_takes_only_so_many_tasks_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node at least, and the next round goes on at once."""
    monkeypatch.setattr(resizing, "TASKS_PER_ROUND", 3)
    world.working_pool(nodes=3, slots=2)
    world.job()
    world.add(*"abcdef")
    world.schedule()
    woken = world.topics["capacity"]
    world.delete_pool()
    rounds = []
    for _ in range(3):
        world.capacity()
        rounds.append(len([name for name in "abcdef" if world.state(name) == "active"]))
    assert rounds == [2, 4, 6]
    assert world.topics["capacity"] > woken
    world.capacity(2)
    assert world.pool_row() is None


def test_nodes_that_wait_for_their_tasks_hold_up_no_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "TASKS_PER_ROUND", 1)
    world.working_pool(nodes=3, slots=2)
    world.job()
    world.add(*"abcdef")
    world.schedule()
    world.resize(0, nodeDeallocationOption="taskcompletion")
    world.capacity(2)
    woken = world.topics["capacity"]
    world.capacity(3)
    assert world.topics["capacity"] == woken, "nothing to do until tasks end"
    assert [node.action for node in world.nodes()] == ["remove"] * 3
