"""What only PostgreSQL does: lost connections, servers that share a store, its own words."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import add_job, add_tasks, numbers

import postgres
from batchyard import drivers
from batchyard.drivers.postgres import OutcomeUnknown, PostgresDriver, connect
from batchyard.drivers.postgres_words import locate, migration, translated
from batchyard.store import jobs, nodes
from batchyard.store.db import Database, StoreUnavailable, open_store
from batchyard.store.migrate import WORLD, NewerSchema
from batchyard.store.reader import Reader
from batchyard.store.tx import Conflict, Tx

SECONDS = 60


@pytest.fixture
def location() -> Iterator[str]:
    made = postgres.fresh()
    yield made
    drivers.drop(made)


@pytest.fixture
def one(location: str) -> Iterator[Database]:
    db = open_store(location)
    yield db
    db.close()


@pytest.fixture
def other(one: Database, location: str) -> Iterator[Database]:
    """A second server on the same store."""
    db = open_store(location)
    yield db
    db.close()


def driver(db: Database) -> PostgresDriver:
    assert isinstance(db.driver, PostgresDriver)
    return db.driver


def cut(db: Database, location: str) -> None:
    """The connection that writes is ended from the other side."""
    connection = driver(db).journal.connection
    assert connection is not None
    with closing(connect(locate(location))) as control:
        control.execute("SELECT pg_terminate_backend($1::integer, 10000)", (connection._connection.info.backend_pid,))


# words


@pytest.mark.parametrize(
    ("sql", "said", "names"),
    [
        ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
        ("VALUES (?1, ?2, ?1)", "VALUES ($1, $2, $1)", None),
        ("VALUES (?, '?', ?)", "VALUES ($1, '?', $2)", None),
        ("SELECT ':a' || x::text, :b", "SELECT ':a' || x::text, $1", ("b",)),
        ("SELECT 'it''s :a', 1", "SELECT 'it''s :a', 1", None),
    ],
)
def test_parameters_are_numbered(sql: str, said: str, names: tuple[str, ...] | None) -> None:
    assert translated(sql) == (said, names)


def test_migrations_say_the_same_in_its_words() -> None:
    assert migration("a TEXT NOT NULL, b INTEGER -- INTEGER\n, c ${BYTES}") == 'a TEXT COLLATE "C" NOT NULL, b BIGINT \n, c BYTEA'
    assert migration("DELETE FROM sqlite_sequence -- SQLite\nSELECT 1") == "SELECT 1"
    assert migration("CAST(body AS TEXT) LIKE 'x'") == "convert_from(body, 'UTF8') LIKE 'x'"


def test_what_belongs_to_a_store_is_the_schema_beside_it() -> None:
    base = "postgresql://user@/db?host=%2Ftmp&schema="
    assert locate(drivers.beside(f"{base}world", "blobs")) == locate(f"{base}world_blobs")
    long = [locate(drivers.beside(f"{base}{'a' * 62}{end}", name)).schema for end in "ab" for name in ("blobs", "queues")]
    assert len(set(long)) == 4
    assert all(len(schema) == 63 and schema.startswith("aaaa") for schema in long)


@pytest.mark.parametrize("name", ["", "A", "1a", "pg_a", "a-b", "a" * 64, 'a"b'])
def test_a_schema_of_another_kind_of_name_is_refused(name: str) -> None:
    with pytest.raises(drivers.Unusable, match="small letters"):
        open_store(f"postgresql://host/db?schema={name}")


def test_an_integer_is_as_wide_as_it_is_in_sqlite_and_text_is_ordered_by_code_point(one: Database, location: str) -> None:
    with closing(connect(locate(location))) as control:
        found = control.execute(
            "SELECT data_type, collation_name, count(*) FROM information_schema.columns WHERE table_schema = $1"
            " AND table_name NOT IN ('schema_version', 'commit_mark') GROUP BY 1, 2",
            (locate(location).schema,),
        ).fetchall()
    assert {(kind, collation) for kind, collation, _ in found} == {("bigint", None), ("text", "C"), ("bytea", None)}


def test_what_no_column_holds_is_told_as_sqlite_does(one: Database) -> None:
    with pytest.raises(OverflowError):
        one.call(numbers, "SELECT count(*) FROM job WHERE pk = :pk", pk=2**63)


def test_a_nul_in_a_text_is_no_error(one: Database) -> None:
    pk = one.call(add_job, "job", terminate_reason="a\0b")
    assert one.call(jobs.get, pk).terminate_reason == "a\ufffdb"


# schema


def test_a_newer_schema_is_refused_and_left_as_it_is(location: str) -> None:
    newest = WORLD.migrations()[-1][0]
    open_store(location).close()
    with closing(connect(locate(location))) as control:
        control.execute("UPDATE schema_version SET version = version + 1")
        with pytest.raises(NewerSchema, match=f"schema {newest + 1}, this release knows {newest}"):
            open_store(location)
        assert control.execute("SELECT version FROM schema_version").fetchone() == (newest + 1,)


def test_a_migration_that_fails_leaves_nothing_behind(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [*WORLD.migrations(), (WORLD.migrations()[-1][0] + 1, "CREATE TABLE half (pk ${KEY}); INSERT INTO nowhere VALUES (1);")]
    with monkeypatch.context() as patched:
        patched.setattr("batchyard.drivers.migrations.Chain.migrations", lambda *_: broken)
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            open_store(location)
    db = open_store(location)
    assert db.call(numbers, "SELECT version FROM schema_version") == [WORLD.migrations()[-1][0]]
    with pytest.raises(psycopg.errors.UndefinedTable):
        db.call(numbers, "SELECT pk FROM half")
    db.close()


def test_servers_that_start_at_the_same_time_make_one_schema(location: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        stores = [each.result(SECONDS) for each in [threads.submit(open_store, location) for _ in range(4)]]
    assert [db.call(add_job, f"job-{n}") for n, db in enumerate(stores)] == [1, 2, 3, 4]
    for db in stores:
        db.close()


def test_a_schema_is_a_world_of_its_own(one: Database, location: str) -> None:
    one.call(add_job, "mine")
    second = postgres.fresh()
    db = open_store(second)
    assert db.call(jobs.find, "mine") is None
    assert db.call(add_job, "mine") == 1
    db.close()
    drivers.drop(second)
    assert one.call(jobs.find, "mine") is not None


# several servers


async def test_what_one_server_acknowledged_every_server_reads(one: Database, other: Database) -> None:
    for n in range(30):
        writes, reads = (one, other) if n % 2 else (other, one)
        await writes.run(add_job, f"job-{n}")
        assert len(await reads.read(jobs.page, 0, 100)) == n + 1
        assert reads.call(jobs.find, f"job-{n}") is not None


def test_one_server_writes_at_a_time(one: Database, other: Database) -> None:
    entered, go = threading.Event(), threading.Event()

    def stand(tx: Tx) -> int:
        pk = add_job(tx, "first")
        entered.set()
        assert go.wait(SECONDS)
        return pk

    standing = one.submit(stand)
    assert entered.wait(SECONDS)
    waiting = other.submit(lambda tx: [job.id for job in jobs.page(tx, 0, 10)])
    assert not waiting.done()
    go.set()
    standing.result(SECONDS)
    assert waiting.result(SECONDS) == ["first"], "it began behind the other's commit"


def test_a_commit_wakes_the_other_servers_and_its_own_once(location: str) -> None:
    heard: list[str] = []
    own: list[str] = []
    got = threading.Event()

    def listen(topics: Iterable[str]) -> None:
        heard.extend(topics)
        if "last" in heard:
            got.set()

    one, other = open_store(location, own.extend), open_store(location, listen)
    try:
        listening = driver(other)._listener_ready
        assert listening.wait(SECONDS)
        assert driver(one)._listener_ready.wait(SECONDS)

        def wakes(tx: Tx, *topics: str) -> None:
            for topic in topics:
                tx.wake(topic)

        def undone(tx: Tx) -> None:
            tx.wake("undone")
            raise ValueError("a unit")

        with pytest.raises(ValueError, match="a unit"):
            one.call(undone)
        many = [f"topic {n} " + "x" * 100 for n in range(300)]
        one.call(wakes, *many)
        one.call(wakes, "last")
        assert got.wait(SECONDS)
        assert sorted(heard) == sorted([*many, "last"])
        assert sorted(own) == sorted(heard)
    finally:
        one.close()
        other.close()


SLOTS, MOST = 3, 2
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["start", "end", "raise"])), max_size=30)


@settings(max_examples=25)
@given(STEPS)
def test_no_order_of_two_servers_units_breaks_a_guard(steps: list[tuple[bool, str]]) -> None:
    """What both saw is as old as their last look: slots and counts hold, no update is lost, no version is used twice."""
    place = postgres.fresh()
    servers = open_store(place), open_store(place)
    try:
        job, node = servers[0].call(_job_and_node)
        seen: dict[tuple[int, int], bytes | int] = {}
        running = priority = 0
        futures = []
        for which, what in steps:
            futures.append((what, servers[which].submit({"start": _start, "end": _end, "raise": _raise}[what], job, node)))
        for what, future in futures:
            error = future.exception(SECONDS)
            assert error is None or isinstance(error, Conflict)
            if error is None:
                running += {"start": 1, "end": -1, "raise": 0}[what]
                priority += what == "raise"
                if what == "raise":
                    version, value = future.result()
                    assert seen.setdefault((0, version), value) == value
        row, counts = servers[1].call(lambda tx: (nodes.get(tx, node), jobs.counts(tx, job)))
        assert row is not None
        assert 0 <= running == row.slots_used == row.tasks_running == counts.running <= min(SLOTS, MOST)
        assert servers[0].call(jobs.get, job).priority == priority == len(seen)
    finally:
        for server in servers:
            server.close()
        drivers.drop(place)


def _job_and_node(tx: Tx) -> tuple[int, int]:
    job = add_job(tx, "job", max_parallel=MOST)
    values: dict[str, Any] = {"id": "node", "state": "idle", "scheduling_state": "enabled", "pool_pk": 1, "dedicated": 1}
    return job, nodes.add(tx, **values, slots=SLOTS, state_time=0, allocated=0)


def _start(tx: Tx, job: int, node: int) -> None:
    nodes.occupy(tx, node, slots=1, tasks=1, recent="")
    tx.count(job, running=1)


def _end(tx: Tx, job: int, node: int) -> None:
    nodes.release(tx, node, slots=1, tasks=1, run=1, succeeded=1)
    tx.count(job, running=-1)


def _raise(tx: Tx, job: int, node: int) -> tuple[int, int]:
    seen = jobs.get(tx, job)
    fresh = jobs.move(tx, seen, priority=seen.priority + 1)
    return fresh.version, fresh.priority


# a server that goes


def test_a_connection_that_was_lost_between_commits_is_opened_anew_and_nobody_notices(one: Database, location: str) -> None:
    one.call(add_job, "before")
    cut(one, location)
    assert one.call(add_job, "after") == 2
    assert one.failures == 0


def test_a_connection_that_is_lost_within_a_commit_leaves_nothing_of_it(one: Database, location: str) -> None:
    def lost(tx: Tx) -> None:
        add_job(tx, "lost")
        cut(one, location)
        jobs.page(tx, 0, 1)

    with pytest.raises(StoreUnavailable):
        one.call(lost)
    one.call(add_job, "after")
    assert one.call(lambda tx: [job.id for job in jobs.page(tx, 0, 10)]) == ["after"]


async def test_a_reader_whose_connection_was_lost_goes_on_with_a_new_one(one: Database, location: str) -> None:
    one.call(add_job, "job")

    def lost(reader: Reader) -> int:
        jobs.page(reader, 0, 1)
        with closing(connect(locate(location))) as control:
            pid = reader._connection._connection.info.backend_pid  # type: ignore[attr-defined]
            control.execute("SELECT pg_terminate_backend($1::integer, 10000)", (pid,))
        return len(jobs.page(reader, 0, 1))

    for _ in range(6):
        with pytest.raises(StoreUnavailable):
            await one.read(lost)
    assert len(await one.read(jobs.page, 0, 10)) == 1


class LosesAnswers:
    """A connection whose COMMIT is sent, or is not, and whose answer nobody hears."""

    def __init__(self, real: Any, *, sent: bool) -> None:
        self._real, self._sent = real, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def finish(self, sql: str) -> None:
        if self._sent:
            self._real.finish(sql)
        self._real.close()
        raise psycopg.OperationalError("the connection is lost")


@pytest.mark.parametrize("sent", [True, False])
def test_a_commit_whose_answer_was_lost_is_asked_for(one: Database, sent: bool) -> None:
    journal = driver(one).journal

    def unit(tx: Tx) -> int:
        journal.connection = LosesAnswers(journal.connection, sent=sent)  # type: ignore[assignment]
        return add_job(tx, "job")

    future = one.submit(unit)
    if sent:
        assert future.result(SECONDS) == 1, "it is stored, and nobody is told otherwise"
    else:
        assert isinstance(future.exception(SECONDS), StoreUnavailable)
        assert not isinstance(future.exception(SECONDS).__cause__, OutcomeUnknown)
    assert (one.call(jobs.find, "job") is not None) == sent


def test_a_database_that_is_killed_loses_nothing_that_was_acknowledged() -> None:
    cluster = postgres.Cluster(postgres.room())
    location = f"{cluster.url}&schema=world"
    db = open_store(location)
    try:
        job = db.call(add_job, "job")
        kept: list[int] = []
        unknown: list[int] = []
        number = 0
        for _ in range(3):
            units = []
            for _ in range(400):
                number += 1
                units.append((number, db.submit(add_tasks, job, f"{number}")))
                if len(units) == 200:
                    units[20][1].exception(SECONDS)
                    killing = threading.Thread(target=cluster.kill)
                    killing.start()
            killing.join()
            cluster.start()
            for at, unit in units:
                error = unit.exception(SECONDS)
                assert error is None or isinstance(error, StoreUnavailable), error
                if error is None:
                    kept.append(at)
                elif isinstance(error.__cause__, OutcomeUnknown):
                    unknown.append(at)
            for _ in range(200):
                if db.submit(lambda tx: None).exception(SECONDS) is None:
                    break
                threading.Event().wait(0.05)
        there = db.call(numbers, "SELECT CAST(id AS BIGINT) FROM task ORDER BY pk")
        assert set(kept) <= set(there) <= set(kept) | set(unknown)
        assert db.call(jobs.counts, job).active == len(there)
    finally:
        db.close()
        cluster.stop()
