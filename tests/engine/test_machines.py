"""Nodes of several servers: each is given to one that has room, and looked after by that one alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from engine_world import World
from failing_providers import AnswersLate

from batchyard.engine.pools import capacity
from batchyard.engine.pools.capacity import Plan, own_plan
from batchyard.engine.pools.machines import Here, elsewhere
from batchyard.store import nodes as node_rows
from batchyard.store.nodes import NodeRow

BOUND = frozenset({"local"})


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.check()
    world.close()


def plan(world: World, here: Here) -> Plan:
    return world.run(capacity.make_plan, b"key", world.now, world.offer, here)


def nodes(world: World) -> list[NodeRow]:
    return world.run(node_rows.every)


def grow(world: World, n: int) -> None:
    world.pool("big", n)


def test_new_nodes_go_where_there_is_room(world: World) -> None:
    grow(world, 5)
    here = Here("a", {"a": 1, "b": 3, "c": 2}, BOUND)
    made = plan(world, here)
    given = Counter(node.server for node in nodes(world))
    assert sum(given.values()) == 5
    assert all(given[server] <= room for server, room in here.rooms.items())
    own = {node.pk for node in nodes(world) if node.server == "a"}
    assert {pk for pk, _ in made.launch} == own, "nobody launches for another"
    there = world.run(own_plan, b"key", world.now, Here("b", here.rooms, BOUND))
    assert {pk for pk, _ in there.launch} == {node.pk for node in nodes(world) if node.server == "b"}


def test_where_nobody_has_room_who_plans_says_so(world: World) -> None:
    grow(world, 2)
    made = plan(world, Here("a", {"a": 0, "b": 0}, BOUND))
    assert {node.server for node in nodes(world)} == {"a"}
    assert len(made.launch) == 2


def test_a_node_that_no_machine_has_seen_goes_from_a_dead_server_to_another(world: World) -> None:
    grow(world, 1)
    plan(world, Here("a", {"a": 0, "b": 1}, BOUND))
    assert nodes(world)[0].server == "b"
    plan(world, Here("a", {"a": 1}, BOUND))
    assert nodes(world)[0].server == "a"


def test_a_node_on_the_machine_of_a_dead_server_is_nobody_elses(world: World) -> None:
    grow(world, 1)
    plan(world, Here("a", {"a": 0, "b": 1}, BOUND))
    (node,) = nodes(world)
    assert world.run(capacity.launched, node.pk, "there", world.now, "b")
    alone = Here("a", {"a": 5}, BOUND, frozenset({"a"}))
    made = plan(world, alone)
    assert (made.launch, made.watch, made.release, nodes(world)[0].server) == ([], [], [], "b")
    world.delete_pool("big")
    plan(world, Here("a", {"a": 5}, BOUND, frozenset({"a", "b"})))
    assert len(nodes(world)) == 1, "it lived a moment ago, and releases the node itself"
    plan(world, alone)
    assert nodes(world) == [], "what is not wanted any more is not waited for"


def test_a_late_launch_of_a_node_that_is_another_servers_is_taken_back(world: World) -> None:
    grow(world, 1)
    plan(world, Here("a", {"a": 0, "b": 1}, BOUND))
    (node,) = nodes(world)
    assert not world.run(capacity.launched, node.pk, "here", world.now, "a")
    assert nodes(world)[0].handle is None


def test_a_server_that_has_no_room_after_all_passes_the_node_on(world: World) -> None:
    grow(world, 1)
    plan(world, Here("a", {"a": 0, "b": 1}, BOUND))
    (node,) = nodes(world)
    assert not world.run(elsewhere, node.pk, "a")
    assert world.run(elsewhere, node.pk, "b")
    assert nodes(world)[0].server is None
    plan(world, Here("a", {"a": 0, "b": 0, "c": 1}, BOUND))
    assert nodes(world)[0].server == "c"
    world.run(capacity.launched, node.pk, "there", world.now, "c")
    assert not world.run(elsewhere, node.pk, "c"), "one that has a machine stays there"


async def test_a_server_that_was_taken_for_gone_removes_what_others_gave_up() -> None:
    provider = AnswersLate()
    provider.go.set()
    world = World(provider=provider)
    here = Here("a", {"a": 5}, BOUND, frozenset({"a"}))
    world.capacity_job._here = lambda: here
    grow(world, 1)
    await world.capacity_job.run_once()
    await world.capacity_job.settle()
    (node,) = nodes(world)
    assert node.handle is not None
    world.run(lambda tx: node_rows.delete(tx, node.pk))
    await world.capacity_job.run_own()
    await world.capacity_job.settle()
    assert await provider.observe([node.handle]) == {node.handle: "alive"}
    here = Here("a", {"a": 5}, BOUND, frozenset({"a"}), 1)
    await world.capacity_job.run_own()
    await world.capacity_job.settle()
    assert await provider.observe([node.handle]) == {node.handle: "gone"}
    world.close()


def test_what_leaves_before_it_was_anybodys_is_gone_at_once(world: World) -> None:
    grow(world, 1)
    world.run(capacity.make_plan, b"key", world.now, world.offer)
    world.delete_pool("big")
    made = plan(world, Here("a", {"a": 1}, BOUND))
    assert [pk for pk, _ in made.release] == [node.pk for node in nodes(world)]
