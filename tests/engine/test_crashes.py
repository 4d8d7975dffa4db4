"""Every use case, with the server killed right behind its commit: no wake-up goes out, nothing is closed, the end is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from engine_world import EXIT_1, Agent, Steady, World

from batchyard.engine import capacity, jobs, lookup, nodes, scheduler, upkeep
from batchyard.model.job import JobPatch

Step = Callable[[World], object]


def prepare(world: World) -> None:
    """Two nodes with two slots, a job whose first tasks run, and more that wait for room and for each other."""
    world.working_pool(nodes=2, slots=2)
    world.job()
    world.job("other")
    world.add("r1", "r2", {"id": "f1", "constraints": {"maxTaskRetryCount": 2}})
    world.add("o1", job_id="other")
    world.schedule()
    world.add("w1", "w2", {"id": "child", "dependsOn": {"taskIds": ["r1"], "taskIdRanges": [{"start": 1, "end": 120}]}}, "7")


def agent_of(world: World, task_id: str) -> Agent:
    pk = world.task(task_id).node_pk
    assert pk is not None
    agent = Agent(world, pk)
    agent.session = world.node(pk).session
    return agent


def patch(world: World, **changes: object) -> None:
    sent = msgspec.convert(changes, JobPatch)
    world.run(lambda tx: jobs.patch(tx, lookup.open_job(tx, "job"), sent, world.now))


def lose(world: World, task_id: str) -> None:
    """The machine of the node that runs a task vanishes, and only this much is noted."""
    node = world.node(world.task(task_id).node_pk or 0)
    assert isinstance(world.provider, Steady)
    world.provider.gone.add(node.handle or "")
    world.run(nodes.gone, node.pk, world.now)


STEPS: dict[str, Step] = {
    "add tasks": lambda world: world.add(*map(str, range(1, 100))),
    "add a task with dependencies": lambda world: world.add({"id": "late", "dependsOn": {"taskIds": ["r1", "r2"]}}),
    "add a job": lambda world: world.job("new", onAllTasksComplete="terminatejob"),
    "add a pool": lambda world: world.pool("new", 2),
    "patch a job": lambda world: patch(world, onAllTasksComplete="terminatejob", priority=7),
    "terminate a running task": lambda world: world.terminate("r1"),
    "terminate a waiting task": lambda world: world.terminate("child"),
    "delete a running task": lambda world: world.delete("r2"),
    "terminate a job": lambda world: world.end_job(),
    "delete a job": lambda world: world.delete_job(),
    "resize up": lambda world: world.resize(4),
    "resize down, requeue": lambda world: world.resize(1),
    "resize down, terminate": lambda world: world.resize(1, nodeDeallocationOption="terminate"),
    "resize down, taskcompletion": lambda world: world.resize(0, nodeDeallocationOption="taskcompletion"),
    "delete a pool": lambda world: world.delete_pool(),
    "schedule": lambda world: world.run(scheduler.run_once, "pool", world.now),
    "join": lambda world: agent_of(world, "r1").join(),
    "report an end": lambda world: agent_of(world, "r1").end(world.attempt("r1")),
    "report a failure": lambda world: agent_of(world, "f1").end(world.attempt("f1"), **EXIT_1),
    "lose a node": lambda world: lose(world, "r1"),
    "a silent node": lambda world: world.run(nodes.silent, world.task("r1").node_pk or 0, world.now),
}
HALVES: dict[str, tuple[Step, Step]] = {  # a use case, and the one step of a loop that came through before the kill
    "planning a bigger pool": (STEPS["resize up"], lambda world: world.run(capacity.make_plan, b"key", world.now)),
    "planning a smaller pool": (STEPS["resize down, requeue"], lambda world: world.run(capacity.make_plan, b"key", world.now)),
    "planning a pool's end": (STEPS["delete a pool"], lambda world: world.run(capacity.make_plan, b"key", world.now)),
    "ending a job's tasks": (STEPS["terminate a job"], lambda world: world.run(upkeep.advance_jobs, world.now)),
    "removing a job's tasks": (STEPS["delete a job"], lambda world: world.run(upkeep.advance_jobs, world.now)),
}
ALL = {**{name: (step,) for name, step in STEPS.items()}, **HALVES}


def outcome(path: Path, steps: tuple[Step, ...], *, killed: bool) -> object:
    path.mkdir()
    world = World(path / "batchyard.db")
    try:
        prepare(world)
        for step in steps:
            world.advance(1)
            step(world)
        before = world.summary()
        if killed:
            world.crash()
            assert world.summary() == before, "acknowledged is there"
        world.finish()
        world.check()
        return world.summary()
    finally:
        world.close()


@pytest.mark.parametrize("name", ALL)
def test_the_end_is_the_same(tmp_path: Path, name: str) -> None:
    plain = outcome(tmp_path / "plain", ALL[name], killed=False)
    assert outcome(tmp_path / "killed", ALL[name], killed=True) == plain
