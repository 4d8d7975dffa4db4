"""What a report, a round and an addition cost does not depend on how many jobs wait: counted in steps of the database, not in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_world import EXIT_1, SETTING, Agent, World, ended

import databases
from batchyard.engine.nodes import nodes
from batchyard.engine.pools import pools
from batchyard.engine.scheduling import scheduler
from batchyard.engine.work import tasks
from batchyard.model.sync import Sync
from batchyard.model.task import TaskCreateContent
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

FEW, MANY = 10, 310
SLOTS = 4


def steps(world: World, unit: Callable[[Tx], object]) -> int:
    """Steps of the database's machine that a unit takes."""
    if databases.on_postgres():
        pytest.skip("SQLite counts what it does")
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1

    def counted(tx: Tx) -> None:
        tx._connection.set_progress_handler(count, 10)
        try:
            unit(tx)
            tx.flush()
        finally:
            tx._connection.set_progress_handler(None, 0)

    world.run(counted)
    return 10 * seen


def waiting(world: World, numbers: range, *, equal: bool, slots: int) -> None:
    """Jobs of two tasks each, that all are more important than what runs."""
    for number in numbers:
        world.job(f"job{number}", priority=0 if equal else number)
        world.add("a", "b", job_id=f"job{number}", requiredSlots=slots)


def full(world: World, yields: int) -> Agent:
    """A node whose slots are all taken, some of them by tasks that more important ones may push off."""
    [agent] = world.working_pool(slots=SLOTS)
    world.job("stays", priority=-1000)
    world.job("yields", priority=-1000, allowTaskPreemption=True)
    world.add(*(f"y{number}" for number in range(yields)), job_id="yields")
    world.schedule()
    world.add(*(f"s{number}" for number in range(SLOTS - yields)), job_id="stays")
    world.schedule()
    return agent


def report(world: World, agent: Agent) -> Callable[[Tx], object]:
    """One task ends that nobody can push off, and whatever fits takes its place."""
    agent.sync()
    [(task, run), *_] = world.rows("SELECT pk, run FROM task WHERE state = 'running' ORDER BY id LIKE 'y%', pk")
    agent.number += 1
    said = Sync(session=agent.session, number=agent.number, has=[*agent.has], ended=[ended(f"{task}.{run}")])
    return lambda tx: nodes.hear(tx, agent.node_pk, said, SETTING, world.now, refill=True)


@pytest.mark.parametrize("equal", [False, True], ids=["different", "equal"])
@pytest.mark.parametrize("yields", [0, 3])
@pytest.mark.parametrize("slots", [1, 2, SLOTS])
def test_a_report_costs_the_same_however_many_jobs_wait(world: World, slots: int, yields: int, equal: bool) -> None:
    agent = full(world, yields)
    counted = []
    for numbers in (range(FEW), range(FEW, MANY)):
        waiting(world, numbers, equal=equal, slots=slots)
        world.advance(60)
        for _ in range(5):
            world.schedule()
        counted.append(steps(world, report(world, agent)))
    few, many = counted
    assert many <= 1.3 * few + 300, f"{few} steps beside {FEW} jobs, {many} beside {MANY}"


@pytest.mark.parametrize("equal", [False, True], ids=["different", "equal"])
@pytest.mark.parametrize("nodes_", [0, 1])
def test_an_addition_costs_the_same_however_many_jobs_wait(world: World, nodes_: int, equal: bool) -> None:
    if nodes_:
        full(world, 0)
    else:
        world.pool()
    world.job("last", priority=-1)

    def add(tx: Tx) -> None:
        sent = TaskCreateContent(id=f"t{len(counted)}", command_line="true")
        tasks.add(tx, "last", [sent], world.now)
        scheduler.run_once(tx, "pool", world.now)

    counted: list[int] = []
    for numbers in (range(FEW), range(FEW, MANY)):
        waiting(world, numbers, equal=equal, slots=1)
        counted.append(steps(world, add))
    few, many = counted
    assert many <= 1.3 * few + 300, f"{few} steps beside {FEW} jobs, {many} beside {MANY}"


def test_a_report_whose_room_is_filled_at_once_wakes_no_scheduler(world: World) -> None:
    agent = full(world, 0)
    waiting(world, range(2), equal=False, slots=1)
    unit = report(world, agent)
    world.topics.clear()
    world.run(unit)
    assert (world.topics["pool:pool"], world.topics["demand:pool"]) == (0, 1)
    assert world.rows("SELECT count(*) FROM task WHERE state = 'running' AND job_pk > 2") == [(1,)]


