"""Worlds that move between a directory and PostgreSQL: all rows and bytes arrive, and whatever is killed leaves the old one in force."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import postgres
from batchyard import drivers
from batchyard.blobs.base import ALWAYS, BlobDraft, BlobError, BlobRef, BlockSource, ContainerRef
from batchyard.blobs.queues.base import QueueRef
from batchyard.drivers import copying
from batchyard.drivers.base import Use
from batchyard.drivers.pipeline import PostgresConnection
from batchyard.engine.wakes import Wakes
from batchyard.server import account_file, backup, moving, relocation
from batchyard.server.moving import Unmovable
from batchyard.server.places import Places
from batchyard.server.refusals import Refused
from batchyard.server.relocation import Wish
from batchyard.server.state import ACCOUNTS, OPERATOR_KEY, State, open_registry, open_state
from batchyard.store import accounts, migrate
from batchyard.store.db import open_store
from batchyard.store.migrate import WORLD
from batchyard.store.tx import Tx

NOW = 1_700_000_000_000_000
LARGE = os.urandom(100_000)
BOX, QUEUE = ContainerRef("alphastorage", "box"), QueueRef("alphastorage", "queue")


def ref(name: str) -> BlobRef:
    return BlobRef(BOX.account, BOX.container, name)


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a schema that is not there yet; it goes with those beside it."""
    made = postgres.fresh()
    yield made
    base = drivers.schema(made)
    for name in (base, f"{base}_registry", f"{base}_account_alpha"):
        world = drivers.with_schema(made, name)
        for each in (world, drivers.beside(world, "blobs"), drivers.beside(world, "queues")):
            drivers.drop(each)


def fill(state: State, name: str) -> None:
    """Something of each kind, and something that was removed."""
    _, db, store, queues = state
    db.call(lambda tx: tx.wake("") or _job(tx, name))
    store.create_container(BOX, {"a": "b"}, NOW)
    for blob, content in (("small", b"few"), ("large", LARGE)):
        upload = store.put(ref(blob), BlobDraft(), ALWAYS)
        upload.write(content)
        upload.commit(NOW)
    store.set_tags(ref("large"), {"k": "v"}, ALWAYS)
    block = store.stage(ref("blocks"), "AA==")
    block.write(LARGE)
    block.commit(NOW)
    store.commit_blocks(ref("blocks"), [(BlockSource.LATEST, "AA==")], BlobDraft(), ALWAYS, NOW)
    store.put(ref("gone"), BlobDraft(), ALWAYS).commit(NOW)
    store.delete_blob(ref("gone"), ALWAYS)
    queues.create(QUEUE, {})
    queues.put(QUEUE, "a text with \u00fc", 0, None, NOW)


def _job(tx: Tx, name: str) -> int:
    tx.reserve("task", 5)
    return tx.insert(
        "job",
        id=name,
        state="active",
        state_time=NOW,
        created=NOW,
        modified=NOW,
        started=NOW,
        pool_key="pool",
        priority=0,
        max_parallel=-1,
        max_retries=0,
        uses_dependencies=0,
        ends_when_complete=0,
        acts_on_failure=0,
        body=b"{}",
    )


def look(state: State, name: str) -> None:
    """All that was filled in is there, and keys that were given are not given again."""
    _, db, store, queues = state
    assert db.call(lambda tx: list(tx._connection.execute("SELECT id FROM job"))) == [(name,)]
    assert db.call(lambda tx: list(tx._connection.execute("SELECT name, next FROM sequence"))) == [("task", 6)]
    for blob, content in (("small", b"few"), ("large", LARGE), ("blocks", LARGE)):
        reader = store.read(ref(blob), ALWAYS, 0, None)
        assert b"".join(iter(lambda reader=reader: reader.read(1 << 20), b"")) == content  # type: ignore[misc]
        reader.close()
    assert store.blob(ref("large")).extras.tags == {"k": "v"}
    assert store.container(BOX).metadata == {"a": "b"}
    assert [message.text for message in queues.peek(QUEUE, 5, NOW)] == ["a text with \u00fc"]
    with store._catalogue.reading() as tx:
        assert tx.last_given("blobs", "id") == 4, "that of the one that is gone is not given again"


