"""Multi-instance tasks: all instances or none, whatever happens to one of them (contract 3.10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_world import EXIT_1, SECOND_US, Agent, World, ended

from batchyard.engine.nodes import node_changes
from batchyard.engine.nodes import nodes as node_cases
from batchyard.model.words import NodeDisableSchedulingOption
from batchyard.rules.placement import GANG_HOLD_US, PATIENCE_US
from batchyard.store import autoscale
from batchyard.store import instances as rows
from batchyard.store.instances import InstanceRow
from batchyard.store.reader import Statement


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.check()
    world.close()


def gang(task_id: str, instances: int = 3, **more: Any) -> dict[str, Any]:
    return {"id": task_id, "multiInstanceSettings": {"numberOfInstances": instances, "coordinationCommandLine": "c"}, **more}


def talking(world: World, nodes: int = 3, **more: Any) -> list[Agent]:
    return world.working_pool(nodes, enableInterNodeCommunication=True, **more)


def instances(world: World, task_id: str, job_id: str = "job") -> list[InstanceRow]:
    return world.run(rows.of_task, world.task(task_id, job_id).pk)


def orders(agents: list[Agent]) -> list[list[str]]:
    return [agent.sync_all() for agent in agents]


def get_ready(agents: list[Agent]) -> None:
    """The coordination command succeeds on all nodes."""
    for agent in agents:
        agent.sync()
        agent.sync(ready=[name for name in agent.has if name.count(".") == 2])


def begun(world: World, nodes: int = 3, **more: Any) -> list[Agent]:
    """A multi-instance task `t` that holds all nodes."""
    agents = talking(world, nodes)
    world.job(**more.pop("job", {}))
    world.add(gang("t", nodes, **more))
    assert world.schedule() > 0
    return agents


def primary_of(world: World, agents: list[Agent]) -> Agent:
    node_pk = world.task("t").node_pk
    return next(agent for agent in agents if agent.node_pk == node_pk)


def test_the_command_waits_for_every_coordination(world: World) -> None:
    agents = begun(world)
    names = {row.node_pk: f"{row.task_pk}.{row.run}.{row.number}" for row in instances(world, "t")}
    assert orders(agents) == [[names[agent.node_pk]] for agent in agents]
    get_ready(agents[:2])
    own = world.attempt("t")
    assert own not in primary_of(world, agents).sync_all()
    get_ready(agents[2:])
    primary = primary_of(world, agents)
    assert own in primary.sync_all()
    primary.end(own)
    assert world.state("t") == "completed"
    assert orders(agents) == [[], [], []]
    assert {(row.result, row.exit_code) for row in instances(world, "t")} == {("success", 0)}
    assert [(node.tasks_run, node.tasks_succeeded) for node in world.nodes()].count((1, 1)) == 1
    assert world.counts().succeeded_slots == 3


def test_an_order_tells_all_addresses_and_only_the_primary_the_command(world: World) -> None:
    agents = begun(world, commandLine="own", resourceFiles=[{"httpUrl": "http://u", "filePath": "f"}])
    made = {}
    for agent in agents:
        answer = agent.sync()
        assert answer is not None
        [order] = answer.orders
        assert order.gang is not None
        assert b'"commandLine":"c"' in bytes(order.task)
        assert b"resourceFiles" not in bytes(order.task)
        made[order.gang.number] = order
    assert sorted(made) == [0, 1, 2]
    get_ready(agents)
    answer = primary_of(world, agents).sync()
    assert answer is not None
    # what it has already is not ordered again, so look at one who has nothing
    primary = primary_of(world, agents)
    primary.has = []
    fresh = primary.sync()
    assert fresh is not None
    own = next(order for order in fresh.orders if order.attempt == world.attempt("t"))
    assert b'"commandLine":"own"' in bytes(own.task)
    assert own.gang is not None
    assert own.gang.within == f"{world.attempt('t')}.0"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_bad_exit_of_one_ends_and_retries_all(world: World, retries: int) -> None:
    agents = begun(world, constraints={"maxTaskRetryCount": retries})
    for tried in range(retries + 1):
        orders(agents)
        other = next(agent for agent in agents if agent.node_pk != world.task("t").node_pk)
        other.end(*other.has, **EXIT_1)
        other.end(*other.has, **EXIT_1)  # told twice
        world.check()
        assert world.state("t") == ("active" if tried < retries else "completed")
        assert orders(agents) == [[], [], []]
        world.schedule()
    task = world.task("t")
    assert (task.retries, task.exit_code, task.result) == (retries, 1, "failure")
    assert world.counts().failed_slots == 3


def lost(world: World, agent: Agent) -> None:
    world.run(node_cases.silent, agent.node_pk, world.now)


def rebooted(world: World, agent: Agent) -> None:
    world.change(node_changes.reboot, agent.node_pk, "requeue")


def disabled(world: World, agent: Agent) -> None:
    world.change(node_changes.disable_scheduling, agent.node_pk, NodeDisableSchedulingOption.REQUEUE)


def removed(world: World, agent: Agent) -> None:
    world.remove_nodes(agent.node_pk)
    world.capacity()


def joined(world: World, agent: Agent) -> None:
    agent.join()


def job_disabled(world: World, agent: Agent) -> None:
    world.disable("requeue")
    world.upkeep()


@pytest.mark.parametrize("what", [lost, rebooted, disabled, removed, joined, job_disabled])
@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize("ready", [False, True])
def test_whatever_takes_one_node_takes_all_back(world: World, what: Any, whose: int, ready: bool) -> None:
    agents = begun(world)
    if ready:
        get_ready(agents)
    primary = primary_of(world, agents)
    what(world, sorted(agents, key=lambda agent: agent is not primary)[whose])
    assert world.state("t") == "active"
    assert world.task("t").retries == 0
    assert sum(node.slots_used for node in world.nodes()) == 0


@pytest.mark.parametrize("what", ["terminate", "delete", "end job", "delete job", "node"])
def test_an_end_frees_every_node(world: World, what: str) -> None:
    agents = begun(world)
    get_ready(agents)
    other = next(agent for agent in agents if agent.node_pk != world.task("t").node_pk)
    if what == "terminate":
        world.terminate("t")
    elif what == "delete":
        world.delete("t")
    elif what == "node":
        world.change(node_changes.reboot, other.node_pk, "terminate")
    else:
        (world.end_job if what == "end job" else world.delete_job)()
        world.upkeep()
    assert sum(node.slots_used for node in world.nodes()) == 0
    if what not in ("delete", "delete job"):
        assert world.state("t") == "completed"
    for agent in agents:
        if agent is not other or what != "node":
            assert agent.sync_all() == []


def test_all_directories_go_with_the_task_and_after_its_retention(world: World) -> None:
    agents = begun(world, constraints={"retentionTime": "PT1M"})
    get_ready(agents)
    primary = primary_of(world, agents)
    primary.end(world.attempt("t"))
    world.advance(61)
    world.upkeep()
    told = [answer.removals for agent in agents if (answer := agent.sync()) is not None]
    assert [[one.directory for one in removals] for removals in told] == [["workitems/job/job-1/t"]] * 3


def test_preparation_that_fails_on_one_node_puts_all_back(world: World) -> None:
    agents = begun(world, job={"jobPreparationTask": {"commandLine": "p"}})
    assert world.state("t") == "preparing"
    primary = primary_of(world, agents)
    others = [agent for agent in agents if agent is not primary]
    primary.end_all()
    assert world.state("t") == "running"
    others[0].end_all()
    others[1].end_all(**EXIT_1)
    assert world.state("t") == "active"
    assert sum(node.slots_used for node in world.nodes()) == 0
    world.schedule()
    assert world.state("t") == "active", "a node that cannot be had is not counted"


def plain(world: World, *tasks: str, job_id: str = "plain", **more: Any) -> None:
    world.job(job_id, **more)
    world.add(*tasks, job_id=job_id)


def test_free_nodes_are_kept_once_it_has_waited_and_it_starts_when_all_are_free(world: World) -> None:
    agents = talking(world)
    plain(world, "a", "b", "c")
    world.schedule()
    world.job()
    world.add(gang("t", 3))
    world.advance(PATIENCE_US / SECOND_US + 1)
    for agent in agents:
        world.add(f"more{agent.node_pk}", job_id="plain")
        agent.end_all()
        world.schedule()
    assert world.state("t") == "running"
    assert len(instances(world, "t")) == 3


def test_two_that_cannot_both_run_do_so_one_after_the_other(world: World) -> None:
    agents = talking(world, 4)
    plain(world, "a")
    world.schedule()
    for name in ("one", "two"):
        world.job(name)
        world.add(gang("t", 3), job_id=name)
    world.advance(60)
    world.schedule()
    assert sorted(world.state("t", name) for name in ("one", "two")) == ["active", "running"]
    first = next(name for name in ("one", "two") if world.state("t", name) == "running")
    second = {"one": "two", "two": "one"}[first]
    world.terminate("t", first)
    for agent in agents:
        agent.sync()
    world.schedule()
    assert world.state("t", second) == "running"


def test_beside_a_task_that_never_ends_others_get_half_of_the_time(world: World) -> None:
    agents = talking(world, 3)
    plain(world, "endless")
    world.schedule()
    busy = next(agent for agent in agents if agent.sync_all())
    free = [agent for agent in agents if agent is not busy]
    world.job()
    world.add(gang("t", 3))
    world.advance(60)
    plain(world, *(f"p{n}" for n in range(200)), job_id="many")
    seen: list[bool] = []
    step = GANG_HOLD_US / SECOND_US / 4
    for _ in range(48):
        world.schedule()
        seen.append(any(agent.sync_all() for agent in free))
        for agent in free:
            agent.end_all()
        world.advance(step)
    assert 15 <= sum(seen) <= 33, "about half"
    assert not seen[0], "the nodes are kept at first"
    busy.end_all()
    for _ in range(60):
        world.schedule()
        if world.state("t") == "running":
            break
        for agent in agents:
            agent.end_all()
        world.advance(step)
    assert world.state("t") == "running"


def test_less_important_tasks_do_not_take_the_nodes_of_one_that_waits(world: World) -> None:
    agents = talking(world)
    plain(world, "a", "b", "low", "low2", job_id="low", priority=-10)
    world.schedule()
    world.job(priority=5)
    world.add(gang("t", 3))
    for agent in agents:
        agent.end_all()
        world.schedule()
    assert world.state("t") == "running"


def test_one_that_is_more_important_pushes_others_off_as_many_nodes_as_it_needs(world: World) -> None:
    talking(world)
    plain(world, "a", "b", "c", job_id="low", allowTaskPreemption=True)
    world.schedule()
    world.job(priority=5)
    world.add(gang("t", 2))
    world.schedule()
    world.schedule()
    assert world.state("t") == "running"
    assert sorted(world.state(name, "low") for name in "abc") == ["active", "active", "running"]


@pytest.mark.parametrize("priority", [3, 5])
def test_beside_one_that_waits_nobody_is_pushed_off_for_nothing(world: World, priority: int) -> None:
    """What is freed would be kept for the one that waits."""
    talking(world, 8)
    plain(world, "b", job_id="busy", priority=5)
    world.schedule()
    low = [f"l{n}" for n in range(5)]
    plain(world, *low, job_id="low", priority=-5, allowTaskPreemption=True)
    world.schedule()
    world.job(priority=5)
    world.add(gang("t", 8))
    world.advance(PATIENCE_US / SECOND_US + 1)
    world.schedule()
    plain(world, "o", job_id="other", priority=priority)
    for _ in range(8):
        world.schedule()
    assert [world.state(name, "low") for name in low] == ["running"] * 5
    assert sum(world.task(name, "low").requeues for name in low) == 0


def test_a_more_important_task_still_pushes_beside_one_that_waits(world: World) -> None:
    talking(world, 4)
    plain(world, "l0", "l1", "l2", job_id="low", priority=-5, allowTaskPreemption=True)
    world.schedule()
    plain(world, "b", job_id="busy", priority=5)
    world.schedule()
    world.job(priority=5)
    world.add(gang("t", 4))
    world.advance(PATIENCE_US / SECOND_US + 1)
    world.schedule()
    plain(world, "o", job_id="other", priority=7)
    world.schedule()
    world.schedule()
    assert world.state("o", "other") == "running"


def test_preparation_that_failed_on_nodes_that_are_gone_counts_no_longer(world: World) -> None:
    agents = talking(world, 4)
    world.job(jobPreparationTask={"commandLine": "p"}, priority=5)
    world.add("x1", "x2")
    world.schedule()
    bad = [agent for agent in agents if agent.sync_all()]
    for agent in bad:
        agent.end_all(**EXIT_1)
    for name in ("x1", "x2"):
        world.terminate(name)
    world.remove_nodes(*[agent.node_pk for agent in bad])
    world.capacity(3)
    world.resize(dedicated=4)
    world.capacity(3)
    known = {agent.node_pk for agent in agents}
    agents = [agent for agent in agents if agent not in bad] + [
        Agent(world, node.pk).join() for node in world.nodes() if node.pk not in known
    ]
    plain(world, *[f"p{n}" for n in range(12)], job_id="low")
    world.schedule()
    world.add(gang("t", 4))
    world.advance(PATIENCE_US / SECOND_US + 1)
    world.schedule()
    for agent in agents:
        agent.sync_all()
        agent.end_all()
        world.schedule()
    assert world.state("t") != "active"


def test_each_instance_counts_for_a_formula(world: World) -> None:
    talking(world, 1)
    world.job()
    world.add(gang("t", 64), *[{"id": f"after{n}", "dependsOn": {"taskIds": ["t"]}} for n in range(63)])
    pool = world.pool_row()
    assert pool is not None
    sample = world.run(autoscale.present, pool, world.now)
    assert (sample.active_tasks, sample.active_task_slots, world.run(autoscale.pending, pool)) == (64, 64, 64)


def test_an_orderly_end_of_an_agent_is_no_loss(world: World) -> None:
    agents = begun(world)
    get_ready(agents)
    primary = primary_of(world, agents)
    other = next(agent for agent in agents if agent is not primary)
    name = next(name for name in other.has if name.count(".") == 2)
    other.sync(ended(name, exit_code=None, stopped=True), leaving=True)
    assert (world.state("t"), world.task("t").losses) == ("active", 0)


def test_one_that_is_pushed_off_gives_up_all_its_nodes(world: World) -> None:
    begun(world, job={"allowTaskPreemption": True})
    plain(world, "p", job_id="high", priority=5)
    world.schedule()
    world.schedule()
    assert world.state("p", "high") == "running"
    assert world.state("t") == "active"
    assert world.task("t").requeues == 1


def test_one_that_needs_more_nodes_than_there_are_keeps_none(world: World) -> None:
    talking(world)
    world.job()
    world.add(gang("t", 4))
    world.advance(60)
    world.schedule()
    plain(world, "a", "b", "c")
    world.schedule()
    assert [world.state(name, "plain") for name in "abc"] == ["running"] * 3
    assert world.run(lambda tx: tx.first(Statement("SELECT count(*) FROM task WHERE held_since IS NOT NULL", int))) == 0


@pytest.mark.parametrize("more", [{}, {"slots": 2, "enableInterNodeCommunication": True}])
def test_where_nodes_may_not_talk_or_have_several_slots_it_waits(world: World, more: dict[str, Any]) -> None:
    world.working_pool(2, **more)
    world.job()
    world.add(gang("t", 2), "plain")
    world.schedule()
    assert (world.state("t"), world.state("plain")) == ("active", "running")


@pytest.mark.parametrize("step", range(3))
def test_a_crash_of_the_server_leaves_no_part(tmp_path: Any, step: int) -> None:
    world = World(tmp_path / "batchyard.db")
    agents = begun(world)
    if step > 0:
        get_ready(agents[:2])
    if step > 1:
        get_ready(agents)
        primary_of(world, agents).sync()
    world.crash()
    world.check()
    get_ready(agents)
    primary = primary_of(world, agents)
    primary.sync()
    primary.end(world.attempt("t"))
    primary.end(world.attempt("t"))
    assert world.state("t") == "completed"
    assert world.counts().succeeded == 1
    world.check()
    world.close()
