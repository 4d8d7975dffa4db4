"""Guards that hold without there being one writer: what was decided on an older snapshot changes nothing that is no longer so."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_world import SECOND_US, START, World

import databases
from batchyard.drivers.pipeline import PostgresConnection
from batchyard.drivers.postgres import connect
from batchyard.drivers.postgres_words import locate
from batchyard.drivers.sqlite import SqliteConnection
from batchyard.engine.changes.tasks import change_task
from batchyard.engine.loops import LEASE_S, Lease
from batchyard.engine.nodes.node_changes import disable_scheduling
from batchyard.engine.nodes.nodes import silent
from batchyard.engine.scheduling import scheduler
from batchyard.engine.scheduling.queues import Queues
from batchyard.engine.settling.completions import Completion, complete
from batchyard.engine.settling.moves import give_back
from batchyard.model.words import NodeDisableSchedulingOption
from batchyard.rules.placement import Waiting
from batchyard.rules.transitions import IllegalChange, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.db import Database
from batchyard.store.jobs import JobDemand
from batchyard.store.leases import LeaseLost
from batchyard.store.reader import Reader
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Conflict, Tx

Placed = list[tuple[Waiting, int, int]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "batchyard.db")
    yield world
    world.check()
    world.close()


@contextmanager
def snapshot(world: World) -> Iterator[Reader]:
    """What another server that began now would see, whatever is written meanwhile."""
    connection: Any
    if databases.on_postgres():
        connection = PostgresConnection(connect(locate(str(databases.place(world.path)))))
        connection.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        connection = sqlite3.connect(world.path, factory=SqliteConnection, isolation_level=None)
        connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM node").fetchone()
    yield Reader(connection)
    connection.close()


def placed(world: World, reader: Reader) -> tuple[Placed, dict[int, JobDemand]]:
    """What a scheduler that sees this starts."""
    pool = pool_rows.find_room(reader, "pool")
    assert pool is not None
    queues = Queues(reader, pool, world.now)
    return list(queues.starts()), queues.jobs


def start(world: World, some: Placed, jobs: dict[int, JobDemand]) -> None:
    world.run(scheduler._start, some, jobs, "pool", world.now)


def test_a_slot_is_had_by_one(world: World) -> None:
    [agent] = world.working_pool(slots=1)
    world.job("job")
    world.add("early")
    with snapshot(world) as seen:
        late, jobs = placed(world, seen)
        world.job("urgent", priority=10)
        world.add("first", job_id="urgent")
        assert world.schedule() == 1
    with pytest.raises(Conflict, match="no room for 1 slots"):
        start(world, late, jobs)
    assert world.node(agent.node_pk).slots_used == 1
    assert (world.state("early"), world.task("first", "urgent").state) == ("active", "running")


def nothing(world: World) -> None:
    """The node is as it was seen."""


def closed(world: World) -> None:
    """It goes on with what it runs, and takes nothing new."""
    [node] = world.nodes()
    world.run(lambda tx: disable_scheduling(tx, node, NodeDisableSchedulingOption.TASK_COMPLETION, world.now))


def leaving(world: World) -> None:
    [node] = world.nodes()
    world.remove_nodes(node.pk, nodeDeallocationOption="taskcompletion")


def broken(world: World) -> None:
    [node] = world.nodes()
    world.run(silent, node.pk, world.now)


def away(world: World) -> None:
    world.resize(0)
    world.capacity(3)
    assert world.nodes() == []


@pytest.mark.parametrize(("meanwhile", "starts"), [(nothing, True), (closed, False), (leaving, False), (broken, False), (away, False)])
def test_a_node_that_takes_no_tasks_any_more_gets_none(world: World, meanwhile: Callable[[World], None], starts: bool) -> None:
    world.working_pool(slots=2)
    world.job("job")
    world.add("busy")
    assert world.schedule() == 1
    world.add("t")
    with snapshot(world) as seen:
        late, jobs = placed(world, seen)
        meanwhile(world)
    if starts:
        start(world, late, jobs)
    else:
        with pytest.raises(Conflict, match="no room"):
            start(world, late, jobs)
    assert world.state("t") == ("running" if starts else "active")


def test_a_job_runs_no_more_than_it_may(world: World) -> None:
    world.working_pool(slots=2)
    world.job("job")
    world.add("a", "b")
    with snapshot(world) as seen:
        late, jobs = placed(world, seen)
        world.patch(maxParallelTasks=1)
        assert world.schedule() == 1
    with pytest.raises(Conflict, match="may not run so many"):
        start(world, late[1:], jobs)
    assert (world.state("a"), world.state("b"), world.counts().running) == ("running", "active", 1)


def test_a_job_that_is_no_longer_open_starts_nothing(world: World) -> None:
    world.working_pool(slots=2)
    world.job("job")
    world.add("a")
    with snapshot(world) as seen:
        late, jobs = placed(world, seen)
        world.disable()
        world.upkeep()
    with pytest.raises(Conflict, match="may not run so many"):
        start(world, late, jobs)
    assert world.state("a") == "active"


def test_no_node_gives_back_more_than_was_taken(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job("job")
    world.add("a")
    world.schedule()
    for slots, tasks in ((2, 1), (1, 2)):
        with pytest.raises(Conflict, match="to give back"):
            world.run(give_back, agent.node_pk, slots=slots, tasks=tasks, now=world.now)
    assert world.run(give_back, 999, slots=1, tasks=1, now=world.now) is None


def test_who_saw_a_task_before_its_dependency_was_met_does_not_make_it_wait_for_ever(world: World) -> None:
    [agent] = world.working_pool()
    world.job("job", usesTaskDependencies=True)
    world.add("parent")
    world.add({"id": "child", "dependsOn": {"taskIds": ["parent"]}})
    world.schedule()
    seen = world.task("child")
    agent.end_all()
    fresh = world.task("child")
    assert (seen.unmet, fresh.unmet, fresh.ready, fresh.version) == (1, 0, 1, seen.version + 1)
    with pytest.raises(Conflict):
        world.run(lambda tx: task_rows.move(tx, seen, ready=0, unmet=1))
    with pytest.raises(Conflict):
        world.run(lambda tx: complete(tx, job_rows.get(tx, seen.job_pk), [(seen, Completion(TaskHappened.TERMINATED))], world.now))
    assert world.schedule() == 1


def test_a_unit_that_loses_a_race_is_run_again_with_what_is_so_by_then(world: World) -> None:
    world.working_pool()
    world.job("job")
    world.add("a")
    world.schedule()
    rows = [world.task("a")]
    world.update("a", maxTaskRetryCount=7)
    seen: list[int] = []

    def unit(tx: Tx) -> TaskRow:
        task = rows.pop() if rows else task_rows.get(tx, 1)
        assert task is not None
        seen.append(task.version)
        tx.log(world.now, "node", 1, "errors")  # goes with the run that is undone
        world_node = give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=world.now)
        assert world_node is not None
        return change_task(tx, task, TaskHappened.REQUEUED, world.now)

    before = len(world.events("node", 1))
    assert world.run(unit).state == "active"
    assert len(seen) == 2
    assert len(world.events("node", 1)) == before + 2
    assert (world.task("a").max_retries, world.node(1).slots_used) == (7, 0)


def test_a_unit_that_loses_every_race_is_told_so_in_the_end(world: World) -> None:
    world.job("job")
    world.add("a")
    stale = world.task("a")
    world.update("a", maxTaskRetryCount=7)
    tries: list[str] = []

    def late(tx: Tx) -> None:
        tries.append("late")
        task_rows.move(tx, stale, max_retries=1)

    def illegal(tx: Tx) -> None:
        tries.append("illegal")
        change_task(tx, world_task(tx), TaskHappened.ENDED, world.now)

    def world_task(tx: Tx) -> TaskRow:
        task = task_rows.get(tx, stale.pk)
        assert task is not None
        return task

    with pytest.raises(Conflict):
        world.run(late)
    with pytest.raises(IllegalChange):
        world.run(illegal)
    assert [tries.count(name) for name in ("late", "illegal")] == [5, 5]
    assert world.task("a").max_retries == 7


# the fence of the loops


def leases(world: World) -> tuple[Lease, Lease]:
    def of(holder: str) -> Lease:
        return Lease(world.db, holder, moment=lambda tx: world.clock.now())

    return of("a"), of("b")


def test_a_server_that_was_paused_changes_nothing_when_it_wakes(world: World) -> None:
    paused, other = leases(world)
    world.job("job", constraints={"maxWallClockTime": "PT1M"})

    async def story() -> None:
        await paused.renew()
        world.advance(61)
        await other.renew()
        assert (paused.held, other.held) == (True, True), "so it still believes"
        await paused.only(world.upkeep_job.run_once)()
        assert world.job_row("job").state == "active"  # type: ignore[union-attr]
        assert not paused.held
        await paused.renew()
        assert not paused.held
        await other.only(world.upkeep_job.run_once)()

    asyncio.run(story())
    assert world.job_row("job").state == "completed"  # type: ignore[union-attr]


def test_a_server_that_was_paused_makes_no_job_of_a_schedule_and_none_is_lost(world: World) -> None:
    paused, other = leases(world)
    world.plan()
    world.upkeep()
    world.plans()

    async def story() -> None:
        for number in range(2, 12):
            await paused.renew()
            world.advance(3600)
            await other.renew()
            await paused.only(world.schedules_job.run_once)()
            assert world.plan_row().jobs == number - 1, "it was not its turn"
            await other.only(world.schedules_job.run_once)()
            await other.only(world.upkeep_job.run_once)()
            await other.only(world.schedules_job.run_once)()
            row = world.plan_row()
            assert (row.jobs, row.due) == (number, START + number * 3_600_000_000)
            await other.release()

    asyncio.run(story())
    assert [name for name, _ in world.jobs_of()] == [f"plan:job-{n}" for n in range(1, 12)]


def test_a_round_that_is_paused_in_its_middle_ends_there_and_so_does_what_it_left_running(world: World) -> None:
    paused, other = leases(world)
    done: list[str] = []
    results: list[BaseException | None] = []

    async def write(name: str) -> None:
        await world.db.run(lambda tx: done.append(name))

    async def story() -> None:
        go = asyncio.Event()

        async def errand() -> None:
            await go.wait()
            await write("errand")

        tasks: list[asyncio.Task[None]] = []

        async def round_() -> None:
            await write("before")
            tasks.append(asyncio.create_task(errand()))
            world.advance(LEASE_S + 1)
            await asyncio.create_task(other.renew())
            await write("after")

        await paused.renew()
        await paused.only(round_)()
        world.advance(LEASE_S + 1)
        await paused.renew()
        assert paused.held, "it has the lease again, under another fence"
        go.set()
        results.extend(await asyncio.gather(*tasks, return_exceptions=True))
        await paused.only(lambda: write("again"))()
        await write("outside")

    asyncio.run(story())
    assert done == ["before", "again", "outside"]
    assert [type(result) for result in results] == [LeaseLost]


def test_a_lease_that_nobody_took_meanwhile_goes_on(world: World) -> None:
    lease, _ = leases(world)

    async def story() -> None:
        await lease.renew()
        world.clock.advance(100 * SECOND_US)
        await lease.only(world.capacity_job.run_once)()
        assert lease.held
        await lease.renew()
        await lease.release()
        _, other = leases(world)
        await other.renew()
        assert other.held

    asyncio.run(story())


class Unlucky(Database):
    """Every unit loses its first race, at its very end."""

    def submit(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        lost: list[int] = []

        def loses_once(tx: Tx, *args: Any, **kwargs: Any) -> Any:
            result = unit(tx, *args, **kwargs)
            tx.flush()
            if not lost:
                lost.append(1)
                raise Conflict("somebody was faster")
            return result

        return super().submit(loses_once, *args, **kwargs)


def story(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """What a client could see in the end of a life in which most things happen."""
    world.pool("pool", 2, taskSlotsPerNode=2, startTask={"commandLine": "true"})
    world.scaled_pool("$TargetDedicatedNodes = 1;", "scaled")
    world.job("plain", usesTaskDependencies=True, constraints={"maxTaskRetryCount": 1}, onAllTasksComplete="noaction")
    world.job(
        "managed",
        jobManagerTask={"id": "boss", "commandLine": "true"},
        jobPreparationTask={"commandLine": "true"},
        jobReleaseTask={"commandLine": "true"},
    )
    world.add("t", "fails", {"id": "late", "dependsOn": {"taskIds": ["t"]}}, job_id="plain")
    world.add("gone", job_id="plain")
    world.delete("gone", "plain")
    world.finish()
    world.reactivate("fails", "plain")
    world.patch("plain", priority=3)
    world.disable(job_id="plain")
    world.finish()
    world.enable("plain")
    world.finish()
    world.end_job("plain")
    world.resize(1)
    world.finish()
    world.check()
    return world.summary()


@pytest.mark.sqlite  # where an undone row takes no key, so that both lives have the same
def test_every_unit_may_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a unit was given it leaves as it was: the second run does the same as the first would have done."""
    lucky = World()
    expected = story(lucky)
    lucky.close()
    monkeypatch.setattr("engine_world.Database", Unlucky)
    unlucky = World()
    assert isinstance(unlucky.db, Unlucky)
    assert story(unlucky) == expected
    unlucky.close()
