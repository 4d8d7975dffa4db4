"""Group commit: many units in one transaction, each for itself."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import NOW, add_job, add_tasks, numbers

import databases
from batchyard.drivers.postgres import connect
from batchyard.drivers.postgres_words import locate
from batchyard.model.errors import let_go
from batchyard.store import jobs, leases, tasks
from batchyard.store.db import MEMORY, Database, StoreUnavailable
from batchyard.store.reader import Reader, Statement
from batchyard.store.tx import Conflict, Tx

SECONDS = 30


class Broken(Exception):
    """What a unit raises."""


def broken(tx: Tx, job_id: str) -> None:
    pk = add_job(tx, job_id)
    add_tasks(tx, pk, "a")
    tx.wake("broken")
    raise Broken


@contextmanager
def held(db: Database) -> Any:
    """The writer stands still inside, so that what is submitted waits for one commit."""
    entered, go = threading.Event(), threading.Event()

    def stand(tx: Tx) -> None:
        entered.set()
        assert go.wait(SECONDS)

    standing = db.submit(stand)
    assert entered.wait(SECONDS)
    try:
        yield
    finally:
        go.set()
        standing.result(SECONDS)


def other_connection(path: Path) -> Any:
    """A connection of somebody else's to the store of a test."""
    if databases.on_postgres():
        return connect(locate(str(databases.place(path))))
    return sqlite3.connect(path)


def statements(db: Database) -> list[str]:
    """What the writer's connection runs from now on."""
    seen: list[str] = []
    db.call(lambda tx: tx._connection.set_trace_callback(seen.append))
    return seen


def result(future: Future[Any]) -> Any:
    return future.result(SECONDS)


def job_ids(db: Database) -> list[str]:
    return db.call(lambda tx: [job.id for job in jobs.page(tx, 0, 1000)])


@pytest.mark.sqlite  # its statements are traced
def test_what_waits_goes_into_one_commit(db: Database) -> None:
    seen = statements(db)
    with held(db):
        seen.clear()
        futures = [db.submit(add_job, f"job-{n}") for n in range(300)]
    keys = [result(future) for future in futures]
    assert len(set(keys)) == 300
    assert seen.count("COMMIT") == 2, "that of the unit that stood, and one for all others"


@pytest.mark.sqlite  # its statements are traced
def test_a_batch_is_bounded(db: Database) -> None:
    seen = statements(db)
    with held(db):
        futures = [db.submit(lambda tx: None) for _ in range(1100)]
    for future in futures:
        result(future)
    assert seen.count("BEGIN IMMEDIATE") >= 4


def test_a_unit_that_raises_is_undone_alone(db: Database) -> None:
    woken: list[str] = []
    db.on_wake = woken.extend
    with held(db):
        before, bad, after = db.submit(add_job, "before"), db.submit(broken, "bad"), db.submit(add_job, "after")
        taken = db.submit(add_job, "BEFORE")
    assert result(before) < result(after)
    with pytest.raises(Broken):
        result(bad)
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        result(taken)
    assert job_ids(db) == ["before", "after"]
    assert db.call(numbers, "SELECT count(*) FROM task") == db.call(numbers, "SELECT count(*) FROM event") == [0]
    assert "broken" not in woken


def lose_the_transaction(tx: Tx, job_id: str) -> None:
    add_job(tx, job_id)
    tx._connection.execute("ROLLBACK")


def no_such_table(tx: Tx) -> None:
    add_job(tx, "undone")
    tx.first(Statement("SELECT 1 FROM nowhere", int))


def test_a_unit_that_breaks_the_transaction_fails_alone(db: Database) -> None:
    before = db.failures
    with held(db):
        good = [db.submit(add_job, f"job-{n}") for n in range(100)]
        bad = [db.submit(lose_the_transaction, f"bad-{n}") for n in range(3)]
        good += [db.submit(add_job, f"job-{n}") for n in range(100, 200)]
        own = None if databases.on_postgres() else db.submit(no_such_table)
    for future in bad:
        with pytest.raises(StoreUnavailable):
            result(future)
    assert db.failures == before + 3
    with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedTable), match="nowhere"):
        result(own or db.submit(no_such_table))  # in PostgreSQL it would be a fourth of its kind in one commit
    assert len({result(future) for future in good}) == 200
    assert job_ids(db) == [f"job-{n}" for n in range(200)]


@pytest.mark.sqlite  # its statements are traced
def test_when_many_units_break_the_transaction_it_is_not_theirs_to_mend_and_all_fail_at_once(db: Database) -> None:
    seen = statements(db)
    with held(db):
        seen.clear()
        bad = [db.submit(lose_the_transaction, f"bad-{n}") for n in range(50)]
        good = db.submit(add_job, "good")
    for future in (*bad, good):
        with pytest.raises(StoreUnavailable):
            result(future)
    assert seen.count("BEGIN IMMEDIATE") <= 5
    assert result(db.submit(add_job, "later")) == 1