def close(state: State) -> None:
    for part in state[1:]:
        part.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory with two accounts, as a server leaves it."""
    made = tmp_path / "state"
    made.mkdir()
    state = open_state(made, Wakes())
    registry = open_registry(made, state[0], NOW)
    account_file.operator_key(made / OPERATOR_KEY)
    registry.call(
        lambda tx: accounts.add(tx, name="alpha", state="active", location=f"{ACCOUNTS}/alpha", storage="alphastorage", created=NOW)
    )
    row = registry.call(accounts.named, "alpha")
    assert row is not None
    (made / "nodes").mkdir(exist_ok=True)
    Places(made).make(row)
    alpha = Places(made).open(row, Wakes())
    fill(state, "of-default")
    fill(alpha, "of-alpha")
    close(state)
    close(alpha)
    registry.close()
    return made


def opened(directory: Path, name: str, database: str | None = None) -> State:
    """The world of an account, where the registry says that it lies."""
    places = Places(directory, database)
    if name == "batchyard":
        return places.begin(Wakes())
    base = None if database is None else drivers.schema(database)
    location = directory / "registry.db" if database is None else drivers.with_schema(database, f"{base}_registry")
    with closing(open_store(location, chain=migrate.REGISTRY)) as registry:
        row = registry.call(accounts.named, name)
    assert row is not None
    return places.open(row, Wakes())


def check(directory: Path, name: str, database: str | None = None) -> State:
    state = opened(directory, name, database)
    look(state, "of-default" if name == "batchyard" else f"of-{name}")
    close(state)
    return state


def test_an_account_moves_into_a_schema_and_into_a_directory_again(directory: Path, url: str, tmp_path: Path) -> None:
    before = opened(directory, "alpha")
    close(before)
    moved = relocation.account(Wish(directory, url), "alpha")
    assert moved.sums is not None
    assert moved.sums["blobs"]["blobs"].rows == 3
    assert check(directory, "alpha")[0] == before[0], "its keys are the same"
    assert relocation.account(Wish(directory, url), "alpha").sums is None
    with pytest.raises(Refused, match="belong to a catalogue in PostgreSQL"):
        open_state(directory / ACCOUNTS / "alpha", Wakes())
    assert relocation.account(Wish(directory, url, remove_old=True), "alpha").sums is None
    assert {path.name for path in (directory / ACCOUNTS / "alpha").iterdir()} == {"blobs"}
    check(directory, "alpha")
    back = relocation.account(Wish(directory, str(tmp_path / "alpha"), remove_old=True), "alpha")
    assert back.sums is not None
    assert check(directory, "alpha")[0] == before[0]
    assert drivers.peek(url, lambda connection: 1) is None
    check(directory, "batchyard")


def test_all_move_into_a_database_and_into_a_directory_again(directory: Path, url: str, tmp_path: Path) -> None:
    keys = account_file.read(directory / account_file.NAME)
    assert [moved.account for moved in relocation.all_accounts(Wish(directory, url))] == ["batchyard", "alpha"]
    assert check(directory, "batchyard", url)[0] == keys
    check(directory, "alpha", url)
    with pytest.raises(Refused, match="start it with --database"):
        open_state(directory, Wakes())
    with pytest.raises(Refused, match="were moved elsewhere"):
        Places(directory, drivers.with_schema(url, "another")).begin(Wakes())
    target = tmp_path / "again"
    relocation.all_accounts(Wish(directory, str(target), database=url, remove_old=True))
    assert check(target, "batchyard")[0] == keys
    check(target, "alpha")
    assert (target / OPERATOR_KEY).read_text() == (directory / OPERATOR_KEY).read_text()
    assert drivers.peek(url, lambda connection: 1) is None


_RUNNING = """
INSERT INTO task (job_pk, id, state, ready, slots, max_retries, created, modified, state_time) VALUES (1, 't', 'running', 0, 1, 0, 1, 1, 1)
"""


def test_what_may_not_move_is_told_why_and_stays(directory: Path, url: str, tmp_path: Path) -> None:
    def refused(wish: Wish, name: str | None, why: str) -> None:
        with pytest.raises(Unmovable, match=why):
            relocation.all_accounts(wish) if name is None else relocation.account(wish, name)

    refused(Wish(directory, url), "beta", "no account beta")
    refused(Wish(directory, url), "batchyard", "default account")
    refused(Wish(directory, url.replace("batchyard@", "batchyard:secret@")), "alpha", "pgpass")
    refused(Wish(directory, url.partition("?")[0]), "alpha", "name a schema")
    refused(Wish(directory, str(directory / "inside")), "alpha", "places")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused(Wish(directory, str(tmp_path / "full")), "alpha", "not empty")
    open_store(url).close()
    refused(Wish(directory, url), "alpha", "there already")
    alpha = opened(directory, "alpha")
    alpha[1].call(lambda tx: tx._connection.execute(_RUNNING).rowcount)
    close(alpha)
    refused(Wish(directory, str(tmp_path / "alpha")), "alpha", "1 tasks of alpha run")
    assert not (tmp_path / "alpha").exists()
    assert relocation.account(Wish(directory, str(tmp_path / "alpha"), force=True), "alpha").sums is not None


def test_what_arrives_otherwise_is_noticed_and_nothing_is_switched(directory: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PostgresConnection.executemany

    def lossy(self: PostgresConnection, sql: str, rows: list[object]) -> object:
        return real(self, sql, rows[1:] if sql.startswith("INSERT INTO blobs ") else rows)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresConnection, "executemany", lossy)
        with pytest.raises(copying.Differs, match="table blobs"):
            relocation.account(Wish(directory, url), "alpha")
    check(directory, "alpha")


KILLED = """
import os, sys
from pathlib import Path
from batchyard.server import relocation
directory, to, step, name = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
count = 0
def follow(frame, event, arg):
    global count
    if event != "call" or not frame.f_code.co_filename.endswith(("server/moving.py", "server/relocation.py")):
        return None
    count += 1
    if count == step:
        os.kill(os.getpid(), 9)
    return None
