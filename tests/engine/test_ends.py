"""Reports of agents: retries, late and doubled reports, other nodes and sessions, lost nodes (contract 3.3, 3.4)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import EXIT_1, NO_PROGRAM, NO_UPLOAD, SECOND_US, SETTING, START, Agent, World, ended

from batchyard.engine.nodes import nodes, orders
from batchyard.engine.nodes.nodes import NotThisNode
from batchyard.engine.settling.ends import INTERNAL_RETRIES
from batchyard.model.sync import Sync
from batchyard.store.tx import Tx


@pytest.fixture
def two(world: World) -> tuple[World, Agent, Agent]:
    """A job on two nodes with two slots each."""
    one, other = world.working_pool(nodes=2, slots=2)
    world.job()
    return world, one, other


def test_the_life_of_a_task(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.advance(1)
    assert world.schedule() == 1
    started = world.now
    task = world.task("a")
    assert (task.state, task.run, task.node_pk, task.started, task.previous_state) == ("running", 1, agent.node_pk, started, "active")
    assert (world.counts().running, world.counts().ready, world.node(agent.node_pk).state) == (1, 0, "running")
    orders = agent.sync()
    assert orders is not None
    assert [order.attempt for order in orders.orders] == orders.wanted == [world.attempt("a")]
    assert orders.orders[0].job_id == "job"
    world.advance(1)
    answer = agent.end(*orders.wanted)
    assert answer is not None
    assert answer.wanted == []
    task = world.task("a")
    assert (task.state, task.result, task.exit_code, task.ended, task.failure) == ("completed", "success", 0, world.now, None)
    assert task.modified == START, "scheduling does not move the ETag"
    node = world.node(agent.node_pk)
    assert (node.state, node.slots_used, node.tasks_run, node.tasks_succeeded) == ("idle", 0, 1, 1)
    assert world.task_events("a") == ["added", "started", "ended"]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_bad_exit_is_tried_again_so_many_times(world: World, limit: int) -> None:
    [agent] = world.working_pool()
    world.job(constraints={"maxTaskRetryCount": limit})
    world.add("a")
    for run in range(1, limit + 2):
        world.schedule()
        task = world.task("a")
        assert (task.run, task.retries, task.state) == (run, run - 1, "running")
        world.advance(1)
        agent.end(world.attempt("a"), **EXIT_1)
    task = world.task("a")
    assert (task.state, task.result, task.exit_code, task.retries) == ("completed", "failure", 1, limit)
    assert (task.last_retry is not None) == (limit > 0)
    assert world.task_events("a") == ["added", *["started", "retry due"] * limit, "started", "ended"]
    assert world.node(agent.node_pk).tasks_run == limit + 1


def test_minus_one_is_without_end_and_success_ends_it(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add({"id": "a", "constraints": {"maxTaskRetryCount": -1}})
    for _ in range(30):
        world.schedule()
        agent.end(world.attempt("a"), **EXIT_1)
    world.schedule()
    agent.end(world.attempt("a"))
    assert (world.task("a").result, world.task("a").retries) == ("success", 30)


@pytest.mark.parametrize("how", [NO_PROGRAM, NO_UPLOAD], ids=["not started", "not uploaded"])
def test_other_failures_are_final(world: World, how: dict[str, Any]) -> None:
    [agent] = world.working_pool()
    world.job(constraints={"maxTaskRetryCount": 5})
    world.add("a")
    world.schedule()
    agent.end(world.attempt("a"), **how)
    task = world.task("a")
    assert (task.state, task.result, task.retries, task.exit_code) == ("completed", "failure", 0, how.get("exit_code"))


def test_an_end_that_nobody_knows_is_a_lost_run(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    agent.end(world.attempt("a"), failure={"category": "servererror", "code": "Unknown", "message": "spawner lost"})
    assert (world.task("a").losses, world.task("a").retries, world.task("a").result) == (1, 0, None)
    world.schedule()
    assert (world.state("a"), world.task("a").run) == ("running", 2)


# reports that are not believed


def unchanged(world: World, agent: Agent, *reports: Any) -> None:
    world.schedule()  # whatever may start has started
    before = world.rows("SELECT * FROM task"), world.rows("SELECT * FROM job_counts"), world.rows("SELECT * FROM event")
    assert agent.sync(*reports) is not None, "who reports late is not fenced off for it"
    assert before == (world.rows("SELECT * FROM task"), world.rows("SELECT * FROM job_counts"), world.rows("SELECT * FROM event"))


def test_a_doubled_report_changes_nothing(two: tuple[World, Agent, Agent]) -> None:
    world, agent, _ = two
    world.add("a", "b")
    world.schedule()
    agent.sync()
    attempt = agent.has[0]
    agent.sync(ended(attempt), ended(attempt, **EXIT_1))
    assert world.counts().succeeded == 1
    unchanged(world, agent, ended(attempt, **EXIT_1))


def test_a_report_of_an_earlier_run_changes_nothing(two: tuple[World, Agent, Agent]) -> None:
    world, agent, _ = two
    world.add({"id": "a", "constraints": {"maxTaskRetryCount": 5}, "requiredSlots": 2})
    world.schedule()
    first = world.attempt("a")
    Agent.end(_on(world, two, "a"), first, **EXIT_1)
    unchanged(world, agent, ended(first))
    unchanged(world, two[2], ended(first))
    assert world.state("a") == "running"
    assert world.attempt("a") != first


def _on(world: World, two: tuple[World, Agent, Agent], task_id: str) -> Agent:
    return next(agent for agent in two[1:] if agent.node_pk == world.task(task_id).node_pk)


def test_a_report_of_another_node_changes_nothing(two: tuple[World, Agent, Agent]) -> None:
    world, one, other = two
    world.add({"id": "a", "requiredSlots": 2})
    world.schedule()
    stranger = other if _on(world, two, "a") is one else one
    unchanged(world, stranger, ended(world.attempt("a")))


@pytest.mark.parametrize("attempt", ["", "1", "1.", ".1", "a.b", "-1.1", "1.1.1", "²" + ".1", "1.٣", "9" * 30 + ".1", "1." + "9" * 5000])
def test_names_that_were_never_given_change_nothing(two: tuple[World, Agent, Agent], attempt: str) -> None:
    world, agent, _ = two
    world.add("a")
    world.schedule()
    unchanged(world, agent, ended(attempt))


def not_back(tx: Tx, node_pk: int, now: int) -> None:
    """The agent has ended, and none came after it."""
    nodes.gone(tx, node_pk, now)
    nodes.not_back(tx, node_pk, now)


@pytest.mark.parametrize("how", ["gone", "silent", "joined anew"])
def test_an_older_session_is_fenced_off(world: World, how: str) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    attempt = world.attempt("a")
    if how == "joined anew":
        Agent(world, agent.node_pk).join()
    else:
        world.run(not_back if how == "gone" else nodes.silent, agent.node_pk, world.now)
    assert agent.end(attempt) is None
    task = world.task("a")
    assert (task.state, task.losses, task.result) == ("active", 1, None)
    agent.join()
    assert world.schedule() == 1
    assert agent.end(attempt) is not None
    assert world.state("a") == "running"
    assert agent.end(world.attempt("a")) is not None
    assert world.state("a") == "completed"


def test_a_session_of_the_future_is_fenced_off(world: World) -> None:
    [agent] = world.working_pool()
    agent.session += 1
    assert agent.sync() is None


def test_who_left_the_pool_is_no_node(world: World) -> None:
    [agent] = world.working_pool()
    world.resize(0)
    world.capacity()
    with pytest.raises(NotThisNode):
        agent.sync()
    with pytest.raises(NotThisNode):
        Agent(world, 999).join()


def test_an_agent_of_a_node_that_is_gone_is_nobody_to_a_later_node(world: World) -> None:
    [old] = world.working_pool(pool_id="first")
    world.delete_pool("first")
    world.capacity(4)
    assert world.pool_row("first") is None
    [new] = world.working_pool(pool_id="second")
    assert new.node_pk != old.node_pk
    with pytest.raises(NotThisNode):
        old.sync()


def test_a_finished_task_does_not_move_to_a_later_node(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    agent.end_all()
    world.delete_pool()
    world.capacity(4)
    world.working_pool()
    assert world.task("a").node_pk not in {node.pk for node in world.nodes()}


# node loss


@pytest.mark.parametrize("how", [not_back, nodes.silent])
def test_a_lost_node_returns_its_tasks_without_touching_their_counters(two: tuple[World, Agent, Agent], how: Any) -> None:
    world, one, other = two
    world.add("a", "b", "c", "d")
    world.schedule()
    mine = [name for name in "abcd" if world.task(name).node_pk == one.node_pk]
    assert len(mine) == 2
    world.topics.clear()
    world.run(how, one.node_pk, world.now)
    for name in mine:
        task = world.task(name)
        assert (task.state, task.retries, task.requeues, task.losses) == ("active", 0, 0, 1)
        assert (task.last_retry, task.last_requeue) == (None, None)
        assert task.ready
        assert world.task_events(name)[-1] == "node lost"
    assert "pool:pool" in world.topics
    other.end_all()
    world.schedule()
    other.end_all()
    assert {world.task(name).node_pk for name in mine} == {other.node_pk}
    assert world.counts().succeeded == 4


def test_what_waits_again_says_since_when(two: tuple[World, Agent, Agent]) -> None:
    world, one, _ = two
    world.add("a", "b")
    world.schedule()
    [name] = [name for name in "ab" if world.task(name).node_pk == one.node_pk]
    ran_since = world.task(name).state_time
    world.advance(5)
    world.run(nodes.silent, one.node_pk, world.now)
    task = world.task(name)
    assert (task.state, task.state_time, task.previous_state, task.previous_time) == ("active", world.now, "running", ran_since)


@pytest.mark.parametrize(("retention", "kept_us"), [("PT1H", 3_600 * SECOND_US), ("P10675199DT2H48M5.4775807S", None)])
def test_only_files_of_what_ran_are_to_be_removed_one_day(world: World, retention: str, kept_us: int | None) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("ran", "waited", constraints={"retentionTime": retention})
    world.schedule()
    agent.end(world.attempt("ran"))
    world.terminate("waited")
    assert world.task("ran").expires == (None if kept_us is None else world.now + kept_us)
    assert world.task("waited").expires is None


def test_a_task_may_be_lost_only_so_often(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    for losses in range(INTERNAL_RETRIES):
        assert world.schedule() == 1
        agent.join()
        assert (world.state("a"), world.task("a").losses) == ("active", losses + 1)
    world.schedule()
    agent.join()
    task = world.task("a")
    assert (task.state, task.result) == ("completed", "failure")
    assert task.failure is not None
    assert b"MaxInternalRetryCountReached" in task.failure
    assert world.node(agent.node_pk).slots_used == 0
    assert world.schedule() == 0


def test_a_join_that_is_said_twice_is_one_more_session(world: World) -> None:
    [agent] = world.working_pool()
    before = agent.session
    agent.join()
    agent.join()
    assert agent.session == before + 2
    assert world.node(agent.node_pk).state == "idle"


def test_orders_are_repeated_until_they_are_held_and_in_full(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job(commonEnvironmentSettings=[{"name": "N", "value": "V"}])
    world.add("a", "b")
    world.schedule()

    def says(*has: str) -> tuple[list[str], set[str]]:
        agent.number += 1
        answer = world.run(nodes.hear, agent.node_pk, Sync(session=agent.session, number=agent.number, has=[*has]), SETTING, world.now)
        assert answer is not None
        assert answer.number == agent.number
        assert all(b'"N"' in bytes(order.environment or b"") for order in answer.orders)
        return [order.attempt for order in answer.orders], set(answer.wanted)

    a, b = world.attempt("a"), world.attempt("b")
    assert says() == ([a, b], {a, b})
    assert says() == ([a, b], {a, b}), "the first answer was lost"
    assert says(a) == ([b], {a, b})
    assert says(a, b, "7.7") == ([], {a, b}), "7.7 is to be ended"


def test_a_task_waits_until_its_node_has_removed_what_an_earlier_one_left(world: World) -> None:
    """More directories than one answer names: nothing of a new task may lie where an old removal is still to come."""
    names = [f"t{number}" for number in range(orders.REMOVALS_PER_SYNC + 2)]
    [agent] = world.working_pool(slots=200)
    world.job()
    world.add(*names)
    world.schedule()
    agent.sync()
    agent.end_all()
    for name in names:
        world.delete(name)
    world.add(*names)
    world.schedule()
    told: set[str] = set()
    while len(told) < len(names):
        agent.has = sorted(told)
        answer = agent.sync()
        assert answer is not None
        told |= {order.attempt for order in answer.orders}
        waiting = {removal.directory.rpartition("/")[2] for removal in answer.removals}
        assert not waiting & {msgspec.json.decode(order.task)["id"] for order in answer.orders}
        agent.has = sorted(told)
        agent.sync(removed=[removal.number for removal in answer.removals])
    assert told == {world.attempt(name) for name in names}


def test_a_task_that_was_terminated_while_it_ran_keeps_its_exit_code(world: World) -> None:
    [agent] = world.working_pool(slots=4)
    world.job()
    world.add("a", "b", "c")
    world.schedule()
    agent.sync()
    attempts = {name: world.attempt(name) for name in "abc"}
    for name in "abc":
        world.terminate(name)
    before = world.counts()
    ended_by_us = {"failure": {"category": "usererror", "code": "TaskEnded", "message": "x"}}
    for _ in range(2):  # a repeated report changes nothing
        agent.end(attempts["a"], exit_code=137, user_cpu_us=7, **ended_by_us)
        agent.end(attempts["b"], **ended_by_us)
        agent.end(attempts["c"], exit_code=0)
    tasks = [world.task(name) for name in "abc"]
    assert [(task.state, task.result, task.exit_code, task.user_us) for task in tasks] == [
        ("completed", "failure", 137, 7),
        ("completed", "failure", None, 0),
        ("completed", "failure", 0, 0),
    ]
    assert msgspec.structs.replace(world.counts(), user_us=before.user_us) == before
    assert world.counts().user_us == before.user_us + 7
    agent.end(attempts["a"], exit_code=1, **ended_by_us)
    assert world.task("a").exit_code == 137


def test_a_late_report_of_an_earlier_run_is_no_exit_code(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add({"id": "a", "constraints": {"maxTaskRetryCount": 1}})
    world.schedule()
    agent.sync()
    first = world.attempt("a")
    agent.end(first, **EXIT_1)
    world.schedule()
    agent.sync()
    world.terminate("a")
    agent.end(first, **EXIT_1)
    assert world.task("a").exit_code is None
    agent.end(world.attempt("a"), exit_code=143, failure={"category": "usererror", "code": "TaskEnded", "message": "x"})
    assert world.task("a").exit_code == 143
