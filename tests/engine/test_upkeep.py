"""What time brings: silence and old events. The clock is moved, nobody waits."""

from __future__ import annotations

import pytest
from engine_world import SILENCE_US, START, Agent, World

from batchyard.engine.pools.autoscale_runs import put_sample
from batchyard.engine.upkeep.upkeep import EVENTS_KEPT_US, TASKS_PER_UNIT, Upkeep, advance_jobs, end_old_tasks, give_up
from batchyard.model.autoscale import Sample
from batchyard.store import nodes as node_rows
from batchyard.store.db import StoreUnavailable
from batchyard.store.reader import Statement
from batchyard.store.tx import Tx

SILENCE_S = SILENCE_US / 1e6


def test_a_silent_node_loses_its_tasks_and_comes_back_when_it_speaks(world: World) -> None:
    quiet, talker = world.working_pool(nodes=2)
    world.job()
    world.add("a", "b")
    world.schedule()
    mine = next(name for name in "ab" if world.task(name).node_pk == quiet.node_pk)
    world.advance(SILENCE_S)
    talker.sync()
    world.upkeep()
    assert world.node(quiet.node_pk).state == "running", "not yet"
    world.advance(0.001)
    world.upkeep()
    assert (world.node(quiet.node_pk).state, world.state(mine), world.task(mine).losses) == ("unknown", "active", 1)
    assert world.node(talker.node_pk).state == "running"
    world.schedule()
    assert world.state(mine) == "active", "an unknown node gets nothing"
    assert quiet.sync() is None
    quiet.join()
    assert world.node(quiet.node_pk).state == "idle"
    assert world.schedule() == 1


