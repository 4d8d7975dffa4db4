"""What the scheduler starts was said to start, and what was said to start it starts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from engine_world import EXIT_1, Agent, World
from explain_asks import MANAGER, after, disable, first

from batchyard.engine.nodes import nodes as node_cases
from batchyard.model.explain import Code


def predictions(world: World) -> dict[int, bool]:
    """Whether explain says that each active task may start now."""
    active = world.rows("SELECT task.pk, job.id, task.id FROM task JOIN job ON job.pk = job_pk WHERE task.state = 'active'")
    return {pk: first(world, name, job_id).code == Code.READY for pk, job_id, name in active}


def grow(world: World, dice: random.Random) -> None:
    """A few jobs on one pool, with tasks of all kinds."""
    for number in range(dice.randint(1, 4)):
        more: dict[str, Any] = {"priority": dice.choice([0, 0, 5]), "maxParallelTasks": dice.choice([-1, -1, 1, 3])}
        if dice.random() < 0.4:
            more["jobManagerTask"] = {
                **MANAGER,
                "requiredSlots": dice.randint(1, 4),
                "runExclusive": dice.random() < 0.7,
                "allowLowPriorityNode": dice.random() < 0.5,
            }
        if dice.random() < 0.3:
            more["jobPreparationTask"] = {"commandLine": "prepare"}
        world.job(f"job{number}", **more)
        for task_id in map(str, range(dice.randint(0, 8))):
            ids = [str(dice.randint(0, 8))] if dice.random() < 0.3 else []
            world.add({**after(task_id, *ids), "requiredSlots": dice.randint(1, 4)}, job_id=f"job{number}")


def turn(world: World, agents: Sequence[Agent], dice: random.Random) -> None:
    """One thing that happens between two rounds of the scheduler."""
    agent = dice.choice(agents)
    if dice.random() < 0.1:
        world.run(node_cases.silent, agent.node_pk, world.now)
    elif agent.sync() is None:
        agent.join()
    elif agent.has:
        agent.end(dice.choice(agent.has), **(EXIT_1 if dice.random() < 0.2 else {}))
    if dice.random() < 0.1:
        job_id = dice.choice(world.rows("SELECT id FROM job WHERE state = 'active'") or [("",)])[0]
        if job_id:
            disable(world, job_id=job_id)
            world.upkeep()


@pytest.mark.parametrize("seed", range(40))
def test_what_starts_was_said_to_start_and_nothing_else(world: World, seed: int) -> None:
    dice = random.Random(seed)
    world.job()
    world.add("early", requiredSlots=4)
    agents = world.working_pool(nodes=2, slots=dice.randint(2, 4), targetLowPriorityNodes=1)
    grow(world, dice)
    started = 0
    for _ in range(12):
        world.advance(dice.choice([0, 11]))  # who waits for longer than ten seconds lets nobody pass on all nodes
        said = predictions(world)
        world.schedule()
        now = dict(world.rows("SELECT pk, state FROM task"))
        begun = {pk for pk in said if now[pk] != "active"}
        assert all(said[pk] for pk in begun), f"started, though explain said it cannot: {begun}"
        started += len(begun)
        while world.schedule() or world.schedule():  # a round that starts nothing may push tasks off a node for the next
            pass
        assert not any(predictions(world).values()), "said to start, though the scheduler is done"
        turn(world, agents, dice)
    assert started