def test_a_unit_that_is_run_again_does_not_see_what_it_did_before(db: Database) -> None:
    """The second add was refused for one that was undone with the first run."""
    lost: list[int] = []

    def fails_once(tx: Tx) -> int:
        pk = add_job(tx, "job")
        if not lost:
            lost.append(pk)
            raise Conflict
        return pk

    with held(db):
        first, second = db.submit(fails_once), db.submit(add_job, "other")
    assert len({result(first), result(second)}) == 2
    assert sorted(job_ids(db)) == ["job", "other"]


def test_closing_finishes_what_is_run_again(tmp_path: Path) -> None:
    db = Database(tmp_path / "batchyard.db")
    tries: list[int] = []

    def unit(tx: Tx) -> int:
        tries.append(1)
        if len(tries) < 4:
            raise Conflict
        return add_job(tx, "job")

    with held(db):
        waiting = db.submit(unit)
        closing = threading.Thread(target=db.close)
        closing.start()
    assert result(waiting) == 1
    closing.join(SECONDS)


def test_a_mark_is_undone_without_its_unit(memory: Database) -> None:
    def unit(tx: Tx) -> None:
        add_job(tx, "kept")
        tx.mark("here")
        add_job(tx, "undone")
        tx.back_to("here")
        add_job(tx, "kept too")

    memory.call(unit)
    assert job_ids(memory) == ["kept", "kept too"]


def test_nobody_hears_before_the_commit(db: Database, tmp_path: Path) -> None:
    seen: list[tuple[int]] = []

    def look(topics: Iterable[str]) -> None:
        with closing(other_connection(tmp_path / "batchyard.db")) as other:
            seen.append(other.execute("SELECT count(*) FROM job").fetchone())

    def unit(tx: Tx) -> None:
        add_job(tx, "job")
        tx.wake("somebody")

    db.on_wake = look
    db.call(unit)
    assert seen == [(1,)]


def test_lost_wake_ups_stop_nothing(db: Database) -> None:
    def fail(topics: Iterable[str]) -> None:
        raise RuntimeError("the event loop is closed")

    db.on_wake = fail
    future = db.submit(lambda tx: tx.wake("somebody"))
    result(future)
    assert result(db.submit(add_job, "job")) == 1


async def test_who_gives_up_waiting_stops_nothing(db: Database) -> None:
    with held(db):
        given_up = asyncio.ensure_future(db.run(add_job, "given up"))
        await asyncio.sleep(0)
        given_up.cancel()
        kept = db.submit(add_job, "kept")
        with pytest.raises(asyncio.CancelledError):
            await given_up
    assert result(kept) == 1
    assert job_ids(db) == ["kept"], "what was given up before its turn is not done"


async def test_giving_up_in_the_middle_of_the_commit_stops_nothing(db: Database) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        add_job(tx, "slow")
        entered.set()
        assert go.wait(SECONDS)

    waiting = asyncio.ensure_future(db.run(slow))
    await asyncio.to_thread(entered.wait, SECONDS)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    await asyncio.wait_for(db.run(add_job, "next"), SECONDS)
    assert job_ids(db) == ["slow", "next"]


def test_closing_finishes_what_waits_and_refuses_the_rest(tmp_path: Path) -> None:
    db = Database(tmp_path / "batchyard.db")
    with held(db):
        waiting = db.submit(add_job, "job")
        closing = threading.Thread(target=db.close)
        closing.start()
    assert result(waiting) == 1
    closing.join(SECONDS)
    with pytest.raises(StoreUnavailable):
        db.submit(add_job, "late")


# guards, counters, keys, leases


def test_a_guarded_change_meets_the_version_it_saw_or_conflicts(memory: Database) -> None:
    job = memory.call(lambda tx: jobs.get(tx, add_job(tx, "job")))
    memory.call(lambda tx: jobs.move(tx, job, priority=5))
    fresh = memory.call(lambda tx: jobs.get(tx, job.pk))
    assert (fresh.priority, fresh.version) == (5, job.version + 1)

    def stale(tx: Tx) -> None:
        add_job(tx, "neighbour")
        jobs.move(tx, job, priority=6)

    with pytest.raises(Conflict):
        memory.call(stale)
    assert memory.call(lambda tx: jobs.get(tx, job.pk)).priority == 5
    assert job_ids(memory) == ["job"]


def test_a_task_starts_once(memory: Database) -> None:
    job = memory.call(add_job, "job")
    pk = memory.call(add_tasks, job, "a")
    row = {"pk": pk, "node_pk": 1, "state": "running", "now": NOW, "held": 1, "started": NOW}
    memory.call(tasks.start, [row])
    with pytest.raises(Conflict, match="no longer ready"):
        memory.call(tasks.start, [row])
    assert memory.call(numbers, "SELECT run FROM task") == [1]


def reserve(tx: Tx, n: int) -> int:
    return tx.reserve("task", n)


def test_a_key_is_never_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    seen: list[int] = []
    for life in range(3):
        db = Database(path)
        for n in (1, 5, 100):
            first = db.call(reserve, n)
            seen.extend(range(first, first + n))
        with pytest.raises(Broken):
            db.call(broken, f"job-{life}")
        pk = db.call(add_job, f"job-{life}")
        db.call(jobs.delete, pk)
        assert pk == life + 1, "not even the key of a job that is gone"
        db.close()
    assert len(seen) == len(set(seen))
    assert sorted(seen) == seen


