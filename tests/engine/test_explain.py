"""Why is it not running? Planted situations, made by real use cases; the first reason named must be the right one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from engine_world import EXIT_1, Agent, Steady, World

from batchyard.engine import explain, jobs, lookup
from batchyard.engine import nodes as node_cases
from batchyard.model.errors import BatchError
from batchyard.model.explain import Code, Explanation, Reason
from batchyard.model.states import SchedulingState
from batchyard.model.words import DisableJobOption
from batchyard.providers.base import Handle, NoCapacity, NodeOrder
from batchyard.store import nodes as node_rows

MANAGER = {"id": "manager", "commandLine": "true"}
BLOCKS = {"exitConditions": {"exitCodes": [{"code": 0, "exitOptions": {"dependencyAction": "block"}}]}}


class NoRoom(Steady):
    """Has machines for so many nodes and not one more."""

    room = 0

    async def launch(self, order: NodeOrder) -> Handle:
        if len(self.machines) >= self.room:
            raise NoCapacity(f"room for {self.room} nodes only")
        return await super().launch(order)


class FailsToLaunch(Steady):
    """Never launches anything."""

    async def launch(self, order: NodeOrder) -> Handle:
        raise OSError("the hypervisor is on fire")


def task(world: World, task_id: str, job_id: str = "job") -> list[Reason]:
    return world.run(explain.task, job_id, task_id).reasons


def first(world: World, task_id: str, job_id: str = "job") -> Reason:
    return task(world, task_id, job_id)[0]


def job(world: World, job_id: str = "job") -> Explanation:
    return world.run(explain.job, job_id)


def pool(world: World, pool_id: str = "pool") -> Explanation:
    return world.run(explain.pool, pool_id)


def codes(reasons: Sequence[Reason]) -> list[Code]:
    return [reason.code for reason in reasons]


def chain(reason: Reason) -> list[Code]:
    """Codes along the first links."""
    return [reason.code, *(chain(reason.because[0]) if reason.because else [])]


def after(task_id: str, *ids: str, ranges: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    spans = [{"start": low, "end": high} for low, high in ranges]
    return {"id": task_id, "dependsOn": {"taskIds": [*ids], "taskIdRanges": spans}}


def disable(world: World, option: DisableJobOption = DisableJobOption.REQUEUE, job_id: str = "job") -> None:
    world.run(lambda tx: jobs.disable(tx, lookup.open_job(tx, job_id), option, world.now))


def run_all(world: World, agents: Sequence[Agent], **how: Any) -> None:
    world.schedule()
    for agent in agents:
        agent.end_all(**how)


# dependencies


def test_waits_for_a_running_task(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a", after("b", "a"))
    world.schedule()
    reason = first(world, "b")
    assert (reason.code, reason.task_id) == (Code.WAITS_FOR_TASK, "a")
    assert reason.sentence == "Task b waits for task a, which is running."
    assert first(world, "a").code == Code.RUNNING


def test_a_chain_leads_to_what_blocks_it_all(world: World) -> None:
    agents = world.working_pool()
    world.job()
    world.add("x", after("y", "x"), after("z", "y"))
    run_all(world, agents, **EXIT_1)
    reason = first(world, "z")
    assert chain(reason) == [Code.WAITS_FOR_TASK, Code.BLOCKED_BY_FAILURE]
    assert reason.because
    assert "task x, which failed with exit code 1" in reason.because[0].sentence
    assert first(world, "y").code == Code.BLOCKED_BY_FAILURE
    assert first(world, "x").code == Code.FAILED


def test_what_is_blocked_for_good_comes_before_what_runs(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job()
    world.add("a", "f", after("g", "f"), after("b", "a", "none", "g"))
    world.schedule()
    agent.sync()
    agent.end(world.attempt("f"), **EXIT_1)
    assert [reason.task_id for reason in task(world, "b")] == ["g", "none", "a"]


def test_waits_for_a_success_that_blocks(world: World) -> None:
    agents = world.working_pool()
    world.job()
    world.add({"id": "a", **BLOCKS}, after("b", "a"))
    run_all(world, agents)
    assert "ended with exit code 0" in first(world, "b").sentence
    assert first(world, "a").code == Code.COMPLETED


def test_waits_for_a_task_that_does_not_exist(world: World) -> None:
    world.working_pool()
    world.job()
    world.add(after("b", "A"))
    reason = first(world, "b")
    assert (reason.code, reason.task_id) == (Code.WAITS_FOR_MISSING_TASK, "a")


@pytest.mark.parametrize("last", [5, 400])
def test_waits_for_a_range(world: World, last: int) -> None:
    agents = world.working_pool(slots=8)
    world.job()
    world.add("1", "2", "04", after("b", ranges=[(1, last)]))
    run_all(world, agents)
    reason = first(world, "b")
    assert reason.code == Code.WAITS_FOR_RANGE
    assert reason.sentence == f"Task b waits for {last - 3} of the tasks 1 to {last}; the first missing is 3."
    assert chain(reason)[1] == Code.WAITS_FOR_MISSING_TASK


def test_a_range_names_the_number_that_failed(world: World) -> None:
    [agent] = world.working_pool(slots=8)
    world.job()
    world.add("1", "2", after("b", ranges=[(1, 2)]))
    world.schedule()
    agent.sync()
    agent.end(world.attempt("2"), **EXIT_1)
    reason = first(world, "b")
    assert "the first missing is 1" in reason.sentence
    assert chain(reason) == [Code.WAITS_FOR_RANGE, Code.BLOCKED_BY_FAILURE]


def test_a_cycle_is_named(world: World) -> None:
    world.working_pool()
    world.job()
    world.add(after("a", "c"), after("b", "a"), after("c", "b"), after("d", "c"), after("me", "me"))
    reason = first(world, "a")
    assert reason.code == Code.DEPENDENCY_CYCLE
    assert "a → c → b → a" in reason.sentence
    assert chain(first(world, "d")) == [Code.WAITS_FOR_TASK, Code.DEPENDENCY_CYCLE]
    assert "me → me" in first(world, "me").sentence


def test_a_long_chain_and_a_wide_fan_are_cut(world: World) -> None:
    world.pool()
    world.job()
    world.add("t0", *(after(f"t{n}", f"t{n - 1}") for n in range(1, 60)))
    world.add(after("wide", *(f"t{n}" for n in range(60))))
    assert set(chain(first(world, "t59"))) == {Code.WAITS_FOR_TASK}
    assert chain(first(world, "t3"))[-1] == Code.POOL_EMPTY
    assert first(world, "wide").code == Code.WAITS_FOR_TASK


# the job


def test_a_disabled_job(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a", after("b", "a"))
    world.schedule()
    disable(world, DisableJobOption.WAIT)
    assert first(world, "b").code == Code.JOB_DISABLING
    disable(world)
    world.upkeep()
    assert first(world, "a").code == Code.JOB_DISABLED
    assert codes(task(world, "b")) == [Code.JOB_DISABLED, Code.WAITS_FOR_TASK]
    assert codes(job(world).reasons) == [Code.JOB_DISABLED]


def test_an_ended_job(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a", after("b", "a"))
    world.end_job(reason="enough")
    assert codes(task(world, "a")) == [Code.JOB_TERMINATING]
    world.upkeep()
    assert codes(task(world, "b")) == [Code.JOB_COMPLETED]
    assert "(enough); its active tasks never run" in first(world, "b").sentence
    world.delete_job()
    assert codes(task(world, "b")) == [Code.JOB_DELETING]


def test_max_parallel_tasks(world: World) -> None:
    world.working_pool(slots=4)
    world.job(maxParallelTasks=2)
    world.add("a", "b", "c")
    world.schedule()
    assert codes(task(world, "c")) == [Code.MAX_PARALLEL_TASKS]
    assert "2 tasks, as many as its maxParallelTasks of 2 allows" in first(world, "c").sentence


# the pool


def test_a_pool_that_does_not_exist(world: World) -> None:
    world.job(pool_id="nowhere")
    world.add("a")
    assert codes(task(world, "a")) == codes(job(world).reasons) == [Code.POOL_NOT_FOUND]


def test_a_pool_that_is_being_deleted(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a")
    world.delete_pool()
    assert codes(task(world, "a")) == codes(pool(world).reasons) == [Code.POOL_DELETING]


def test_a_pool_without_nodes(world: World) -> None:
    world.pool()
    world.capacity(2)
    world.job()
    world.add("a")
    assert codes(task(world, "a")) == codes(pool(world).reasons) == [Code.POOL_EMPTY]


def test_a_resizing_pool_and_nodes_that_start(world: World) -> None:
    world.pool(dedicated=2)
    world.job()
    world.add("a")
    assert first(world, "a").code == Code.POOL_RESIZING
    world.capacity()
    assert "2 starting" in first(world, "a").sentence or "2 creating" in first(world, "a").sentence
    world.capacity(2)
    assert first(world, "a").code == pool(world).reasons[0].code == Code.NODES_STARTING


def test_an_allocation_that_failed() -> None:
    world = World(provider=NoRoom())
    world.pool(dedicated=2)
    world.capacity(2)
    world.job()
    world.add("a")
    reason = first(world, "a")
    assert reason.code == pool(world).reasons[0].code == Code.ALLOCATION_FAILED
    assert "room for 0 nodes only" in reason.sentence
    world.close()


def test_nodes_that_cannot_be_launched() -> None:
    world = World(provider=FailsToLaunch())
    world.pool(dedicated=1)
    world.capacity()
    world.job()
    world.add("a")
    assert codes(task(world, "a")) == [Code.LAUNCH_FAILS, Code.POOL_RESIZING]
    assert "the hypervisor is on fire" in first(world, "a").sentence
    world.close()


def test_nodes_that_nobody_hears_of(world: World) -> None:
    agents = world.working_pool(nodes=2)
    world.job()
    world.add("a")
    for agent in agents:
        world.run(node_cases.silent, agent.node_pk, world.now)
    assert first(world, "a").code == pool(world).reasons[0].code == Code.NODES_UNUSABLE
    assert "Pool pool has 2 nodes unable to take tasks (2 unknown)" in first(world, "a").sentence


def test_nodes_whose_scheduling_is_disabled(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.run(lambda tx: node_rows.move(tx, world_node(tx, agent.node_pk), scheduling_state=SchedulingState.DISABLED))
    assert first(world, "a").code == pool(world).reasons[0].code == Code.SCHEDULING_DISABLED


def world_node(tx: Any, pk: int) -> Any:
    return node_rows.get(tx, pk)


# room


def test_all_nodes_are_busy(world: World) -> None:
    world.working_pool(slots=2)
    world.job()
    world.add("a", "b", "c", "d")
    world.schedule()
    reason = first(world, "d")
    assert reason.code == Code.NODES_BUSY
    assert reason.sentence == "All nodes of pool pool are busy: 2 of 2 slots in use, 1 task of the same job ahead."


def test_a_job_of_higher_priority_goes_first(world: World) -> None:
    world.working_pool()
    world.job("urgent", priority=5)
    world.job()
    world.add("a", "b", "c", job_id="urgent")
    world.add("a")
    assert first(world, "a").code == Code.HIGHER_PRIORITY  # before the scheduler as after it
    world.schedule()
    reason = first(world, "a")
    assert codes(task(world, "a")) == [Code.HIGHER_PRIORITY, Code.NODES_BUSY]
    assert (reason.job_id, reason.sentence) == ("urgent", "Behind 2 tasks of job urgent, which has the higher priority 5.")


def test_others_of_the_same_job_go_first(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a", "b", "c")
    assert [first(world, name).code for name in "abc"] == [Code.READY, Code.BEHIND_OTHERS, Code.BEHIND_OTHERS]
    assert "2 tasks of the same job ahead" in first(world, "c").sentence


def test_the_room_that_is_free_is_too_small(world: World) -> None:
    world.working_pool(nodes=2, slots=4)
    world.job()
    world.add("a", "b", requiredSlots=2)
    world.schedule()
    world.add("c", requiredSlots=4)
    reason = first(world, "c")
    assert reason.code == Code.NOT_ENOUGH_FREE
    assert reason.sentence == "No node of pool pool has 4 slots free, the largest room is 2."


def test_no_node_is_big_enough(world: World) -> None:
    world.job()
    world.add("a", requiredSlots=4)  # the pool that comes later is smaller
    world.working_pool(slots=2)
    assert codes(task(world, "a")) == [Code.TOO_BIG]
    explained = pool(world)
    assert chain(explained.reasons[0]) == [Code.IDLE_WHILE_TASKS_WAIT, Code.TOO_BIG]


def test_a_job_manager_wants_an_empty_node(world: World) -> None:
    world.working_pool(slots=2)
    world.job("other")
    world.add("a", job_id="other")
    world.schedule()
    world.job(jobManagerTask=MANAGER)
    assert first(world, "manager").code == Code.WANTS_EMPTY_NODE


def test_a_job_manager_wants_a_dedicated_node(world: World) -> None:
    world.working_pool(nodes=0, targetLowPriorityNodes=1)
    world.job(jobManagerTask={**MANAGER, "allowLowPriorityNode": False})
    assert first(world, "manager").code == Code.WANTS_DEDICATED_NODE


def test_a_preparation_task_runs_and_then_fails_everywhere(world: World) -> None:
    [agent] = world.working_pool()
    world.job(jobPreparationTask={"commandLine": "prepare"})
    world.add("a")
    assert first(world, "a").code == Code.READY
    world.schedule()
    assert first(world, "a").code == Code.PREPARING
    assert first(world, "a").node_id == world.node(agent.node_pk).id
    agent.end_all(exit_code=7, failure=EXIT_1["failure"])
    reason = first(world, "a")
    assert reason.code == job(world).reasons[0].code == Code.PREPARATION_FAILED
    assert reason.sentence.endswith("failed on 1 of 1 node in service: exit code 7.")


def test_a_retry_that_is_due_is_no_reason(world: World) -> None:
    agents = world.working_pool()
    world.job(constraints={"maxTaskRetryCount": 3})
    world.add("a")
    run_all(world, agents, **EXIT_1)
    assert world.state("a") == "active"
    assert first(world, "a").code == Code.READY


# jobs and pools


def test_a_job_in_sum(world: World) -> None:
    world.working_pool()
    world.job()
    assert codes(job(world).reasons) == [Code.NO_TASKS]
    world.add("a", "b", "c", after("d", "c"), after("e", "none"))
    world.schedule()
    explained = job(world)
    assert codes(explained.reasons) == [Code.RUNNING]
    assert [(group.code, group.tasks, group.example) for group in explained.groups or ()] == [
        (Code.NODES_BUSY, 2, "b"), (Code.WAITS_FOR_TASK, 1, "d"), (Code.WAITS_FOR_MISSING_TASK, 1, "e"),
    ]  # fmt: skip
    assert (explained.looked_at, explained.waiting, explained.running) == (4, 4, 1)


def test_a_job_whose_tasks_are_all_completed(world: World) -> None:
    agents = world.working_pool()
    world.job()
    world.add("a")
    run_all(world, agents)
    assert codes(job(world).reasons) == [Code.ALL_TASKS_COMPLETED]


def test_a_large_job_is_looked_at_in_part(world: World) -> None:
    world.pool()
    world.job()
    for base in range(0, 300, 100):
        world.add(*(str(n) for n in range(base, base + 100)))
    world.add(*(after(f"b{n}", "none") for n in range(100)))
    explained = job(world)
    assert explained.looked_at == 2 * explain.LOOKED_AT
    assert explained.waiting == 400
    assert [(group.code, group.tasks) for group in explained.groups or ()] == [(Code.POOL_EMPTY, 50), (Code.WAITS_FOR_MISSING_TASK, 50)]


def test_a_pool_in_sum(world: World) -> None:
    agents = world.working_pool(nodes=2)
    assert codes(pool(world).reasons) == [Code.NOTHING_WAITS]
    world.job()
    world.add(after("a", "none"))
    explained = pool(world)
    assert chain(explained.reasons[0]) == [Code.IDLE_WHILE_TASKS_WAIT, Code.WAITS_FOR_MISSING_TASK]
    assert explained.reasons[0].sentence == "Pool pool has 2 nodes idle while 1 task cannot start."
    world.add("b", "c", "d")
    world.schedule()
    assert codes(pool(world).reasons) == [Code.POOL_WORKS]
    assert len(agents) == 2


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda tx: explain.task(tx, "none", "a"), "JobNotFound"),
        (lambda tx: explain.task(tx, "job", "none"), "TaskNotFound"),
        (lambda tx: explain.job(tx, "none"), "JobNotFound"),
        (lambda tx: explain.pool(tx, "none"), "PoolNotFound"),
    ],
)
def test_what_is_not_there(world: World, ask: Callable[[Any], Explanation], error: str) -> None:
    world.job()
    with pytest.raises(BatchError, match=error):
        world.run(ask)


# the scheduler agrees


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


def test_explain_is_a_read(world: World) -> None:
    """It answers from a snapshot of its own, also while the writer works."""
    world.pool()
    world.job()
    world.add("a")

    async def ask() -> Explanation:
        return await world.db.read(explain.task, "job", "a")

    assert codes(asyncio.run(ask()).reasons) == [Code.POOL_EMPTY]
