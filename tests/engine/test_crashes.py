"""Every use case, with the server killed right behind its commit: no wake-up goes out, nothing is closed, the end is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_world import EXIT_1, NO_PROGRAM, Agent, Steady, World

from batchyard.engine.autoscale import loop as autoscale
from batchyard.engine.nodes import node_changes, nodes
from batchyard.engine.pools import autoscale_runs, capacity
from batchyard.engine.scheduling import scheduler
from batchyard.engine.upkeep import upkeep

Step = Callable[[World], object]


def prepare(world: World) -> None:
    """Two nodes with two slots, a job whose first tasks run, and more that wait for room and for each other."""
    world.working_pool(nodes=2, slots=2)
    world.job()
    world.job("other")
    world.add("r1", "r2", {"id": "f1", "constraints": {"maxTaskRetryCount": 2}})
    world.add("o1", job_id="other")
    world.schedule()
    world.job(
        "special",
        priority=1,
        allowTaskPreemption=True,
        onTaskFailure="performexitoptionsjobaction",
        jobManagerTask={"id": "boss", "commandLine": "true", "runExclusive": False, "constraints": {"maxTaskRetryCount": 1}},
        jobPreparationTask={"commandLine": "true"},
        jobReleaseTask={"commandLine": "true"},
    )
    world.add("s1", {"id": "f2", "exitConditions": {"default": {"jobAction": "none"}}}, job_id="special")
    world.add("w1", "w2", {"id": "child", "dependsOn": {"taskIds": ["r1"], "taskIdRanges": [{"start": 1, "end": 120}]}}, "7")


def agent_of(world: World, task_id: str, job_id: str = "job") -> Agent:
    pk = world.task(task_id, job_id).node_pk
    assert pk is not None
    return agent_on(world, pk)


def agent_on(world: World, pk: int) -> Agent:
    agent = Agent(world, pk)
    agent.session = world.node(pk).session
    return agent


def boss_runs(world: World) -> None:
    """The manager's node has room and is prepared."""
    for name in ("r1", "r2"):
        agent_of(world, name).end(world.attempt(name))
    world.run(scheduler.run_once, "pool", world.now)
    for row in world.special(job_id="special"):
        agent_on(world, row.node_pk).end(f"s{row.pk}.{row.run}")


def prepare_fails(world: World) -> None:
    boss_starts(world)
    row = world.special(job_id="special")[0]
    agent_on(world, row.node_pk).end(f"s{row.pk}.{row.run}", **EXIT_1)


def boss_starts(world: World) -> None:
    agent_of(world, "r1").end(world.attempt("r1"))
    world.run(scheduler.run_once, "pool", world.now)


def change_boss_node(world: World, use: Callable[..., None]) -> None:
    world.change(use, world.special(job_id="special")[0].node_pk, None)


def machines_stop(world: World) -> None:
    world.run(node_changes.stopped, [node.pk for node in world.nodes()], world.now)


def upkeep_step(world: World) -> None:
    world.run(upkeep.advance_jobs, world.now)


def ends_while_released(world: World, end: Step) -> None:
    """The job is on its way out and its release tasks run."""
    boss_runs(world)
    end(world)
    upkeep_step(world)
    upkeep_step(world)


def lose(world: World, task_id: str) -> None:
    """The machine of the node that runs a task vanishes, and only this much is noted."""
    lose_node(world, world.task(task_id).node_pk or 0)


def lose_node(world: World, node_pk: int) -> None:
    node = world.node(node_pk)
    assert isinstance(world.provider, Steady)
    world.provider.gone.add(node.handle or "")
    world.run(nodes.gone, node.pk, world.now)


def evaluate(world: World) -> None:
    """The formula wants another size since tasks came; it is due and its decision is written."""
    world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=$FailedTasks>0?3:2;")
    agent_of(world, "f1").end(world.attempt("f1"), **NO_PROGRAM)
    world.advance(16 * 60)
    [due] = world.run(autoscale.look, world.now, on_demand=False)
    found = world.run(autoscale_runs.evaluate, due.pool, due.pool.autoscale_formula or "", world.now)
    world.run(autoscale.conclude, due.pool, found, "interval", world.now)