def test_leases(memory: Database) -> None:
    second = 1_000_000

    def acquire(holder: str, at: int, fence: int = 0) -> int | None:
        return memory.call(leases.acquire, "loops", holder, at, 10, fence)

    def holds(fence: int) -> bool:
        try:
            memory.call(leases.check, "loops", fence)
        except leases.LeaseLost:
            return False
        return True

    assert acquire("a", NOW) == 1
    assert acquire("b", NOW + 9 * second) is None
    assert acquire("a", NOW + 9 * second, 1) == 1, "renewed"
    assert acquire("b", NOW + 18 * second) is None
    assert holds(1)
    assert acquire("b", NOW + 19 * second) == 2, "it ran out"
    assert (holds(1), holds(2)) == (False, True)
    assert acquire("a", NOW + 20 * second, 1) is None
    memory.call(leases.release, "loops", "a", 1)
    assert acquire("a", NOW + 20 * second, 1) is None, "who does not hold it cannot release it"
    assert acquire("b", NOW + 20 * second) == 3, "started anew it goes on at once"
    assert acquire("b", NOW + 21 * second, 2) is None, "and what it was before is fenced off"
    memory.call(leases.release, "loops", "b", 2)
    assert acquire("a", NOW + 22 * second, 1) is None
    memory.call(leases.release, "loops", "b", 3)
    assert acquire("a", NOW + 22 * second, 1) == 4, "no fence is given twice"
    assert memory.call(leases.acquire, "other", "c", NOW, 10) == 1


STATES = ("active", "running", "completed")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(("add", "move", "fail")), st.integers(1, 4)), max_size=40))
def test_counters_equal_rows_after_any_units(steps: list[tuple[int, str, int]]) -> None:
    db = Database(MEMORY)
    try:
        keys = [db.call(add_job, f"job-{n}") for n in range(3)]

        def step(tx: Tx, at: int, job: int, what: str, slots: int) -> None:
            if what != "move":
                add_tasks(tx, keys[job], f"task-{at}", slots=slots)
            else:
                rows = tx.all(Statement("SELECT pk, state, slots FROM task WHERE job_pk = :pk", lambda *row: row), pk=keys[job])
                for pk, state, taken in rows[::slots]:
                    new = STATES[(STATES.index(state) + 1) % 3]
                    task = tasks.get(tx, pk)
                    assert task is not None
                    tasks.set_state(tx, task, {"state": new})
                    tx.count(keys[job], **{state: -1, new: 1}, **{f"{state}_slots": -taken, f"{new}_slots": taken})
            if what == "fail":
                raise Broken

        futures = [db.submit(step, at, *one) for at, one in enumerate(steps)]
        for future, (_, what, _) in zip(futures, steps, strict=True):
            assert isinstance(future.exception(SECONDS), Broken) == (what == "fail")
        for pk in keys:
            counts = db.call(jobs.counts, pk)
            for state in STATES:
                sql = "SELECT count(*) FROM task WHERE job_pk = :pk AND state = :state"
                assert db.call(numbers, sql, pk=pk, state=state) == [getattr(counts, state)]
                sums = "SELECT coalesce(sum(slots), 0) FROM task WHERE job_pk = :pk AND state = :state"
                assert db.call(numbers, sums, pk=pk, state=state) == [getattr(counts, f"{state}_slots")]
    finally:
        db.close()


# reading


async def test_readers_see_committed_snapshots_only(db: Database) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        add_job(tx, "uncommitted")
        entered.set()
        assert go.wait(SECONDS)

    writing = db.submit(slow)
    await asyncio.to_thread(entered.wait, SECONDS)
    assert await db.read(jobs.page, 0, 10) == []
    go.set()
    await asyncio.wrap_future(writing)
    assert len(await db.read(jobs.page, 0, 10)) == 1


async def test_a_reader_keeps_its_snapshot_while_others_write(db: Database) -> None:
    db.call(add_job, "first")

    def look_twice(reader: Reader) -> tuple[int, int]:
        before = len(jobs.page(reader, 0, 10))
        db.call(add_job, "second")
        return before, len(jobs.page(reader, 0, 10))

    assert await db.read(look_twice) == (1, 1)
    assert len(await db.read(jobs.page, 0, 10)) == 2


async def test_a_query_that_fails_hurts_no_later_one(db: Database) -> None:
    def bad(reader: Reader) -> None:
        raise Broken

    for _ in range(5):
        with pytest.raises(Broken):
            await db.read(bad)
    assert await db.read(jobs.page, 0, 10) == []


async def test_an_error_that_is_let_go_leaves_nothing_that_waits_for_a_collection(tmp_path: Path) -> None:
    db = Database(tmp_path / "x.db")
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await db.run(broken, "j")
        except Broken as error:
            let_go(error)
        await db.run(lambda tx: None)  # the writer keeps its last unit until the next one comes
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, Tx | Broken)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        db.close()