class TestNoRoomForReasonsOfTheirOwn:
    """Equal jobs that wait for what the free slots are not: a report beside many of them costs what one beside a few does."""

    def beside(self, world: World, agents: list[Agent], numbers: range, jobs: Callable[[range], None]) -> int:
        """Steps of a report that frees one slot, once every job had its look."""
        jobs(numbers)
        world.advance(60)
        for _ in range(15):
            self.report(world, agents)
        return self.report(world, agents)

    def report(self, world: World, agents: list[Agent]) -> int:
        [(task, run, node_pk), *_] = world.rows(
            "SELECT task.pk, run, node_pk FROM task JOIN job ON job.pk = job_pk WHERE task.state = 'running' AND job.id = 'stream'"
            " ORDER BY task.started, task.pk"
        )
        [agent] = [agent for agent in agents if agent.node_pk == node_pk]
        agent.sync()
        agent.number += 1
        said = Sync(session=agent.session, number=agent.number, has=[*agent.has], ended=[ended(f"{task}.{run}")])
        counted = steps(world, lambda tx: nodes.hear(tx, node_pk, said, SETTING, world.now, refill=True))
        world.add(f"n{agent.number}-{node_pk}", job_id="stream")
        return counted

    def streaming(self, world: World, *, priority: int = 0, waiting: int = 8, **more: int) -> list[Agent]:
        """Small tasks pass through the slots that a long one leaves on each of two nodes: none is ever empty."""
        agents = world.working_pool(**({"nodes": 2} | more), slots=SLOTS)
        world.job("long", priority=priority)
        world.add("l1", "l2", job_id="long")
        world.schedule()
        world.job("stream", priority=priority)
        world.add(*(f"s{number}" for number in range(2 * (SLOTS - 1) + waiting)), job_id="stream")
        world.schedule()
        return agents

    def compare(self, few: int, many: int) -> None:
        assert many <= 1.3 * few + 300, f"{few} steps beside {FEW} jobs, {many} beside {MANY}"

    def test_managers_that_wait_for_a_whole_node(self, world: World) -> None:
        agents = self.streaming(world)

        def jobs(numbers: range) -> None:
            for number in numbers:
                world.job(f"m{number}", jobManagerTask={"id": "manager", "commandLine": "true"})

        few = self.beside(world, agents, range(FEW), jobs)
        self.compare(few, self.beside(world, agents, range(FEW, MANY), jobs))

    def test_managers_that_ran_before(self, world: World) -> None:
        agents = self.streaming(world, priority=1, waiting=0)  # or they would push it off

        def jobs(numbers: range) -> None:
            for number in numbers:
                world.job(f"m{number}", jobManagerTask={"id": "manager", "commandLine": "true"})
            world.run(lambda tx: tx.change(Change("UPDATE task SET run = 1, version = version + 1 WHERE manager = 1")))
            world.run(
                lambda tx: tx.change(
                    Change("UPDATE job_counts SET restarted = 1 WHERE job_pk IN (SELECT job_pk FROM task WHERE manager = 1)")
                )
            )

        few = self.beside(world, agents, range(FEW), jobs)
        self.compare(few, self.beside(world, agents, range(FEW, MANY), jobs))

    def test_large_tasks_beside_room_for_small_ones(self, world: World) -> None:
        agents = self.streaming(world)

        def jobs(numbers: range) -> None:
            for number in numbers:
                world.job(f"l{number}")
                world.add("large", job_id=f"l{number}", requiredSlots=SLOTS)

        few = self.beside(world, agents, range(FEW), jobs)
        self.compare(few, self.beside(world, agents, range(FEW, MANY), jobs))

    def test_managers_that_want_dedicated_nodes(self, world: World) -> None:
        agents = self.streaming(world, nodes=0, targetLowPriorityNodes=2)

        def jobs(numbers: range) -> None:
            for number in numbers:
                manager = {"id": "manager", "commandLine": "true", "allowLowPriorityNode": False}
                world.job(f"m{number}", jobManagerTask=manager | {"runExclusive": bool(number % 2)})

        few = self.beside(world, agents, range(FEW), jobs)
        self.compare(few, self.beside(world, agents, range(FEW, MANY), jobs))

    def test_jobs_whose_preparation_failed_where_there_is_room(self, world: World) -> None:
        [agent] = world.working_pool(slots=SLOTS)

        def jobs(numbers: range) -> None:
            for number in numbers:
                world.job(f"p{number}", jobPreparationTask={"commandLine": "false"})
                world.add("task", job_id=f"p{number}")
            while world.schedule():
                agent.sync()
                agent.end(*(attempt for attempt in agent.has if attempt.startswith("s")), **EXIT_1)

        counted = []
        for numbers in (range(FEW), range(FEW, MANY)):
            jobs(numbers)
            for _ in range(50):
                world.schedule()
                world.advance(1)
            counted.append(steps(world, lambda tx: scheduler.run_once(tx, "pool", world.now)))
        self.compare(*counted)


@pytest.mark.parametrize("many", [3, 30])
def test_who_was_barred_starts_once_there_is_room_elsewhere(world: World, many: int) -> None:
    """However many were passed over, each gets its look when a node joins that it may use."""
    [agent] = world.working_pool(slots=SLOTS)
    for number in range(many):
        world.job(f"p{number}", jobPreparationTask={"commandLine": "false"})
        world.add("task", job_id=f"p{number}")
    while world.schedule():
        agent.sync()
        agent.end(*(attempt for attempt in agent.has if attempt.startswith("s")), **EXIT_1)
    for _ in range(3):
        world.schedule()
    world.resize(dedicated=1 + (many + SLOTS - 1) // SLOTS)
    world.loops()
    for node in world.nodes():
        if node.pk != agent.node_pk:
            Agent(world, node.pk).join()
    world.advance(31)
    rounds = 0
    while world.rows("SELECT 1 FROM task WHERE state = 'active'"):
        rounds += 1
        assert rounds <= 10
        world.topics.clear()
        world.schedule()
    assert world.rows("SELECT count(*) FROM task WHERE state = 'preparing'") == [(many,)]


def test_a_manager_finds_a_whole_node_in_a_smaller_pool_of_the_same_name(world: World) -> None:
    """What was noted of a job that waits is of the nodes that there were."""
    world.working_pool(slots=SLOTS)
    world.job("small")
    world.add("s", job_id="small")
    world.schedule()
    world.job("job", jobManagerTask={"id": "manager", "commandLine": "true"})
    for _ in range(2):
        world.schedule()
    assert world.rows("SELECT smallest FROM job_counts JOIN job ON job.pk = job_pk WHERE job.id = 'job'") == [(SLOTS,)]
    world.run(lambda tx: pools.delete(tx, pools.find(tx, "pool"), world.now))
    world.loops()
    world.working_pool(nodes=2, slots=2)
    assert world.schedule()
    assert world.state("manager", "job") == "running"
