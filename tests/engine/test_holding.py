"""A task of several slots starts beside a stream of small ones, whatever else the pool does; explain says what is held for whom."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_world import Agent, World, ended
from explain_asks import first

from batchyard.model.explain import Code
from batchyard.store.reader import Change

PATIENCE_S = 10


def stream(world: World, agents: list[Agent], dice: random.Random, turns: int, **more: Any) -> int | None:
    """Small tasks come, the oldest running one ends; how many turns it takes until `large` runs, None when it never does."""
    for turn in range(turns):
        sent = []
        for nth in range(3):
            near = {"affinityInfo": {"affinityId": world.node(dice.choice(agents).node_pk).id}} if dice.random() < 0.5 else {}
            sent.append({"id": f"s{turn}-{nth}", **near, **more})
        world.add(*sent, job_id="small")
        world.schedule()
        if world.state("large", "large") == "running":
            return turn
        oldest = world.rows(OLDEST)
        if not oldest:
            continue  # all have just been pushed off
        pk, run, node_pk = oldest[0]
        [agent] = [agent for agent in agents if agent.node_pk == node_pk]
        agent.sync(ended(f"{pk}.{run}"))
        world.advance(1)
    return None


@pytest.mark.parametrize("fill", ["spread", "pack"])
@pytest.mark.parametrize("priority", [0, 1])
@pytest.mark.parametrize("yields", [False, True])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_large_task_starts_beside_a_stream_of_small_ones(world: World, fill: str, priority: int, yields: bool, nodes: int) -> None:
    dice = random.Random(nodes)
    agents = world.working_pool(nodes=nodes, slots=4, taskSchedulingPolicy={"nodeFillType": fill})
    world.job("small", allowTaskPreemption=yields)
    world.add(*(f"f{number}" for number in range(8 * nodes)), job_id="small")
    world.schedule()
    world.job("large", priority=priority)
    world.add({"id": "large", "requiredSlots": 4}, job_id="large")
    waited = stream(world, agents, dice, 100)
    assert waited is not None
    # Each of the slots of the pool ends one turn after the other: so long runs what was there, and so often a hold may move.
    assert waited <= (2 if yields and priority else (0 if priority else PATIENCE_S) + 4 * 4 * nodes)


def test_within_one_job(world: World) -> None:
    agents = world.working_pool(nodes=2, slots=2)
    world.job("small")
    world.add("f1", "f2", "f3", "f4", job_id="small")
    world.schedule()
    world.add({"id": "large", "requiredSlots": 2}, job_id="small")
    world.job("large")
    world.add("large", job_id="large")
    world.terminate("large", "large")
    for turn in range(40):
        world.add(f"s{turn}", job_id="small")
        world.schedule()
        if world.state("large", "small") == "running":
            return
        [agent] = [agent for agent in agents if agent.node_pk == world.rows(OLDEST)[0][2]]
        agent.sync(ended("{}.{}".format(*world.rows(OLDEST)[0][:2])))
        world.advance(1)
    raise AssertionError("it never started")


OLDEST = "SELECT pk, run, node_pk FROM task WHERE state = 'running' ORDER BY started, pk LIMIT 1"


@pytest.mark.parametrize(("order", "expected"), [("none", {"a": 10, "b": 10}), ("creationtime", {"a": 0, "b": 20})])
def test_while_a_node_is_held_for_one_of_a_job_its_equals_get_their_turns(world: World, order: str, expected: dict[str, int]) -> None:
    policy = {"nodeFillType": "spread", "jobDefaultOrder": order}
    held, other = world.working_pool(nodes=2, slots=4, taskSchedulingPolicy=policy)
    for job_id in ("long", "b", "a"):
        world.job(job_id)
    world.add(*(f"l{number}" for number in range(8)), job_id="long")
    world.schedule()
    world.add({"id": "large", "requiredSlots": 4}, job_id="a")
    world.advance(PATIENCE_S)
    on = "SELECT pk, run FROM task WHERE state = 'running' AND node_pk = {} ORDER BY started, pk LIMIT 1"
    for node in [held] + [other] * 20:
        if node is other:
            world.add(*(f"s{world.now}-{nth}" for nth in range(2)), job_id="a")
            world.add(*(f"s{world.now}-{nth}" for nth in range(2)), job_id="b")
        [(pk, run)] = world.rows(on.format(node.node_pk))
        node.sync()
        node.sync(ended(f"{pk}.{run}"))
        world.schedule()
        world.advance(1)
    assert world.rows("SELECT id FROM task WHERE holds = 1") == [("large",)]
    assert {name: world.counts(name).running + world.counts(name).completed for name in "ab"} == expected


def test_who_can_be_placed_nowhere_any_more_goes_before_nobody(world: World) -> None:
    """Its mark ends with the first turn that finds no node which could be held."""
    world.working_pool(nodes=0, slots=4, targetLowPriorityNodes=1)
    world.job("job", jobManagerTask={"id": "manager", "commandLine": "true", "allowLowPriorityNode": False})
    world.run(lambda tx: tx.change(Change("UPDATE task SET holds = 1, version = version + 1")))
    world.schedule()
    assert world.rows("SELECT holds, state FROM task") == [(0, "active")]


def test_a_share_of_a_pool_is_held_against_lower_priorities(world: World) -> None:
    world.working_pool(nodes=8, slots=2, taskSchedulingPolicy={"nodeFillType": "spread"})
    world.job("small")
    world.add(*(f"f{number}" for number in range(8)), job_id="small")
    world.schedule()
    world.job("large", priority=100)
    world.add(*({"id": f"l{number}", "requiredSlots": 2} for number in range(8)), job_id="large")
    world.add(*(f"s{number}" for number in range(8)), job_id="small")
    assert world.schedule() == 6
    waiting = [first(world, f"l{number}", "large").code for number in range(8)]
    assert waiting == [Code.NODE_HELD] * 2 + [Code.NOT_ENOUGH_FREE] * 6


def test_explain_says_what_is_held_for_whom(world: World) -> None:
    [agent] = world.working_pool(slots=4)
    world.job("small")
    world.add("a", "b", "c", job_id="small")
    world.schedule()
    world.job("large", priority=100)
    world.add({"id": "large", "requiredSlots": 2}, job_id="large")
    world.add("d", job_id="small")
    assert world.schedule() == 0
    node = world.node(agent.node_pk).id
    mine, theirs = first(world, "large", "large"), first(world, "d", "small")
    assert (mine.code, mine.node_id) == (Code.NODE_HELD, node)
    assert "needs 2 slots" in mine.sentence
    assert "1 are free" in mine.sentence
    assert (theirs.code, theirs.node_id, theirs.job_id, theirs.task_id) == (Code.HELD_FOR_OTHERS, node, "large", "large")
    agent.sync()
    agent.end(world.attempt("a", "small"))
    assert first(world, "large", "large").code == Code.READY
    world.schedule()
    assert (world.state("large", "large"), world.state("d", "small")) == ("running", "active")


def test_a_hold_is_gone_with_its_task(world: World) -> None:
    world.working_pool(slots=4)
    world.job("small")
    world.add("a", "b", "c", "d", job_id="small", requiredSlots=1)
    world.job("large", priority=1)
    world.add({"id": "large", "requiredSlots": 4}, job_id="large")
    world.add({"id": "first", "requiredSlots": 1}, job_id="large")
    world.terminate("large", "large")
    assert world.schedule() == 4
    assert world.state("first", "large") == "running"


def test_nobody_is_pushed_off_for_a_task_that_a_node_is_not_held_for(world: World) -> None:
    """The room of the held node goes to whom it is held for; less important ones push elsewhere or not at all."""
    [agent] = world.working_pool(slots=4)
    world.job("stays")
    world.add("s1", "s2", job_id="stays")
    world.job("yields", priority=-5, allowTaskPreemption=True)
    world.add("y", job_id="yields")
    world.schedule()
    world.job("large", priority=9)
    world.add({"id": "large", "requiredSlots": 4}, job_id="large")
    world.job("middle", priority=5)
    world.add("m", job_id="middle")
    for _ in range(4):
        world.schedule()
    assert (world.state("y", "yields"), world.state("m", "middle")) == ("running", "active")
    agent.sync()
    agent.end(world.attempt("s1", "stays"))
    world.schedule()
    agent.end(world.attempt("s2", "stays"))
    for _ in range(3):
        world.schedule()
    assert (world.state("y", "yields"), world.state("large", "large")) == ("active", "running")


class TestOrder:
    """taskSchedulingPolicy.jobDefaultOrder (contract 3.1)."""

    @pytest.mark.parametrize(
        ("order", "expected"), [("creationtime", ["old"] * 4), ("none", ["new", "new", "old", "old"]), (None, ["new", "new", "old", "old"])]
    )
    def test_among_jobs_of_one_priority(self, world: World, order: str | None, expected: list[str]) -> None:
        policy = {"nodeFillType": "spread"} | ({} if order is None else {"jobDefaultOrder": order})
        world.working_pool(slots=4, taskSchedulingPolicy=policy)
        world.job("old")
        world.job("new")
        world.add("a", "b", "c", "d", "e", job_id="new")
        world.add("a", "b", "c", "d", "e", job_id="old")
        assert world.schedule() == 4
        rows = world.rows("SELECT job.id FROM task JOIN job ON job.pk = job_pk WHERE task.state = 'running' ORDER BY 1")
        assert [job for (job,) in rows] == expected

    def test_priority_goes_first_and_what_finds_no_room_does_not_hold_up_the_next(self, world: World) -> None:
        world.working_pool(slots=4, taskSchedulingPolicy={"nodeFillType": "pack", "jobDefaultOrder": "creationtime"})
        world.job("old", maxParallelTasks=1)
        world.job("new")
        world.job("first", priority=1)
        for job_id in ("first", "new", "old"):
            world.add("a", "b", job_id=job_id)
        assert world.schedule() == 4
        rows = world.rows("SELECT job.id FROM task JOIN job ON job.pk = job_pk WHERE task.state = 'running' ORDER BY 1")
        assert [job for (job,) in rows] == ["first", "first", "new", "old"]


def test_who_may_not_start_beside_the_held_task_of_its_job_pushes_nobody_off(world: World) -> None:
    """The hold is what maxParallelTasks still allows: whatever a small one freed would stay empty."""
    world.working_pool(nodes=2, slots=4)
    world.job("stays")
    world.add(*(f"s{number}" for number in range(4)), job_id="stays")
    world.schedule()
    world.job("yields", priority=-5, allowTaskPreemption=True)
    world.add(*(f"y{number}" for number in range(3)), job_id="yields")
    world.schedule()
    world.job("large", priority=9, maxParallelTasks=1)
    world.add({"id": "large", "requiredSlots": 4}, "small", job_id="large")
    world.advance(PATIENCE_S)
    for _ in range(6):
        world.schedule()
    assert [world.state(name, "large") for name in ("large", "small")] == ["active", "active"]
    assert world.rows("SELECT sum(requeues) FROM task") == [(0,)]


@pytest.mark.parametrize("seed", range(30))
def test_rounds_come_to_rest_whatever_yields_and_whatever_is_held(world: World, seed: int) -> None:
    """Nobody is pushed off again and again for a place that somebody else gets or nobody may use."""
    dice = random.Random(seed)
    slots = dice.randint(2, 4)
    policy = {"nodeFillType": dice.choice(["pack", "spread"]), "jobDefaultOrder": dice.choice(["none", "creationtime"])}
    agents = world.working_pool(nodes=dice.randint(1, 3), slots=slots, taskSchedulingPolicy=policy)
    for number in range(dice.randint(3, 6)):
        world.job(
            f"job{number}",
            priority=dice.choice([0, 0, 3, 6]),
            allowTaskPreemption=dice.random() < 0.5,
            maxParallelTasks=dice.choice([-1, -1, 1, 2]),
        )
        for nth in range(dice.randint(1, 5)):
            world.add({"id": str(nth), "requiredSlots": dice.randint(1, slots)}, job_id=f"job{number}")
        if dice.random() < 0.5:
            world.schedule()
    for _ in range(15):
        world.advance(dice.choice([0, 4, PATIENCE_S]))
        seen: list[object] = []
        while len(seen) < 2 or seen[-1] != seen[-2]:
            world.schedule()
            seen.append(world.rows("SELECT pk, state, run, requeues FROM task ORDER BY pk"))
            assert len(seen) < 30, "the scheduler pushes and places for ever"
        busy = [agent for agent in agents if agent.sync_all()]
        if busy:
            agent = dice.choice(busy)
            agent.end(dice.choice(agent.has))
