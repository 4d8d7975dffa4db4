"""Why is it not running? Planted situations of pools and of room on nodes; the first reason named must be the right one."""

from __future__ import annotations

from typing import Any

from engine_world import EXIT_1, World
from explain_asks import MANAGER, chain, codes, first, job, pool, run_all, task
from failing_providers import FailsToLaunch, LosesNodes, NoRoom

from batchyard.engine.nodes import node_changes
from batchyard.engine.nodes import nodes as node_cases
from batchyard.model.explain import Code
from batchyard.model.states import SchedulingState
from batchyard.model.sync import NodeProblem
from batchyard.store import nodes as node_rows

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
    world = World(provider=NoRoom(0))
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


def test_nodes_whose_agents_die_before_they_speak() -> None:
    provider = LosesNodes()
    provider.reason = "the agent exited with code 1: no room"
    world = World(provider=provider)
    world.pool(dedicated=1)
    world.capacity(2)
    provider.lose(*provider.machines)
    world.capacity()
    world.job()
    world.add("a")
    assert codes(task(world, "a"))[0] == Code.LAUNCH_FAILS
    assert "1 time by now: the agent exited with code 1: no room" in first(world, "a").sentence
    world.close()


def test_nodes_that_nobody_hears_of(world: World) -> None:
    agents = world.working_pool(nodes=2)
    world.job()
    world.add("a")
    for agent in agents:
        world.run(node_cases.silent, agent.node_pk, world.now)
    assert first(world, "a").code == pool(world).reasons[0].code == Code.NODES_UNUSABLE
    assert "Pool pool has 2 nodes unable to take tasks (2 unknown)" in first(world, "a").sentence


def test_nodes_whose_start_task_failed(world: World) -> None:
    [agent] = world.working_pool(startTask={"commandLine": "setup"})
    agent.end_all(**EXIT_1)
    world.job()
    world.add("a")
    assert first(world, "a").code == pool(world).reasons[0].code == Code.START_TASK_FAILED
    assert first(world, "a").sentence == "The start task failed on 1 node of pool pool: exit code 1."


def test_nodes_with_a_full_disk(world: World) -> None:
    [agent] = world.working_pool()
    agent.sync(problems=[NodeProblem(code="DiskFull", message="No room on the disk", blocking=True)])
    world.job()
    world.add("a")
    assert first(world, "a").code == Code.NODES_UNUSABLE
    assert "No room on the disk" in first(world, "a").sentence


def test_deallocated_nodes(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.change(node_changes.deallocate, agent.node_pk, None)
    assert first(world, "a").code == Code.NODES_DEALLOCATED


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


def test_a_node_that_fell_silent_is_named_before_it_counts_as_lost(world: World) -> None:
    world.working_pool()
    world.job()
    world.add("a", "b")
    world.schedule()
    world.advance(40)
    silent = pool(world).reasons[0]
    assert silent.code == Code.NODE_SILENT
    assert "has said nothing for 40 s" in silent.sentence
    running = first(world, "a")
    assert (running.code, codes(running.because or [])) == (Code.RUNNING, [Code.NODE_SILENT])
    assert Code.NODE_SILENT in codes(task(world, "b"))