sys.setprofile(lambda frame, event, arg: follow(frame, event, arg))
wish = relocation.Wish(directory, to)
relocation.all_accounts(wish) if name == "--all" else relocation.account(wish, name)
print("done", flush=True)
"""


@pytest.mark.parametrize(("name", "kind"), [("alpha", "schema"), ("alpha", "directory"), ("--all", "schema")])
def test_a_kill_at_any_step_leaves_the_old_one_in_force_and_the_next_run_goes_on(
    directory: Path, url: str, tmp_path: Path, name: str, kind: str
) -> None:
    """Killed where a function of the move is entered, at steps spread over all of them; each next run begins with what was left."""
    to = url if kind == "schema" else str(tmp_path / "elsewhere")
    step, width = 1, int(os.environ.get("BATCHYARD_KILLS_EVERY", "25"))
    while True:
        command = [sys.executable, "-c", KILLED, str(directory), to, str(step), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        moved = (directory / "moved.to").exists()
        for account in ("batchyard", "alpha"):
            check(directory, account, url if moved else None)
        if moved or (name == "alpha" and str(_lies(directory)) == to):
            break
        step += width
    wish = Wish(directory, to)
    relocation.all_accounts(wish) if name == "--all" else relocation.account(wish, name)
    for account in ("batchyard", "alpha"):
        check(directory, account, url if name == "--all" else None)


def _lies(directory: Path) -> str:
    with closing(open_store(directory / "registry.db", chain=migrate.REGISTRY)) as registry:
        row = registry.call(accounts.named, "alpha")
    assert row is not None
    return row.location


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)
events = st.lists(
    st.tuples(numbers, texts, st.integers(0, 9), st.none() | st.integers(0, 2**40), texts, st.none() | texts),
    max_size=20,
)
bodies = st.dictionaries(st.integers(1, 2**40), st.binary(max_size=40), max_size=12)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, bodies, st.lists(st.tuples(st.integers(1, 9), texts, st.integers(1, 9)), max_size=1200, unique=True))
def test_whatever_rows_there_are_come_back_as_they_were(
    tmp_path: Path, rows: list[tuple[object, ...]], body: dict[int, bytes], wide: list[tuple[int, str, int]]
) -> None:
    location = postgres.fresh()
    files = [tmp_path / "there.db", tmp_path / "back.db"]
    for path in tmp_path.glob("*.db*"):
        path.unlink()
    try:
        with moving.writing(files[0], WORLD) as first:
            first.executemany("INSERT INTO event (at, what, subject, until, happened, cause) VALUES (?, ?, ?, ?, ?, ?)", rows)
            first.executemany("INSERT INTO task_body (pk, body) VALUES (?, ?)", list(body.items()))
            first.executemany("INSERT INTO dependency (job_pk, parent, child) VALUES (?, ?, ?)", wide)
        for old, new in ((files[0], location), (location, files[1])):
            with moving.reading(old, WORLD) as source, moving.writing(new, WORLD) as target:
                copying.copy(source, target, WORLD)
        with closing(drivers.opened(files[0], Use(WORLD))) as one, closing(drivers.opened(files[1], Use(WORLD))) as other:
            for table in copying.tables(WORLD):
                sql = f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {', '.join(table.columns)}"
                with one.reading() as left, other.reading() as right:
                    assert list(left.execute(sql)) == list(right.execute(sql)), table.name
    finally:
        drivers.drop(location)


def test_bytes_arrive_also_where_they_cannot_have_a_second_name(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    relocation.account(Wish(directory, str(tmp_path / "alpha")), "alpha")
    monkeypatch.undo()
    shutil.rmtree(directory / ACCOUNTS / "alpha" / "blobs")
    check(directory, "alpha")


def test_a_backup_of_a_database_is_taken_while_servers_work_and_becomes_a_directory(directory: Path, url: str, tmp_path: Path) -> None:
    relocation.all_accounts(Wish(directory, url))
    alpha = opened(directory, "alpha", url)
    with pytest.raises(backup.Unusable, match="add: --database"):
        backup.backup(directory, tmp_path / "none.tar")
    count = backup.of_database(Wish(directory, "", database=url), tmp_path / "yard.tar.gz")
    assert count > 8
    close(alpha)
    target = tmp_path / "restored"
    backup.restore(tmp_path / "yard.tar.gz", target)
    for account in ("batchyard", "alpha"):
        assert check(target, account)[0] == check(directory, account, url)[0]
    backup.of_database(Wish(directory, "", database=url), tmp_path / "small.tar", blobs=False)
    backup.restore(tmp_path / "small.tar", tmp_path / "without")
    state = opened(tmp_path / "without", "alpha")
    with pytest.raises(BlobError, match="ContainerNotFound"):
        state[2].container(BOX)
    close(state)
