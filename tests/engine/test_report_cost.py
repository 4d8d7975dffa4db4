"""What a report costs, counted in statements and not in time; and that a round which reads few jobs at once places as one that seeks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from engine_world import EXIT_1, SETTING, Agent, World, ended

import databases
from batchyard.engine.nodes import nodes
from batchyard.engine.scheduling import demand, scheduler
from batchyard.engine.scheduling.demand import Demand
from batchyard.engine.scheduling.queues import Queues
from batchyard.model.sync import Sync
from batchyard.store import pools as pool_rows
from batchyard.store.jobs import ABOVE_ALL, BARRED
from batchyard.store.reader import Change, Statement
from batchyard.store.tasks import ALL
from batchyard.store.tx import Tx

SLOTS = 16
_NOTE = Change(
    "UPDATE job_counts SET smallest = :smallest, running = :running, restarted = :restarted, looked = :looked WHERE job_pk = :pk"
)


def statements(world: World, unit: Callable[[Tx], object]) -> list[str]:
    """Statements that a unit runs, one for each row of parameters, without what begins and ends it."""
    if databases.on_postgres():
        pytest.skip("SQLite counts what it does")
    seen: list[str] = []

    def counted(tx: Tx) -> None:
        tx._connection.set_trace_callback(seen.append)
        try:
            unit(tx)
            tx.flush()
        finally:
            tx._connection.set_trace_callback(None)

    world.run(counted)
    return seen


def report(world: World, agent: Agent, n: int) -> list[str]:
    """What it takes that `n` tasks of a node end and others start in their place."""
    agent.sync()
    agent.number += 1
    said = Sync(session=agent.session, number=agent.number, has=[*agent.has], ended=[ended(attempt) for attempt in agent.has[:n]])
    return statements(world, lambda tx: nodes.hear(tx, agent.node_pk, said, SETTING, world.now, refill=True))


def busy(world: World, **job: object) -> Agent:
    [agent] = world.working_pool(slots=SLOTS)
    world.job("job", **job)
    world.add(*(f"t{number}" for number in range(4 * SLOTS)))
    world.schedule()
    return agent


def test_a_report_and_its_refill_ask_little_of_the_store(world: World) -> None:
    agent = busy(world)
    one = report(world, agent, 1)
    assert len(one) <= 28, "\n".join(one)
    assert world.rows("SELECT count(*) FROM task WHERE state = 'running'") == [(SLOTS,)]


def test_on_postgres_units_wait_a_few_times_only(world: World) -> None:
    """What does not depend on an answer is sent on before it is there; the last of these is for the commit."""
    if not databases.on_postgres():
        pytest.skip("SQLite has no ways back and forth")
    agent = busy(world)
    agent.sync()

    def report_one() -> None:
        agent.number += 1
        said = Sync(session=agent.session, number=agent.number, has=[*agent.has], ended=[ended(agent.has[0])])
        world.run(nodes.hear, agent.node_pk, said, SETTING, world.now, refill=True)

    units: list[tuple[int, Callable[[], object]]] = [
        (2, lambda: world.run(lambda tx: None)),
        (3, lambda: world.patch(priority=1)),
        (6, lambda: world.add(*(f"more{number}" for number in range(100)))),
        (14, report_one),
    ]
    connection = world.db.driver.journal.connection  # type: ignore[attr-defined]
    for most, unit in units:
        before = connection.round_trips
        unit()
        assert connection.round_trips - before <= most


def jobs(world: World, chosen: random.Random) -> None:
    """Jobs of every kind that placement tells apart."""
    for number in range(chosen.randint(1, 6)):
        more = {"jobManagerTask": {"id": "manager", "commandLine": "true"}} if chosen.random() < 0.3 else {}
        limit = {"maxParallelTasks": chosen.randint(1, 3)} if chosen.random() < 0.4 else {}
        world.job(f"j{number}", priority=chosen.choice([0, 0, 5]), **more, **limit)
        names = [{"id": f"t{nth}", "requiredSlots": chosen.choice([1, 1, 2, 4])} for nth in range(chosen.randint(0, 6))]
        world.add(*names, job_id=f"j{number}")


@pytest.mark.parametrize("seed", range(12))
def test_few_jobs_are_placed_as_many_are(world: World, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(seed)
    agents = world.working_pool(nodes=2, slots=4)
    jobs(world, chosen)
    for turn in range(8):
        world.advance(4)
        placed = []
        for few in (8, 0):
            monkeypatch.setattr(demand, "FEW", few)

            def look(tx: Tx) -> tuple[object, ...]:
                pool = pool_rows.find_room(tx, "pool")
                assert pool is not None
                queues = Queues(tx, pool, world.now)
                starts = [(task.key, node, held) for task, node, held in queues.starts()]
                return starts, queues.kept(), queues.lost(), queues.smallest(), queues.not_restarted, queues.unseen

            placed.append(world.run(look))
        assert placed[0] == placed[1], f"turn {turn}"
        monkeypatch.undo()
        world.run(scheduler.run_once, "pool", world.now)
        agent = chosen.choice(agents)
        agent.sync()
        for attempt in [*agent.has]:
            if chosen.random() < 0.5:
                agent.end(attempt, **(EXIT_1 if chosen.random() < 0.2 else {}))
    world.check()


def answers(asked: Demand, n: int) -> list[object]:
    """What a round may hear, each question in some variants."""
    said: list[object] = [asked.restarted(), asked.barred(n), asked.barred(1)]
    said += [asked.sizes(low, high) for low in (BARRED, 0, 1) for high in (0, 2, ALL)]
    said += [asked.highest(below, within) for below in (ABOVE_ALL, 5, 0) for within in ((0, 1), (1, 1), (0, ALL), (BARRED, ALL))]
    for priority in (0, 5):
        for size in range(3):
            for oldest_first in (False, True):
                behind, some = None, asked.in_turn(priority, size, None, 2, oldest_first=oldest_first)
                while some:
                    said += some
                    behind = some[-1]
                    some = asked.in_turn(priority, size, behind, 2, oldest_first=oldest_first)
    return said


@pytest.mark.parametrize("seed", range(12))
def test_few_jobs_that_were_read_at_once_answer_as_the_store_does(world: World, seed: int) -> None:
    chosen = random.Random(seed)
    world.pool()
    for number in range(demand.FEW):
        world.job(f"j{number}", priority=chosen.choice([0, 5]), maxParallelTasks=chosen.choice([-1, 2]))
        world.add("a", "b", job_id=f"j{number}")

    def compare(tx: Tx) -> None:
        tx.mark("before")
        for pk in range(1, demand.FEW + 1):
            noted = {"smallest": chosen.randint(BARRED, 2), "running": chosen.randint(0, 2), "restarted": chosen.randint(0, 1)}
            tx.change(_NOTE, pk=pk, looked=chosen.randint(0, 3), **noted)
        found = demand.demand(tx, "pool", demand.asked(tx, "pool"))
        assert found.few == may_start(tx) > 0
        assert answers(found, 3) == answers(Demand(tx, "pool"), 3)
        tx.back_to("before")

    world.run(compare)


def may_start(tx: Tx) -> int:
    """Jobs of which a task may start."""
    return tx.first(Statement("SELECT count(*) FROM job_counts WHERE max_parallel < 0 OR running < max_parallel", int)) or 0


def test_what_is_read_for_a_report_does_not_grow_with_its_ends(world: World) -> None:
    agent = busy(world, usesTaskDependencies=False)
    one, many = (sum(each.startswith(("SELECT", "WITH")) for each in report(world, agent, n)) for n in (1, SLOTS - 1))
    assert many <= one, f"{one} questions for one end, {many} for {SLOTS - 1}"
    assert world.rows("SELECT count(*) FROM task WHERE state = 'completed'") == [(SLOTS,)]
    world.check()


class TestManyEndsInOneReport:
    """They mean what they would mean one after the other."""

    def started(self, world: World, *names: str, **job: object) -> Agent:
        [agent] = world.working_pool(slots=SLOTS)
        world.job("job", **job)
        world.add(*names)
        world.schedule()
        agent.sync()
        return agent

    @pytest.mark.parametrize("alone", [True, False])
    def test_two_tasks_of_one_number_let_go_who_waits_for_a_range(self, world: World, alone: bool) -> None:
        agent = self.started(world, "1", "01", *(() if alone else ("2",)))
        world.add({"id": "after", "dependsOn": {"taskIdRanges": [{"start": 1, "end": 200}]}})
        world.add(*(str(number) for number in range(2 if alone else 3, 201)))
        agent.end(*agent.has)
        while not world.free("after")[0]:
            world.schedule()
            assert agent.sync_all()
            agent.end(*agent.has)
        world.check()

    def test_an_end_that_is_told_twice_counts_once(self, world: World) -> None:
        agent = self.started(world, "a", "b")
        first, second = agent.has
        agent.end(first, second, first)
        assert world.states("a", "b") == ["completed", "completed"]
        assert world.counts().succeeded == 2
        world.check()

    def test_a_job_that_ends_with_its_last_task(self, world: World) -> None:
        agent = self.started(world, "1", "01", "b", "f")
        world.patch(onAllTasksComplete="terminatejob")
        attempts = {name: world.attempt(name) for name in ("1", "01", "b", "f")}
        agent.sync(ended(attempts["f"], **EXIT_1), *(ended(attempts[name]) for name in ("b", "1", "01")))
        assert world.job_state() == "terminating"
        assert world.states("1", "01", "b", "f") == ["completed"] * 4
        world.check()

    def test_a_retry_among_completions(self, world: World) -> None:
        agent = self.started(world, "a", "b", "c", constraints={"maxTaskRetryCount": 1})
        attempts = [world.attempt(name) for name in ("a", "b", "c")]
        agent.sync(ended(attempts[0]), ended(attempts[1], **EXIT_1), ended(attempts[2]))
        assert world.states("a", "b", "c") == ["completed", "active", "completed"]
        assert (world.task("b").retries, world.node(agent.node_pk).slots_used) == (1, 0)
        world.check()
