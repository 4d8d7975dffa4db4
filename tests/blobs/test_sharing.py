"""Servers that share a catalogue in PostgreSQL and the directory of the bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.blobs.test_store import BOX, NOW, data_files, get, put, ref

import postgres
from batchyard import drivers
from batchyard.blobs.base import ALWAYS, Blob, BlobDraft, BlobError, Conditions, CopyDraft, Extras, ListQuery
from batchyard.blobs.base import Copied as CopiedFrom
from batchyard.blobs.errors import Fenced, Unavailable
from batchyard.blobs.store import sharing
from batchyard.blobs.store.files import INLINE_BYTES
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.sharing import SILENT_BEATS, SharedFiles
from batchyard.drivers.postgres import connect
from batchyard.drivers.postgres_words import locate

SECONDS = 60
LARGE = 3 * INLINE_BYTES


@pytest.fixture
def location() -> Iterator[str]:
    made = postgres.fresh()
    yield made
    drivers.drop(made)


Opener = Callable[[], LocalBlobStore]


@pytest.fixture
def opened(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens the store as one more server; each looks after the files when the test says so, and not by the clock."""
    monkeypatch.setattr(SharedFiles, "_beat_on", lambda self: None)
    stores: list[LocalBlobStore] = []

    def another() -> LocalBlobStore:
        stores.append(LocalBlobStore(tmp_path / "blobs", location))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def one(opened: Opener) -> LocalBlobStore:
    store = opened()
    store.create_container(BOX, {}, NOW)
    return store


@pytest.fixture
def other(one: LocalBlobStore, opened: Opener) -> LocalBlobStore:
    return opened()


def files(store: LocalBlobStore) -> SharedFiles:
    assert isinstance(store._files, SharedFiles)
    return store._files


def tend(*stores: LocalBlobStore, times: int = 2) -> None:
    for _ in range(times):
        for store in stores:
            files(store).tend()


def put_large(store: LocalBlobStore, name: str) -> bytes:
    content = os.urandom(LARGE)
    put(store, name, content)
    return content


def left(tmp_path: Path) -> int:
    return len(data_files(tmp_path / "blobs"))