def test_a_node_that_spoke_while_its_end_waited_for_its_turn_is_not_silent(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    world.advance(SILENCE_S + 1)
    before = world.now - SILENCE_US
    assert world.run(node_rows.silent, before) == [agent.node_pk]
    agent.sync()
    assert not world.run(give_up, agent.node_pk, before, world.now)
    assert (world.node(agent.node_pk).state, world.state("a")) == ("running", "running")
    world.advance(SILENCE_S + 1)
    assert world.run(give_up, agent.node_pk, world.now - SILENCE_US, world.now)
    assert world.state("a") == "active"


def test_a_job_that_went_before_its_old_tasks_were_ended_is_no_error(world: World) -> None:
    assert world.run(end_old_tasks, 4711, world.now) == 0


def test_of_a_pool_that_went_meanwhile_no_sample_is_kept(world: World) -> None:
    world.run(put_sample, 4711, Sample(at=world.now))
    assert world.run(lambda reader: reader.all(Statement("SELECT count(*) FROM autoscale_sample", int))) == [0]


def test_the_servers_own_absence_is_no_silence_of_its_nodes(lasting: World) -> None:
    [agent] = lasting.working_pool()
    lasting.advance(10 * SILENCE_S)
    lasting.reopen()
    lasting.upkeep()
    assert lasting.node(agent.node_pk).state == "idle"
    lasting.advance(SILENCE_S - 1)
    lasting.upkeep()
    assert lasting.node(agent.node_pk).state == "idle"
    lasting.advance(2)
    lasting.upkeep()
    assert lasting.node(agent.node_pk).state == "unknown"
    agent.session = lasting.node(agent.node_pk).session
    assert agent.join().session > 1


def test_what_one_unit_touches_is_bounded_however_many_jobs_end_at_once(world: World) -> None:
    jobs = [f"job-{n:02}" for n in range(12)]
    for job_id in jobs:
        world.job(job_id)
        world.add(*(f"t{n}" for n in range(130)), job_id=job_id)
        world.delete_job(job_id)

    def left() -> int:
        return int(world.rows("SELECT count(*) FROM task")[0][0])

    def one_pass() -> list[int]:
        units: list[int] = []
        behind: int | None = 0
        while behind is not None:
            before = left()
            touched, behind = world.run(advance_jobs, world.now, behind)
            assert before - left() == touched
            units.append(touched)
        return units

    assert one_pass() == [TASKS_PER_UNIT, TASKS_PER_UNIT, TASKS_PER_UNIT, 0], "every job has its turn"
    assert one_pass() == [3 * 20], "what was left of those that the bound cut off"
    assert one_pass() == [0]
    assert world.rows("SELECT id FROM job") == []


def test_a_large_job_does_not_hold_up_the_jobs_behind_it(world: World) -> None:
    world.job("large")
    world.add(*(f"t{n}" for n in range(TASKS_PER_UNIT + 100)), job_id="large")
    world.job("small")
    for job_id in ("large", "small"):
        world.delete_job(job_id)
    touched, behind = world.run(advance_jobs, world.now)
    assert (touched, behind) == (TASKS_PER_UNIT, world.job_row("large").pk)  # type: ignore[union-attr]
    assert world.run(advance_jobs, world.now, behind) == (0, None)
    assert world.rows("SELECT id FROM job") == [("large",)]
    world.upkeep()
    assert world.rows("SELECT id FROM job") == []


def fill_the_disk(tx: Tx) -> None:
    tx.first(Statement("PRAGMA max_page_count = 1", int))  # as many as there are by now
    tx.insert("autoscale_run", pool_pk=1, body=bytes(1 << 20))


@pytest.mark.sqlite  # whose file is kept from growing
def test_time_in_which_nothing_could_be_written_down_is_no_silence(world: World) -> None:
    """On a full disk agents speak and nobody can note it: their tasks must not run twice for that."""
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    for _ in range(30):
        world.advance(5)
        with pytest.raises(StoreUnavailable):
            world.run(fill_the_disk)
        world.run(lambda tx: tx.first(Statement("PRAGMA max_page_count = 4294967294", int)))
        world.upkeep()
    assert (world.node(agent.node_pk).state, world.state("a")) == ("running", "running")
    for _ in range(5):
        world.advance(5)
        world.upkeep()
    assert (world.node(agent.node_pk).state, world.state("a")) == ("running", "running")
    world.advance(6)
    world.upkeep()
    assert world.node(agent.node_pk).state == "unknown", "from then on it could have been noted"


def test_a_machine_that_slept_gives_its_nodes_time_to_speak(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    world.upkeep()
    world.advance(20 * SILENCE_S)
    world.upkeep()
    assert (world.node(agent.node_pk).state, world.state("a")) == ("running", "running")
    for _ in range(8):
        world.advance(5)
        world.upkeep()
    assert (world.node(agent.node_pk).state, world.state("a")) == ("unknown", "active")


def test_a_node_that_never_spoke_is_not_silent(world: World) -> None:
    world.pool("pool", 1)
    world.capacity(2)
    world.advance(10 * SILENCE_S)
    world.upkeep()
    assert [node.state for node in world.nodes()] == ["starting"]


def test_old_events_are_forgotten_in_bounded_steps(world: World) -> None:
    world.job("old")
    for at in range(0, TASKS_PER_UNIT + 100, 100):
        for n in range(100):
            world.add(f"t{at + n}", job_id="old")
    world.advance(EVENTS_KEPT_US / 1e6)
    world.upkeep()
    ((kept,),) = world.rows("SELECT count(*) FROM event")
    assert kept == TASKS_PER_UNIT + 101
    world.job("new")
    world.advance(1)
    world.upkeep()
    assert world.rows("SELECT what, happened FROM event") == [("job", "added")]
    world.delete_job("old")
    world.upkeep()
    assert world.job_row("old") is None


def test_upkeep_of_an_empty_store_does_nothing(world: World) -> None:
    world.upkeep()
    assert world.rows("SELECT count(*) FROM event") == [(0,)]
    assert isinstance(world.upkeep_job, Upkeep)
    assert world.now == START
    assert Agent(world, 1).session == 0
