"""Runs that the service itself stopped: notices of preemptions, and agents that were told to stop (contract 2.4, 3.4, 3.6)."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import EXIT_1, Agent, World, ended

from batchyard.engine.nodes import node_changes, nodes
from batchyard.engine.settling.special_runs import INTERNAL_RETRIES

BY_NOTICE: dict[str, Any] = {
    "exit_code": 143,
    "stopped": True,
    "failure": {"category": "usererror", "code": "FailureExitCode", "message": "bad"},
}
CUT_OFF: dict[str, Any] = {"stopped": True, "failure": {"category": "usererror", "code": "TaskEnded", "message": "ended"}}
FATAL: dict[str, Any] = {"exitConditions": {"default": {"jobAction": "terminate"}}}
BOTH: dict[str, Any] = {"jobPreparationTask": {"commandLine": "true"}, "jobReleaseTask": {"commandLine": "true"}}


def spot(world: World, nodes: int = 1, **more: Any) -> list[Agent]:
    return world.working_pool(0, slots=2, targetLowPriorityNodes=nodes, **more)


def notice(world: World, agent: Agent) -> None:
    """Thirty seconds until the machine goes."""
    world.change(node_changes.preempt, agent.node_pk, 30_000_000)


def counters(world: World, task_id: str) -> tuple[str, int, int, int]:
    row = world.task(task_id)
    return str(row.state), row.retries, row.requeues, row.losses


@pytest.mark.parametrize("how", [BY_NOTICE, CUT_OFF], ids=["signal", "cut off"])
@pytest.mark.parametrize("retries", [0, 3])
def test_a_stopped_run_is_no_failure(world: World, how: dict[str, Any], retries: int) -> None:
    [agent] = spot(world)
    world.job(onTaskFailure="performexitoptionsjobaction")
    world.add("a", constraints={"maxTaskRetryCount": retries}, **FATAL)
    world.schedule()
    agent.sync()
    notice(world, agent)
    agent.end(world.attempt("a"), user_cpu_us=7, **how)
    assert counters(world, "a") == ("active", 0, 0, 0)
    assert (world.job_state(), world.task("a").exit_code, world.task("a").user_us) == ("active", None, 7)
    assert (world.counts().retries, world.counts().user_us) == (0, 7)


def test_an_end_with_0_behind_the_notice_counts(world: World) -> None:
    [agent] = spot(world)
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    notice(world, agent)
    agent.end(world.attempt("a"), stopped=True)
    assert (world.state("a"), world.task("a").result) == ("completed", "success")


def test_a_failure_that_was_not_stopped_counts_beside_a_notice(world: World) -> None:
    [agent] = spot(world)
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    notice(world, agent)
    agent.end(world.attempt("a"), **EXIT_1)
    assert (world.state("a"), world.task("a").result) == ("completed", "failure")


def test_a_notice_counts_also_when_something_else_happens_to_the_node_by_then(world: World) -> None:
    [agent] = spot(world)
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    notice(world, agent)
    world.change(node_changes.reboot, agent.node_pk, "taskcompletion")
    agent.end(world.attempt("a"), **BY_NOTICE)
    assert counters(world, "a") == ("active", 0, 0, 0)


def test_however_often_a_task_is_stopped_it_is_not_given_up(world: World) -> None:
    [agent] = spot(world)
    world.job()
    world.add("a")
    for _ in range(INTERNAL_RETRIES + 2):
        world.schedule()
        agent.sync()
        agent.end(world.attempt("a"), **BY_NOTICE)
    assert counters(world, "a") == ("active", 0, 0, 0)


def test_a_stopped_preparation_closes_no_node_and_its_tasks_wait_for_another(world: World) -> None:
    first, second = spot(world, 2)
    world.job(**BOTH)
    world.add("a")
    world.schedule()
    agent = next(agent for agent in (first, second) if agent.node_pk == world.task("a").node_pk)
    other = second if agent is first else first
    agent.sync()
    notice(world, agent)
    agent.end("s1.1", **BY_NOTICE)
    assert counters(world, "a") == ("active", 0, 0, 0)
    assert (world.special(), world.node(agent.node_pk).tasks_running) == ([], 0)
    world.schedule()
    assert world.task("a").node_pk == other.node_pk
    other.end_all()
    other.end_all()
    assert world.state("a") == "completed"


def test_a_stopped_start_task_does_not_spoil_its_node_and_runs_again_when_the_node_is_back(world: World) -> None:
    [agent] = spot(world, startTask={"commandLine": "true", "waitForSuccess": True})
    [attempt] = agent.sync_all()
    notice(world, agent)
    agent.end(attempt, **BY_NOTICE)
    assert (world.node(agent.node_pk).state, world.start_task(agent.node_pk).state) == ("waitingforstarttask", "running")  # type: ignore[union-attr]
    answer = agent.sync()
    assert answer is not None
    assert answer.orders == []  # not on a machine that goes
    world.capacity()
    assert world.node(agent.node_pk).state == "preempted"
    world.advance(11)
    world.capacity(2)
    agent.join().end_all()
    assert (world.node(agent.node_pk).state, world.start_task(agent.node_pk).retries) == ("idle", 0)  # type: ignore[union-attr]


def test_a_stopped_release_task_has_not_failed(world: World) -> None:
    [agent] = world.working_pool()
    world.job(**BOTH)
    world.add("a")
    world.schedule()
    agent.end_all()
    agent.end_all()
    world.end_job()
    world.upkeep()
    [attempt] = agent.sync_all()
    agent.sync(ended(attempt, **CUT_OFF), leaving=True)
    assert [row.state for row in world.special("release")] == ["running"]
    agent.join().end_all()
    assert [row.result for row in world.special("release")] == ["success"]


# an agent that says goodbye


def test_a_goodbye_gives_the_tasks_back_and_the_node_is_unknown_until_an_agent_joins(world: World) -> None:
    first, second = world.working_pool(2, slots=1)
    world.job()
    world.add("a", "b", "c")
    world.schedule()
    first.sync()
    own = next(name for name in "abc" if world.task(name).node_pk == first.node_pk)
    node = world.node(first.node_pk)
    first.sync(leaving=True)
    assert world.node(first.node_pk).state == "unknown"
    assert counters(world, own) == ("active", 0, 0, 0)
    assert world.events("node", node.pk)[-1][0] == "agent stopped"
    assert world.topics["capacity"]
    assert first.sync() is None, "the session is over"
    world.schedule()
    assert world.state(own) == "active", "the node is given no task"
    first.join()
    assert world.node(first.node_pk).state == "idle"
    world.schedule()
    assert sorted(world.states("a", "b", "c")) == ["active", "running", "running"]
    assert second.sync() is not None


def test_ends_that_come_with_the_goodbye_count(world: World) -> None:
    [agent] = world.working_pool(slots=3)
    world.job()
    world.add("done", "bad", "cut")
    world.schedule()
    agent.sync()
    agent.sync(ended(world.attempt("done")), ended(world.attempt("bad"), **EXIT_1), ended(world.attempt("cut"), **CUT_OFF), leaving=True)
    assert [world.task(name).result for name in ("done", "bad", "cut")] == ["success", "failure", None]
    assert counters(world, "cut") == ("active", 0, 0, 0)


def test_a_goodbye_of_an_older_session_changes_nothing(world: World) -> None:
    [agent] = world.working_pool()
    old = Agent(world, agent.node_pk)
    old.session = agent.session
    agent.join()
    assert old.sync(leaving=True) is None
    assert world.node(agent.node_pk).state == "idle"


@pytest.mark.parametrize("option", ["requeue", "taskcompletion"])
def test_a_node_that_reboots_stays_so_when_its_agent_says_goodbye(world: World, option: str) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    world.change(node_changes.reboot, agent.node_pk, option)
    agent.sync(leaving=True)
    assert world.node(agent.node_pk).state == "rebooting"
    assert counters(world, "a") == ("active", 0, int(option == "requeue"), 0)
    world.capacity(3)
    agent.join()
    assert world.node(agent.node_pk).state == "idle"


def test_a_node_that_is_kept_off_scheduling_is_unknown_and_then_offline_again(world: World) -> None:
    [agent] = world.working_pool()
    world.change(node_changes.disable_scheduling, agent.node_pk, None)
    assert world.node(agent.node_pk).state == "offline"
    agent.sync(leaving=True)
    assert world.node(agent.node_pk).state == "unknown"
    agent.join()
    assert world.node(agent.node_pk).state == "offline"


def test_goodbyes_do_not_count_as_losses_and_silence_does(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    for _ in range(INTERNAL_RETRIES + 2):
        world.schedule()
        agent.sync(leaving=True)
        agent.join()
    assert counters(world, "a") == ("active", 0, 0, 0)
    world.schedule()
    world.run(nodes.silent, agent.node_pk, world.now)
    assert counters(world, "a") == ("active", 0, 0, 1)
