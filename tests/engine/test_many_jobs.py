"""What a report, a round and an addition cost does not depend on how many jobs wait: counted in steps of the database, not in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_world import SETTING, Agent, World, ended

from batchyard.engine.nodes import nodes
from batchyard.engine.scheduling import scheduler
from batchyard.engine.work import tasks
from batchyard.model.sync import Sync
from batchyard.model.task import TaskCreateContent
from batchyard.store.tx import Tx

FEW, MANY = 10, 310
SLOTS = 4


def steps(world: World, unit: Callable[[Tx], object]) -> int:
    """Steps of the database's machine that a unit takes."""
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