def count(store: LocalBlobStore, table: str) -> int:
    with store._catalogue.reading() as tx:
        return int(tx.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_what_one_server_acknowledged_every_other_one_reads(one: LocalBlobStore, other: LocalBlobStore) -> None:
    content = put_large(one, "large")
    put(other, "small", b"few")
    assert get(other, "large") == content
    assert get(one, "small") == b"few"
    other.delete_blob(ref("large"), ALWAYS)
    with pytest.raises(BlobError, match="BlobNotFound"):
        one.blob(ref("large"))


@pytest.mark.parametrize("change", ["overwrite", "delete", "drop container"])
def test_a_reader_of_one_server_keeps_its_version_whatever_another_one_does(
    one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path, change: str
) -> None:
    content = put_large(one, "blob")
    reader = one.read(ref("blob"), ALWAYS, 0, None)
    first = reader.read(10)
    if change == "overwrite":
        put(other, "blob", b"new")
    elif change == "delete":
        other.delete_blob(ref("blob"), ALWAYS)
    else:
        other.delete_container(BOX, ALWAYS)
        while other.purge(1):
            pass
    tend(other, one, times=3)
    assert left(tmp_path) == 1
    assert first + b"".join(iter(lambda: reader.read(10_000), b"")) == content
    reader.close()
    tend(one, other)
    assert left(tmp_path) == 0
    assert count(one, "doomed") == 0


def test_what_is_given_up_stays_until_every_server_has_said_that_it_does_not_read_it(
    one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path
) -> None:
    """The other one may have looked it up a moment ago, before it could say so."""
    put_large(one, "blob")
    one.delete_blob(ref("blob"), ALWAYS)
    tend(one, times=3)
    assert left(tmp_path) == 1
    tend(other, one, times=1)
    assert left(tmp_path) == 0


def test_whoever_holds_the_bytes_keeps_what_it_finds_then(one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path) -> None:
    content = put_large(one, "blob")
    with other.held():
        [path] = data_files(tmp_path / "blobs")
        one.delete_blob(ref("blob"), ALWAYS)
        tend(one, other, times=3)
        assert path.read_bytes() == content
    tend(other, one)
    assert left(tmp_path) == 0


def test_a_server_that_is_silent_is_taken_for_dead_and_what_it_left_is_swept(
    one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path
) -> None:
    """It was about to name its file: it finds out, and nothing is stored. Then it goes on as a new one."""
    upload = other.put(ref("blob"), BlobDraft(), ALWAYS)
    upload.write(b"x" * LARGE)
    tend(one, times=SILENT_BEATS)
    assert left(tmp_path) == 1, "not for dead yet"
    tend(one, times=2)
    assert left(tmp_path) == 0
    assert count(one, "session") == 1
    with pytest.raises(Fenced):
        upload.commit(NOW)
    with pytest.raises(BlobError, match="BlobNotFound"):
        one.blob(ref("blob"))
    tend(other, times=1)
    content = put_large(other, "blob")
    tend(one, other, times=SILENT_BEATS + 2)
    assert get(one, "blob") == content
    assert left(tmp_path) == 1


def test_links_of_a_server_that_was_taken_for_dead_are_refused_as_well(one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path) -> None:
    put_large(one, "blob")
    tend(one, times=SILENT_BEATS + 2)
    with pytest.raises(Fenced):
        other.copy(ref("blob"), ref("copy"), CopyDraft(CopiedFrom("id", "url", "success", "")), (ALWAYS, ALWAYS), NOW)
    assert left(tmp_path) == 1


def test_a_server_that_beats_is_spared_whatever_it_is_just_writing(one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path) -> None:
    upload = other.put(ref("blob"), BlobDraft(), ALWAYS)
    upload.write(b"x" * LARGE)
    one._catalogue.write(lambda tx: tx.execute("UPDATE place SET swept = 0").rowcount)
    stray = tmp_path / "blobs" / "data" / "ab" / "ab00.gone"
    stray.write_bytes(b"of a server of which nothing is known")
    tend(one, other, times=SILENT_BEATS + 2)
    assert not stray.exists()
    assert upload.commit(NOW).length == LARGE
    assert get(one, "blob") == b"x" * LARGE


def test_a_reader_whose_server_was_taken_for_dead_looks_again(
    one: LocalBlobStore, other: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may go between the look and the reading; what there is then is what it reads."""
    put_large(one, "blob")
    tend(one, times=SILENT_BEATS + 2)
    real, new = LocalBlobStore._open, b"n" * LARGE

    def slow(self: LocalBlobStore, *args: object) -> object:
        found = real(self, *args)  # type: ignore[arg-type]
        monkeypatch.setattr(LocalBlobStore, "_open", real)
        put(one, "blob", new)
        tend(one)
        return found

    monkeypatch.setattr(LocalBlobStore, "_open", slow)
    assert get(other, "blob") == new


def test_a_directory_that_is_not_the_shared_one_is_refused_and_left_alone(one: LocalBlobStore, location: str, tmp_path: Path) -> None:
    content = put_large(one, "blob")
    for elsewhere in (tmp_path / "not-mounted", tmp_path / "of-another"):
        if elsewhere.name == "of-another":
            second = postgres.fresh()
            LocalBlobStore(elsewhere, second).close()
            drivers.drop(second)
        with pytest.raises(RuntimeError, match="mount that one there"):
            LocalBlobStore(elsewhere, location)
    with pytest.raises(RuntimeError, match="belong to a catalogue in PostgreSQL"):
        LocalBlobStore(tmp_path / "blobs")
    assert get(one, "blob") == content


def test_bytes_that_a_new_catalogue_does_not_know_are_no_orphans(tmp_path: Path, location: str) -> None:
    store = LocalBlobStore(tmp_path / "blobs")
    store.create_container(BOX, {}, NOW)
    content = put_large(store, "blob")
    store.close()
    with pytest.raises(RuntimeError, match="does not know"):
        LocalBlobStore(tmp_path / "blobs", location)
    store = LocalBlobStore(tmp_path / "blobs")
    assert get(store, "blob") == content
    store.close()


def test_a_database_that_is_away_is_told_as_such_and_is_no_end(one: LocalBlobStore, location: str) -> None:
    content = put_large(one, "blob")
    with connect(locate(location)) as control:
        sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%commit_mark%'"
        control.execute(sql)
    assert get(one, "blob") == content
    one._catalogue._driver.journal._location = locate("postgresql://batchyard@127.0.0.1:1/none")  # type: ignore[attr-defined]
    one._catalogue._driver.journal._give_up()  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        put(one, "other", b"x")
    one._catalogue._driver.journal._location = locate(location)  # type: ignore[attr-defined]
    one._catalogue._driver.journal._not_before = 0.0  # type: ignore[attr-defined]
    put(one, "other", b"x")


CHILD = """
import random, sys
from pathlib import Path
from batchyard.blobs.base import *
from batchyard.blobs.errors import Fenced
from batchyard.blobs.store import sharing
from batchyard.blobs.store.local import LocalBlobStore
sharing.BEAT_S = 0.3
store, me, draw = LocalBlobStore(Path(sys.argv[1]), sys.argv[2]), sys.argv[3], random.Random(sys.argv[3])
ref = lambda n: BlobRef('account', 'box', n)
print('ready', flush=True)
turn = 0
while True:
    turn += 1
    session = store._files._session
    name, size = f'{draw.randrange(12)}', draw.choice([100, 40_000, 90_000])
    what = draw.randrange(4)
    try:
        if what < 2:
            upload = store.put(ref(name), BlobDraft(metadata={'size': str(size)}), ALWAYS)
            upload.write(bytes([turn % 251]) * size)
            upload.commit(1)
            own = store.put(ref(f'{me}-{turn % 5}'), BlobDraft(), ALWAYS)
            own.write(bytes([turn % 251]) * 40_000)
            own.commit(1)
            print('wrote', turn, flush=True)
        elif what == 2:
            reader = store.read(ref(name), ALWAYS, 0, None)
            first = reader.read(100)
            rest = b''.join(iter(lambda: reader.read(30_000), b''))
            assert len(first + rest) == reader.blob.length == int(reader.blob.metadata['size']), 'torn'
            assert len(set(first + rest)) == 1, 'mixed'
            reader.close()
        else:
            store.delete_blob(ref(name), ALWAYS)
    except BlobError as error:
        assert error.code in ('BlobNotFound',), error.code
    except (Fenced, FileNotFoundError):
        with store._catalogue.reading() as tx:
            living = tx.execute('SELECT 1 FROM session WHERE id = ? AND beats >= 0', (session,)).fetchone()
        assert living is None, 'refused without having been silent'
"""


def test_processes_that_write_read_and_delete_while_some_are_killed(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reader meets a torn blob, nothing acknowledged is lost, and no bytes stay that no blob has."""
    monkeypatch.setattr(sharing, "BEAT_S", 0.3)
    watching = LocalBlobStore(tmp_path / "blobs", location)
    watching.create_container(BOX, {}, NOW)

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(tmp_path / "blobs"), location, name]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wrote(child: subprocess.Popen[str], times: int) -> list[int]:
        assert child.stdout is not None
        turns: list[int] = []
        while len(turns) < times:
            line = child.stdout.readline()
            assert line, child.stderr and child.stderr.read()
            turns += [int(line.split()[1])] if line.startswith("wrote") else []
        return turns

    steady, said = start("steady"), {}
    for life in range(3):
        child = start(f"life{life}")
        said[f"life{life}"] = wrote(child, 8)
        child.send_signal(signal.SIGKILL)
        rest, errors = child.communicate()
        assert "Traceback" not in errors, errors
        said[f"life{life}"] += [int(line.split()[1]) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    wrote(steady, 5)
    assert steady.poll() is None
    steady.kill()
    _, errors = steady.communicate()
    assert "Traceback" not in errors, errors
    for name, turns in said.items():
        for slot in {turn % 5 for turn in turns}:
            acknowledged = max(turn for turn in turns if turn % 5 == slot)
            assert get(watching, f"{name}-{slot}")[0] in range(acknowledged, acknowledged + 100, 5), "its last word, or what came behind it"
    while count(watching, "session") > 1:
        files(watching).tend()
    tend(watching, times=3)
    page = watching.list_blobs(BOX, ListQuery())
    large = [entry.name for entry in page.entries if isinstance(entry, Blob) and entry.length > INLINE_BYTES]
    assert len(data_files(tmp_path / "blobs")) == len(large)
    assert watching.check() == 0
    assert all(get(watching, entry.name) for entry in page.entries if isinstance(entry, Blob))
    watching.close()


@pytest.mark.parametrize("step", ["remove", "_change_many"])
def test_a_kill_while_files_are_removed_is_made_good(
    one: LocalBlobStore, other: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What is doomed stays so until the files are gone for good: whoever comes next does it again."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    put_large(one, "blob")
    one.delete_blob(ref("blob"), ALWAYS)
    tend(other, times=1)
    with monkeypatch.context() as patched:
        patched.setattr(SharedFiles, step, kill)
        with pytest.raises(Killed):
            tend(one)
    assert count(one, "doomed") == 1
    tend(other, one)
    assert count(one, "doomed") == left(tmp_path) == 0


def test_servers_that_begin_at_the_same_time_share_one_directory(location: str, tmp_path: Path) -> None:
    ready = threading.Barrier(4)

    def begin() -> LocalBlobStore:
        ready.wait(SECONDS)
        return LocalBlobStore(tmp_path / "blobs", location)

    with ThreadPoolExecutor(4) as threads:
        stores = [each.result(SECONDS) for each in [threads.submit(begin) for _ in range(4)]]
    stores[0].create_container(BOX, {}, NOW)
    content = put_large(stores[1], "blob")
    assert [get(store, "blob") for store in stores] == [content] * 4
    assert count(stores[0], "session") == 4
    for store in stores:
        store.close()


def test_a_copy_from_elsewhere_goes_on_with_another_server_once_its_own_is_gone(
    one: LocalBlobStore, other: LocalBlobStore, opened: Opener
) -> None:
    def begin(store: LocalBlobStore, copy: str) -> None:
        copied = CopiedFrom(copy, "http://elsewhere/a", "pending", "0/1")
        store.begin_fetch(ref(copy), BlobDraft(extras=Extras(copied=copied)), ("http://elsewhere/a", ""), Conditions(now_us=NOW), 9)

    begin(one, "closed")
    begin(other, "silent")
    assert (one.fetches(), other.fetches()) == ([], [])
    one.close()
    third = opened()
    assert third.fetches() == ["closed"]
    assert (other.fetches(), third.fetches()) == ([], [])
    tend(third, times=SILENT_BEATS + 2)
    assert third.fetches() == ["silent"]
    assert third.fetches() == []
