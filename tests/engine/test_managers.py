"""Job managers and whoever may push others off a node (contract 3.1, 3.5)."""

from __future__ import annotations

from typing import Any

from engine_world import EXIT_1, NO_PROGRAM, Agent, World


def manager(**more: Any) -> dict[str, Any]:
    return {"jobManagerTask": {"id": "boss", "commandLine": "true", **more}}


def running(world: World) -> set[tuple[str, str]]:
    """(job, task) of everything that holds slots."""
    rows = world.rows("SELECT job.id, task.id FROM task JOIN job ON job.pk = job_pk WHERE task.state IN ('preparing', 'running')")
    return {(str(job), str(task)) for job, task in rows}


def settle(world: World) -> int:
    """Rounds of the scheduler until it changes nothing; how many that took."""
    for rounds in range(10):
        before = world.rows("SELECT pk, state, run FROM task ORDER BY pk")
        world.schedule()
        if world.rows("SELECT pk, state, run FROM task ORDER BY pk") == before:
            return rounds
    raise AssertionError("the scheduler pushes and places for ever")


def test_first_of_its_job_and_alone(world: World) -> None:
    world.working_pool(nodes=2, slots=2)
    world.job(**manager())
    world.add("a", "b", "c")
    world.schedule()
    boss = world.task("boss")
    assert (boss.state, boss.held, boss.slots) == ("running", 2, 1)
    assert world.states("a", "b", "c") == ["running", "running", "active"]
    assert world.task("a").node_pk == world.task("b").node_pk != boss.node_pk
    assert (world.counts().running, world.counts().running_slots) == (3, 3)


