"""Directories of tasks on nodes that they left: every node is told to remove them, and none is forgotten before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_world import EXIT_1, Agent, World

from batchyard.engine.nodes import node_changes, nodes
from batchyard.model.words import NodeDisableSchedulingOption

PREPARED: dict[str, Any] = {"jobPreparationTask": {"commandLine": "true"}}
DAY_S = 86_400


def drained(world: World, agent: Agent) -> None:
    world.change(node_changes.disable_scheduling, agent.node_pk, NodeDisableSchedulingOption.REQUEUE)


def lost(world: World, agent: Agent) -> None:
    world.run(nodes.gone, agent.node_pk, world.now)
    world.run(nodes.not_back, agent.node_pk, world.now)


def silent(world: World, agent: Agent) -> None:
    world.run(nodes.silent, agent.node_pk, world.now)


def stopped(world: World, agent: Agent) -> None:
    agent.sync(leaving=True)


def rebooted(world: World, agent: Agent) -> None:
    world.change(node_changes.reboot, agent.node_pk, "requeue")


def retried(world: World, agent: Agent) -> None:
    """The node that it fails on takes no tasks by then."""
    world.change(node_changes.disable_scheduling, agent.node_pk, NodeDisableSchedulingOption.TASK_COMPLETION)
    agent.sync()
    agent.end(world.attempt("a"), **EXIT_1)


def reactivated(world: World, agent: Agent) -> None:
    world.change(node_changes.disable_scheduling, agent.node_pk, NodeDisableSchedulingOption.TASK_COMPLETION)
    agent.sync()
    agent.end(world.attempt("a"), failure={"category": "usererror", "code": "CommandProgramNotFound", "message": "none"})
    world.reactivate("a")


def job_disabled(world: World, agent: Agent) -> None:
    world.disable()
    world.upkeep()
    world.change(node_changes.disable_scheduling, agent.node_pk, None)
    world.enable()
    world.upkeep()


def removed(world: World, agent: Agent) -> None:
    world.remove_nodes(agent.node_pk)
    world.capacity()


def deleted(world: World) -> None:
    world.delete("a")


def job_deleted(world: World) -> None:
    world.delete_job()
    world.upkeep()


def expired(world: World) -> None:
    world.terminate("a")
    world.advance(8 * DAY_S)
    world.upkeep()


MOVES = [drained, lost, silent, stopped, rebooted, retried, reactivated, job_disabled]
ENDS = [deleted, job_deleted, expired]


def removals(world: World) -> dict[int, list[str]]:
    """Directories that each node still has to remove."""
    found: dict[int, list[str]] = {}
    for node_pk, directory in world.rows("SELECT node_pk, directory FROM removal ORDER BY pk"):
        found.setdefault(node_pk, []).append(directory)
    return found


def moved(world: World, move: Callable[[World, Agent], None], **more: Any) -> tuple[Agent, Agent]:
    """Task `a` ran on the first node and runs on the second."""
    one, two = world.working_pool(2)
    world.job(**more)
    world.add("a", constraints={"maxTaskRetryCount": 1})
    world.schedule()
    first, second = (one, two) if world.task("a").node_pk == one.node_pk else (two, one)
    first.sync()
    move(world, first)
    world.schedule()
    assert (world.state("a"), world.task("a").node_pk) == ("preparing" if more else "running", second.node_pk)
    return first, second


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("end", ENDS)
def test_every_node_that_it_ran_on_removes_it(world: World, move: Callable[..., None], end: Callable[[World], None]) -> None:
    first, second = moved(world, move)
    assert removals(world) == {}
    end(world)
    path = "workitems/job/job-1" if end is job_deleted else "workitems/job/job-1/a"
    assert removals(world) == {first.node_pk: [path], second.node_pk: [path]}
    assert world.rows("SELECT * FROM leftover") == []


def test_it_is_kept_in_mind_until_the_node_says_that_it_is_gone(world: World) -> None:
    first, _ = moved(world, silent)
    world.delete("a")
    for _ in range(2):
        first.join()
        answer = first.sync()
        assert answer is not None
        [removal] = answer.removals
        assert removal.directory == "workitems/job/job-1/a"
    first.sync(removed=[removal.number])
    assert first.node_pk not in removals(world)


def test_a_task_that_never_ran_again_is_cleared_up_too(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    reactivated(world, agent)
    world.terminate("a")
    world.advance(8 * DAY_S)
    world.upkeep()
    assert removals(world) == {agent.node_pk: ["workitems/job/job-1/a"]}


def test_what_a_lost_preparation_left_goes_with_the_job(world: World) -> None:
    first, second = moved(world, silent, **PREPARED)
    world.delete("a")
    world.delete_job()
    world.upkeep()
    assert removals(world)[first.node_pk] == ["workitems/job/job-1/a", "workitems/job/job-1"]
    assert removals(world)[second.node_pk] == ["workitems/job/job-1/a", "workitems/job/job-1"]


@pytest.mark.parametrize("change", [node_changes.reimage, node_changes.deallocate])
def test_a_node_that_lost_all_its_files_has_nothing_to_remove(world: World, change: Callable[..., None]) -> None:
    first, second = moved(world, lambda world, agent: world.change(change, agent.node_pk, "requeue"))
    world.capacity(3)
    world.delete("a")
    assert list(removals(world)) == [second.node_pk]
    assert world.rows("SELECT * FROM leftover WHERE node_pk = :pk", pk=first.node_pk) == []


def test_a_node_that_left_its_pool_is_forgotten(world: World) -> None:
    _, second = moved(world, removed)
    world.capacity(3)
    assert [node.pk for node in world.nodes()] == [second.node_pk]
    assert world.rows("SELECT * FROM leftover") == []
    world.delete("a")
    assert list(removals(world)) == [second.node_pk]
