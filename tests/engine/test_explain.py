"""Why is it not running? Planted situations of dependencies, jobs and sums; the first reason named must be the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from engine_world import EXIT_1, World
from explain_asks import after, chain, codes, disable, first, job, pool, run_all, task

from batchyard.engine.explain import explain
from batchyard.model.errors import BatchError
from batchyard.model.explain import Code, Explanation
from batchyard.model.words import DisableJobOption

BLOCKS = {"exitConditions": {"exitCodes": [{"code": 0, "exitOptions": {"dependencyAction": "block"}}]}}


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
        (Code.NODES_BUSY, 2, "b"),
        (Code.WAITS_FOR_TASK, 1, "d"),
        (Code.WAITS_FOR_MISSING_TASK, 1, "e"),
    ]
    assert (explained.looked_at, explained.waiting, explained.running) == (4, 4, 1)


def test_a_job_in_sum_counts_what_waits_for_a_wide_range_of_it_alone(world: World) -> None:
    wide = {"dependsOn": {"taskIdRanges": [{"start": 1, "end": 200}]}}
    world.job()
    world.job("other")
    world.add({"id": "o", **wide}, after("p", "none"), job_id="other")
    world.add({"id": "a", **wide}, {"id": "b", **wide})
    explained = job(world)
    assert (explained.looked_at, explained.waiting) == (2, 2)
    assert [(group.tasks, group.example) for group in explained.groups or ()] == [(2, "a")]


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


def test_an_answer_says_what_it_is_about(world: World) -> None:
    [agent] = world.working_pool(pool_id="Pool")
    world.job("Job", pool_id="Pool")
    world.add("A", "b", job_id="Job")
    world.schedule()
    node = world.node(agent.node_pk)
    found: list[Explanation] = [
        world.run(explain.task, "JOB", "a", world.now),
        world.run(explain.job, "job", world.now),
        world.run(explain.pool, "POOL", world.now),
        world.run(explain.node, "pool", node.id, world.now),
    ]
    assert [(one.kind, one.id, one.state, one.job_id, one.pool_id) for one in found] == [
        ("task", "A", "running", "Job", "pool"),
        ("job", "Job", "active", None, "pool"),
        ("pool", "Pool", "active", None, None),
        ("node", node.id, "running", None, "Pool"),
    ]
    assert [(one.looked_at, one.waiting, one.running) for one in found[1:]] == [(1, 1, 1)] * 3
    assert [[(group.code, group.tasks, group.example) for group in one.groups or ()] for one in found[1:]] == [
        [(Code.NODES_BUSY, 1, "b")]
    ] * 3


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda tx: explain.node(tx, "none", "a", 0), "PoolNotFound"),
        (lambda tx: explain.task(tx, "none", "a", 0), "JobNotFound"),
        (lambda tx: explain.task(tx, "job", "none", 0), "TaskNotFound"),
        (lambda tx: explain.job(tx, "none", 0), "JobNotFound"),
        (lambda tx: explain.pool(tx, "none", 0), "PoolNotFound"),
    ],
)
def test_what_is_not_there(world: World, ask: Callable[[Any], Explanation], error: str) -> None:
    world.job()
    with pytest.raises(BatchError, match=error):
        world.run(ask)


def test_explain_is_a_read(world: World) -> None:
    """It answers from a snapshot of its own, also while the writer works."""
    world.pool()
    world.job()
    world.add("a")

    async def ask() -> Explanation:
        return await world.db.read(explain.task, "job", "a", world.now)

    assert codes(asyncio.run(ask()).reasons) == [Code.POOL_EMPTY]