def test_it_waits_for_an_empty_node_whatever_its_slots(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job("other")
    world.add("o", job_id="other")
    world.schedule()
    world.job(**manager(requiredSlots=200))
    assert world.schedule() == 0
    agent.end_all()
    assert world.schedule() == 1
    agent.end_all()
    assert world.node(agent.node_pk).slots_used == 0


def test_not_on_a_low_priority_node(world: World) -> None:
    world.pool("pool", 0, targetLowPriorityNodes=1, taskSlotsPerNode=2)
    world.capacity(2)
    [node] = world.nodes()
    Agent(world, node.pk).join()
    world.job(**manager(allowLowPriorityNode=False))
    world.add("a")
    world.schedule()
    assert world.states("boss", "a") == ["active", "running"]
    world.job("second", **manager(runExclusive=False))
    world.schedule()
    assert world.state("boss", "second") == "running"


def test_its_end_ends_the_job_unless_told_otherwise(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    for job_id, kills in (("kills", True), ("stays", False)):
        world.job(job_id, **manager(killJobOnCompletion=kills, runExclusive=False))
    world.schedule()
    agent.end_all(**NO_PROGRAM)
    world.upkeep()
    assert (world.job_state("kills"), world.job_state("stays")) == ("completed", "active")
    row = world.job_row("kills")
    assert row is not None
    assert row.terminate_reason == "JMComplete"


def test_its_node_goes_last(world: World) -> None:
    agents = world.working_pool(nodes=3)
    world.job(**manager())
    world.job("other")
    world.add("a", "b", job_id="other")
    world.schedule()
    boss = world.task("boss").node_pk
    assert {agent.node_pk for agent in agents} == {boss, world.task("a", "other").node_pk, world.task("b", "other").node_pk}
    world.resize(1, nodeDeallocationOption="requeue")
    world.capacity(3)
    assert [node.pk for node in world.nodes()] == [boss]
    assert world.task("boss").requeues == 0


class TestRestarted:
    """A manager that ran before takes the place of another task when nothing is free."""

    def _full(self, world: World, nodes: int = 2, priority: int = 0, **how: Any) -> None:
        """All nodes run; the manager failed once and its place was taken at once by another job."""
        agents = world.working_pool(nodes=nodes)
        world.job(**manager(constraints={"maxTaskRetryCount": 1}, runExclusive=False), **how)
        world.schedule()
        node = world.task("boss").node_pk
        world.job("other", priority=priority)
        world.add(*(f"o{n}" for n in range(nodes + 2)), job_id="other")
        world.schedule()
        world.patch("other", priority=1000)
        [agent] = [agent for agent in agents if agent.node_pk == node]
        agent.end(world.attempt("boss"), **EXIT_1)
        world.schedule()
        world.patch("other", priority=priority)

    def test_it_pushes_one_off_and_takes_its_place(self, world: World) -> None:
        self._full(world)
        assert ("job", "boss") not in running(world)
        assert settle(world) <= 3
        assert ("job", "boss") in running(world)
        assert sum(requeues for (requeues,) in world.rows("SELECT requeues FROM task")) == 1

    def test_also_when_the_other_job_runs_less(self, world: World) -> None:
        """What it freed must not go back to an equal job that has fewer tasks on nodes."""
        agents = world.working_pool(nodes=4)
        world.job(**manager(constraints={"maxTaskRetryCount": 1}, runExclusive=False))
        world.add("a", "b", "c")
        world.schedule()
        world.job("other", priority=1)
        world.add("o1", "o2", job_id="other")
        [agent] = [agent for agent in agents if agent.node_pk == world.task("boss").node_pk]
        agent.end(world.attempt("boss"), **EXIT_1)
        world.schedule()
        assert running(world) == {("job", "a"), ("job", "b"), ("job", "c"), ("other", "o1")}
        world.patch("other", priority=0)
        settle(world)
        assert ("job", "boss") in running(world)

    def test_never_one_of_a_more_important_job(self, world: World) -> None:
        self._full(world, nodes=1, priority=5)
        settle(world)
        assert ("job", "boss") not in running(world)
        assert world.rows("SELECT max(requeues) FROM task") == [(0,)]

    def test_also_when_none_of_the_more_important_ones_waits(self, world: World) -> None:
        """What it may not push off is all that runs: only the priorities of the two tell."""
        [agent] = world.working_pool()
        world.job(**manager(constraints={"maxTaskRetryCount": 1}, runExclusive=False))
        world.schedule()
        world.job("other", priority=5)
        world.add("o", job_id="other")
        agent.end(world.attempt("boss"), **EXIT_1)
        world.schedule()
        settle(world)
        assert running(world) == {("other", "o")}
        world.patch("other", priority=0)
        settle(world)
        assert running(world) == {("job", "boss")}, "one of equal priority makes way"

    def test_nor_for_the_good_of_a_more_important_job(self, world: World) -> None:
        self._full(world, nodes=1)
        world.job("urgent", priority=5)
        world.add("u1", "u2", job_id="urgent")
        settle(world)
        assert world.rows("SELECT max(requeues) FROM task") == [(0,)]


class TestPreemption:
    """allowTaskPreemption lets a more important job take the place of a task."""

    def _full(self, world: World, *, yields: bool = True) -> list[Agent]:
        agents = world.working_pool(nodes=2, slots=2)
        world.job("low", allowTaskPreemption=yields)
        world.add("l1", "l2", "l3", "l4", job_id="low")
        world.schedule()
        return agents

    def test_only_a_job_that_allows_it(self, world: World) -> None:
        self._full(world, yields=False)
        world.job("high", priority=1)
        world.add("h", job_id="high")
        settle(world)
        assert ("high", "h") not in running(world)

    def test_as_many_as_are_needed_on_one_node(self, world: World) -> None:
        self._full(world)
        world.job("high", priority=1)
        world.add({"id": "h", "requiredSlots": 2}, job_id="high")
        settle(world)
        assert ("high", "h") in running(world)
        pushed = world.rows("SELECT id, requeues, retries, state FROM task WHERE requeues > 0")
        assert [row[1:] for row in pushed] == [(1, 0, "active")] * 2

    def test_an_equal_job_does_not(self, world: World) -> None:
        self._full(world)
        world.job("equal")
        world.add("e", job_id="equal")
        settle(world)
        assert ("equal", "e") not in running(world)

    def test_not_on_a_node_that_is_closed_to_the_job(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job("high", priority=1, jobPreparationTask={"commandLine": "false"})
        world.add("h", job_id="high")
        world.schedule()
        agent.end_all(**EXIT_1)
        world.job("low", allowTaskPreemption=True)
        world.add("l", job_id="low")
        assert settle(world) == 1
        assert (world.state("l", "low"), world.task("l", "low").requeues) == ("running", 0)

    def test_not_when_the_job_may_not_run_more(self, world: World) -> None:
        self._full(world)
        world.job("high", priority=1, maxParallelTasks=1)
        world.add("h1", "h2", job_id="high")
        settle(world)
        assert len({task for job, task in running(world) if job == "high"}) == 1
        assert world.rows("SELECT sum(requeues) FROM task") == [(1,)]

    def test_not_on_a_node_that_takes_no_more_tasks(self, world: World) -> None:
        self._full(world)
        world.resize(0, nodeDeallocationOption="taskcompletion")
        world.capacity()
        world.job("high", priority=1)
        world.add("h", job_id="high")
        settle(world)
        assert world.rows("SELECT sum(requeues) FROM task") == [(0,)]

    def test_what_is_about_to_end_is_not_put_back(self, world: World) -> None:
        self._full(world)
        world.end_job("low")
        world.job("high", priority=1)
        world.add("h", job_id="high")
        world.schedule()
        world.upkeep()
        settle(world)
        assert ("high", "h") in running(world)
        ends = "SELECT DISTINCT task.state, requeues FROM task JOIN job ON job.pk = job_pk WHERE job.id = 'low'"
        assert world.rows(ends) == [("completed", 0)]


def test_a_manager_that_finds_no_node_keeps_nobody_else_from_starting(world: World) -> None:
    world.working_pool(nodes=1, slots=2)
    world.job("other", priority=10)
    world.add("busy", job_id="other")
    world.schedule()
    world.job(jobManagerTask={"id": "manager", "commandLine": "true"})
    world.add("a")
    assert world.schedule() == 1
    assert (world.state("a"), world.state("manager")) == ("running", "active")


def test_a_manager_that_ends_in_one_report_with_the_tasks_that_it_added(world: World) -> None:
    [agent] = world.working_pool(slots=4)
    manager = {"id": "boss", "commandLine": "true", "killJobOnCompletion": False, "runExclusive": False}
    world.job(jobManagerTask=manager, onAllTasksComplete="terminatejob")
    world.add("t", "u")
    world.schedule()
    attempts = agent.sync_all()
    boss = f"{world.task('boss').pk}."
    assert agent.end(*sorted(attempts, key=lambda attempt: attempt.startswith(boss))) is not None
    assert world.job_state() == "terminating"
    assert {state for (state,) in world.rows("SELECT state FROM task")} == {"completed"}
