"""Agents that end without a word: their tasks wait for the next agent, which says what it knows of them."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import EXIT_1, NO_UPLOAD, Agent, World, ended

from batchyard.engine.nodes import nodes
from batchyard.engine.upkeep.upkeep import RETURN_US
from batchyard.model.sync import Orders, Sync

PREPARED: dict[str, Any] = {"jobPreparationTask": {"commandLine": "true"}}


def running(world: World, *names: str, **more: Any) -> Agent:
    """An agent that runs these tasks, beside an idle node."""
    world.working_pool(2, slots=4, taskSchedulingPolicy={"nodeFillType": "pack"})
    world.job(**more)
    world.add(*names)
    world.schedule()
    agent = Agent(world, world.task(names[0]).node_pk or 0)
    agent.session = world.node(agent.node_pk).session
    agent.sync()
    return agent


def join(world: World, agent: Agent, *ends: Any, unwatched: bool = False) -> Orders:
    """Another agent joins with what it found."""
    said = Sync(session=0, number=1, ended=[*ends], has=[end.attempt for end in ends], unwatched=unwatched)
    answer = world.run(nodes.hear, agent.node_pk, said, nodes.Setting("account", b"key"), world.now)
    assert answer is not None
    agent.session, agent.has = answer.session, [*answer.wanted]
    return answer


def counters(world: World, task_id: str) -> tuple[str, int, int, int]:
    row = world.task(task_id)
    return str(row.state), row.retries, row.requeues, row.losses


def test_tasks_wait_for_the_next_agent_and_are_not_made_elsewhere_meanwhile(world: World) -> None:
    agent = running(world, "a")
    world.run(nodes.gone, agent.node_pk, world.now)
    assert (world.node(agent.node_pk).state, world.schedule()) == ("starting", 0)
    assert counters(world, "a") == ("running", 0, 0, 0)
    assert agent.sync() is None, "it is fenced off"
    join(world, agent)
    assert counters(world, "a") == ("active", 0, 0, 1)
    assert world.task("a").last_requeue is None


def test_ends_that_were_noted_count_and_nothing_runs_twice(world: World) -> None:
    agent = running(world, "done", "bad", "upload", "cut")
    attempts = {name: world.attempt(name) for name in ("done", "bad", "upload", "cut")}
    world.run(nodes.gone, agent.node_pk, world.now)
    ends = [ended(attempts["done"]), ended(attempts["bad"], **EXIT_1), ended(attempts["upload"], **NO_UPLOAD)]
    answer = join(world, agent, *ends, unwatched=True)
    assert answer.wanted == []
    assert [world.task(name).result for name in ("done", "bad", "upload")] == ["success", "failure", "failure"]
    assert [world.task(name).requeues for name in attempts] == [0, 0, 0, 1]
    assert counters(world, "cut") == ("active", 0, 1, 1)
    assert world.task("cut").last_requeue == world.now
    join(world, agent, *ends)  # said twice
    assert world.states("done", "bad", "upload") == ["completed"] * 3


def test_an_agent_that_joins_before_anybody_missed_the_last_one_settles_as_well(world: World) -> None:
    agent = running(world, "a", "b")
    join(world, agent, ended(world.attempt("a")), unwatched=True)
    assert world.state("a") == "completed"
    assert counters(world, "b") == ("active", 0, 1, 1)


def test_ends_of_tasks_that_went_on_elsewhere_say_nothing(world: World) -> None:
    agent = running(world, "a")
    attempt = world.attempt("a")
    world.run(nodes.silent, agent.node_pk, world.now)
    world.schedule()
    assert world.task("a").node_pk != agent.node_pk
    join(world, agent, ended(attempt), unwatched=True)
    assert counters(world, "a") == ("running", 0, 0, 1)


def test_a_task_that_only_prepares_has_not_run(world: World) -> None:
    agent = running(world, "a", **PREPARED)
    join(world, agent, unwatched=True)
    assert counters(world, "a") == ("active", 0, 0, 1)


def test_nobody_waits_longer_than_a_while(world: World) -> None:
    agent = running(world, "a")
    world.run(nodes.gone, agent.node_pk, world.now)
    world.advance(RETURN_US / 1e6 - 1)
    world.upkeep()
    assert counters(world, "a") == ("running", 0, 0, 0)
    world.advance(1)
    world.upkeep()
    assert counters(world, "a") == ("active", 0, 0, 1)
    world.schedule()
    assert world.task("a").node_pk != agent.node_pk


@pytest.mark.parametrize("seconds", [0, RETURN_US / 1e6])
def test_what_is_ended_by_its_client_meanwhile_stays_so(world: World, seconds: float) -> None:
    agent = running(world, "a")
    attempt = world.attempt("a")
    world.run(nodes.gone, agent.node_pk, world.now)
    world.terminate("a")
    world.advance(seconds)
    world.upkeep()
    join(world, agent, ended(attempt))
    assert (world.state("a"), world.task("a").result, world.node(agent.node_pk).tasks_running) == ("completed", "failure", 0)