STEPS: dict[str, Step] = {
    "add tasks": lambda world: world.add(*map(str, range(1, 100))),
    "add a task with dependencies": lambda world: world.add({"id": "late", "dependsOn": {"taskIds": ["r1", "r2"]}}),
    "add a job": lambda world: world.job("new", onAllTasksComplete="terminatejob"),
    "add a pool": lambda world: world.pool("new", 2),
    "patch a job": lambda world: world.patch(onAllTasksComplete="terminatejob", priority=7),
    "terminate a running task": lambda world: world.terminate("r1"),
    "terminate a waiting task": lambda world: world.terminate("child"),
    "delete a running task": lambda world: world.delete("r2"),
    "terminate a job": lambda world: world.end_job(),
    "delete a job": lambda world: world.delete_job(),
    "add a pool with autoscale": lambda world: world.scaled_pool("$TargetDedicatedNodes=2", "new"),
    "enable autoscale": lambda world: world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=3;"),
    "enable autoscale with a formula that fails": lambda world: world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=1/0"),
    "disable autoscale": lambda world: (world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=3;"), world.disable_autoscale()),
    "evaluate a formula": evaluate,
    "resize up": lambda world: world.resize(4),
    "resize down, requeue": lambda world: world.resize(1),
    "resize down, terminate": lambda world: world.resize(1, nodeDeallocationOption="terminate"),
    "resize down, taskcompletion": lambda world: world.resize(0, nodeDeallocationOption="taskcompletion"),
    "remove a node": lambda world: world.remove_nodes(1),
    "remove nodes, taskcompletion": lambda world: world.remove_nodes(2, nodeDeallocationOption="taskcompletion"),
    "stop a resize": lambda world: (world.resize(0, nodeDeallocationOption="taskcompletion"), world.stop_resize()),
    "delete a pool": lambda world: world.delete_pool(),
    "schedule": lambda world: world.run(scheduler.run_once, "pool", world.now),
    "join": lambda world: agent_of(world, "r1").join(),
    "report an end": lambda world: agent_of(world, "r1").end(world.attempt("r1")),
    "report a failure": lambda world: agent_of(world, "f1").end(world.attempt("f1"), **EXIT_1),
    "lose a node": lambda world: lose(world, "r1"),
    "disable, requeue": lambda world: world.disable("requeue"),
    "disable, terminate": lambda world: world.disable("terminate"),
    "disable, wait": lambda world: world.disable("wait"),
    "terminate a disabled job": lambda world: (world.disable(), world.end_job()),
    "reactivate": lambda world: (world.terminate("r1"), world.reactivate("r1")),
    "reactivate what waits": lambda world: (world.terminate("child"), world.reactivate("child")),
    "update a task": lambda world: world.update("f1", maxTaskRetryCount=0),
    "move a job": lambda world: (world.disable(), upkeep_step(world), upkeep_step(world), world.patch(poolInfo={"poolId": "elsewhere"})),
    "begin to prepare": boss_starts,
    "prepared": boss_runs,
    "preparation fails": prepare_fails,
    "the manager fails": lambda world: (
        boss_runs(world),
        agent_of(world, "boss", "special").end(world.attempt("boss", "special"), **EXIT_1),
    ),
    "the manager ends": lambda world: (boss_runs(world), agent_of(world, "boss", "special").end(world.attempt("boss", "special"))),
    "terminate a prepared job": lambda world: (boss_runs(world), world.end_job("special")),
    "terminate a prepared job by force": lambda world: (boss_runs(world), world.end_job("special", force=True)),
    "terminate while it prepares": lambda world: (boss_starts(world), world.end_job("special")),
    "delete a prepared job": lambda world: (boss_runs(world), world.delete_job("special")),
    "release": lambda world: ends_while_released(world, lambda world: world.end_job("special")),
    "release, then delete": lambda world: (ends_while_released(world, lambda world: world.end_job("special")), world.delete_job("special")),
    "delete and release": lambda world: ends_while_released(world, lambda world: world.delete_job("special")),
    "lose a node that prepares": lambda world: (boss_starts(world), lose_node(world, world.special(job_id="special")[0].node_pk)),
    "preempt": lambda world: (
        boss_runs(world),
        world.job("urgent", priority=9),
        world.add("u1", "u2", "u3", job_id="urgent"),
        world.run(scheduler.run_once, "pool", world.now),
    ),
    "retention": lambda world: (
        agent_of(world, "r1").end(world.attempt("r1")),
        world.advance(8 * 86_400),
        world.run(upkeep.remove_expired, world.now),
    ),
    "lifetime": lambda world: world.run(upkeep.end_old_tasks, 1, world.now + upkeep.TASK_LIFETIME_US + 1),
    "reboot": lambda world: world.change(node_changes.reboot, world.task("r1").node_pk or 0, None),
    "reboot after the tasks": lambda world: world.change(node_changes.reboot, world.task("r1").node_pk or 0, "taskcompletion"),
    "reimage a prepared node": lambda world: (boss_runs(world), change_boss_node(world, node_changes.reimage)),
    "reboot a prepared node": lambda world: (boss_runs(world), change_boss_node(world, node_changes.reboot)),
    "deallocate": lambda world: world.change(node_changes.deallocate, 1, "terminate"),
    "deallocate and start": lambda world: (
        world.change(node_changes.deallocate, 1, None),
        world.capacity(2),
        world.change(node_changes.start, 1),
    ),
    "disable scheduling": lambda world: world.change(node_changes.disable_scheduling, world.task("r1").node_pk or 0, None),
    "preempted": lambda world: world.run(node_changes.preempted, world.task("r1").node_pk or 0, world.now),
    "a start task": lambda world: (world.working_pool(pool_id="start", startTask={"commandLine": "true"}), world.resize(3)),
    "a silent node": lambda world: world.run(nodes.silent, world.task("r1").node_pk or 0, world.now),
}
HALVES: dict[str, tuple[Step, Step]] = {  # a use case, and the one step of a loop that came through before the kill
    "planning a bigger pool": (STEPS["resize up"], lambda world: world.run(capacity.make_plan, b"key", world.now, world.offer)),
    "planning a smaller pool": (STEPS["resize down, requeue"], lambda world: world.run(capacity.make_plan, b"key", world.now, world.offer)),
    "planning after a stop": (STEPS["stop a resize"], lambda world: world.run(capacity.make_plan, b"key", world.now, world.offer)),
    "planning a removal": (STEPS["remove a node"], lambda world: world.run(capacity.make_plan, b"key", world.now, world.offer)),
    "planning a pool's end": (STEPS["delete a pool"], lambda world: world.run(capacity.make_plan, b"key", world.now, world.offer)),
    "stopping a machine": (STEPS["reboot"], machines_stop),
    "giving a machine back": (STEPS["reimage a prepared node"], machines_stop),
    "ending a job's tasks": (STEPS["terminate a job"], upkeep_step),
    "disabling a job's tasks": (STEPS["disable, requeue"], upkeep_step),
    "enabling a job": (lambda world: (world.disable(), upkeep_step(world), upkeep_step(world), world.enable()), upkeep_step),
    "removing a job's tasks": (STEPS["delete a job"], upkeep_step),
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
