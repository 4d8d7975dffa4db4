"""Start tasks: when they run, what waits for them, what becomes of a node whose start task fails (contract 3.14)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import EXIT_1, Agent, World

from batchyard.engine.nodes import node_changes
from batchyard.store import pools as pool_rows

START: dict[str, Any] = {"startTask": {"commandLine": "setup", "waitForSuccess": True, "maxTaskRetryCount": 1}}
LOST = {"failure": {"category": "servererror", "code": "Unknown", "message": "?"}}


def joined(world: World, **start: Any) -> Agent:
    """The agent of a node with one slot whose start task was ordered."""
    [agent] = world.working_pool(startTask={**START["startTask"], **start})
    return agent


def test_a_node_waits_for_its_start_task(world: World) -> None:
    agent = joined(world)
    world.job()
    world.add("a")
    assert world.node(agent.node_pk).state == "waitingforstarttask"
    assert world.schedule() == 0
    assert agent.has == ["s1.1"]
    agent.end("s1.1")
    assert world.node(agent.node_pk).state == "idle"
    assert world.schedule() == 1
    assert world.node_events(agent.node_pk) == ["creating", "starting", "waitingforstarttask", "idle", "running"]


def test_it_may_end_long_after_the_node_spoke_last(world: World) -> None:
    agent = joined(world)
    world.advance(5)
    agent.end("s1.1")
    assert world.node(agent.node_pk).state == "idle"


def test_the_order_carries_the_start_task_and_no_job(world: World) -> None:
    said = {
        "environmentSettings": [{"name": "A", "value": "1"}],
        "resourceFiles": [{"httpUrl": "http://files/x", "filePath": "x"}],
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
    }
    [agent] = world.working_pool(startTask={"commandLine": "setup 'x y'", **said})
    agent.session, agent.has = 0, []
    answer = agent.sync()
    assert answer is not None
    [order] = answer.orders
    assert (order.start, order.job_id) == (True, "")
    task = msgspec.json.decode(order.task)
    assert task["commandLine"] == "setup 'x y'"
    assert {name: task[name] for name in said} == said


def test_it_is_retried_and_then_the_node_has_failed(world: World) -> None:
    agent = joined(world)
    agent.end("s1.1", **EXIT_1)
    agent.end("s1.1", **EXIT_1)  # said twice
    assert world.node(agent.node_pk).state == "waitingforstarttask"
    assert agent.sync_all() == ["s1.2"]
    agent.end("s1.2", **EXIT_1)
    row = world.start_task(agent.node_pk)
    assert row is not None
    assert (row.state, row.result, row.retries, row.exit_code) == ("completed", "failure", 1, 1)
    assert world.node(agent.node_pk).state == "starttaskfailed"
    world.job()
    world.add("a")
    assert world.schedule() == 0


def test_a_run_that_nobody_saw_end_does_not_count(world: World) -> None:
    agent = joined(world)
    agent.end("s1.1", **LOST)
    assert agent.sync_all() == ["s1.2"]
    row = world.start_task(agent.node_pk)
    assert row is not None
    assert row.retries == 0


def test_a_node_that_does_not_wait_works_at_once(world: World) -> None:
    agent = joined(world, waitForSuccess=False, maxTaskRetryCount=0)
    world.job()
    world.add("a")
    assert world.schedule() == 1
    agent.end("s1.1", **EXIT_1)
    assert world.node(agent.node_pk).state == "running"
    row = world.start_task(agent.node_pk)
    assert row is not None
    assert row.result == "failure"


@pytest.mark.parametrize("use", [node_changes.reboot, node_changes.reimage], ids=["reboot", "reimage"])
def test_it_runs_at_every_start_with_what_the_pool_says_by_then(world: World, use: Any) -> None:
    agent = joined(world)
    agent.end("s1.1", **EXIT_1)
    agent.end("s1.2", **EXIT_1)
    assert world.node(agent.node_pk).state == "starttaskfailed"
    change_start_task(world)
    assert b"setup" in (world.node(agent.node_pk).start_task or b""), "a change is for the next start"
    world.change(use, agent.node_pk, None)
    world.capacity(3)
    agent.join()
    assert world.node(agent.node_pk).state == "waitingforstarttask"
    assert b"another" in (world.node(agent.node_pk).start_task or b"")
    row = world.start_task(agent.node_pk)
    assert row is not None
    assert (row.state, row.result, row.exit_code, row.retries, row.last_retry) == ("running", None, None, 0, None)
    agent.end(*agent.has)
    assert world.node(agent.node_pk).state == "idle"


def change_start_task(world: World) -> None:
    pool = world.pool_row()
    assert pool is not None
    world.run(pool_rows.move, pool, body=pool.body.replace(b"setup", b"another"))


def test_an_agent_that_comes_back_runs_it_again(world: World) -> None:
    agent = joined(world)
    agent.join()
    assert agent.has == ["s1.3"], "lost with the first agent, begun anew with the second"
    agent.end("s1.1")
    assert world.node(agent.node_pk).state == "waitingforstarttask", "the first agent's report is stale"
    agent.end("s1.3")
    assert world.node(agent.node_pk).state == "idle"


def test_a_node_switched_off_goes_offline_behind_it(world: World) -> None:
    agent = joined(world)
    world.change(node_changes.disable_scheduling, agent.node_pk, None)
    agent.end("s1.1")
    assert world.node(agent.node_pk).state == "offline"


def test_nothing_is_left_when_the_node_goes(world: World) -> None:
    joined(world)
    world.resize(0)
    world.capacity(3)
    assert world.nodes() == []
    assert world.rows("SELECT pk FROM special_task") == []
