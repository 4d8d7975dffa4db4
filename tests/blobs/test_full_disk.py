"""The storage endpoint's catalogue and data on a disk that is really full, and what deleted blobs give back."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.conftest import SmallDisk

from batchyard.blobs.base import ALWAYS, BlobDraft, BlobRef, ContainerRef
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.schema import SCHEMA
from batchyard.drivers.migrations import NewerSchema
from batchyard.drivers.sqlite import build

SECONDS = 30
BOX = ContainerRef("account", "box")


def put(store: LocalBlobStore, name: str, content: bytes) -> None:
    upload = store.put(BlobRef(BOX.account, BOX.container, name), BlobDraft(), ALWAYS)
    try:
        upload.write(content)
        upload.commit(1)
    except BaseException:
        upload.abort()
        raise


def get(store: LocalBlobStore, name: str) -> bytes:
    reader = store.read(BlobRef(BOX.account, BOX.container, name), ALWAYS, 0, None)
    try:
        return b"".join(iter(lambda: reader.read(10_000), b""))
    finally:
        reader.close()


def refusal(store: LocalBlobStore, name: str, content: bytes) -> int | None:
    """The error number with which content is refused."""
    try:
        put(store, name, content)
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_everybody_hears_of_a_full_disk_and_all_works_once_there_is_room(small_disk: Callable[[int], SmallDisk], size: int) -> None:
    disk = small_disk(32 << 20)
    store = LocalBlobStore(disk.path / "blobs")
    store.create_container(BOX, {}, 1)
    put(store, "before", b"b" * size)
    with ThreadPoolExecutor(16) as threads:
        for turn in range(3):
            disk.fill()
            for again in range(3):  # the log may have room for a few small ones
                names = [f"{turn}-{again}-{n}" for n in range(300)]
                refused = [each.result(SECONDS) for each in [threads.submit(refusal, store, name, b"x" * size) for name in names]]
                assert set(refused) <= {None, errno.ENOSPC}
            assert set(refused) == {errno.ENOSPC}
            assert get(store, "before") == b"b" * size
            disk.relieve()
            put(store, f"after-{turn}", b"a" * size)
            assert get(store, f"after-{turn}") == b"a" * size
    store.close()
    store = LocalBlobStore(disk.path / "blobs")
    assert get(store, "after-2") == b"a" * size
    store.close()


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    made = Catalogue(tmp_path / "catalogue.db", SCHEMA)
    yield made
    made.close()


def test_a_connection_in_an_unknown_state_is_opened_anew(catalogue: Catalogue) -> None:
    """The others that wait for the same commit are stored without the unit that broke it."""
    inside, go = threading.Event(), threading.Event()

    def stand(tx: sqlite3.Connection) -> None:
        inside.set()
        assert go.wait(SECONDS)

    def add(tx: sqlite3.Connection) -> int:
        return tx.execute(
            "INSERT INTO containers (account, name, etag, modified, metadata, policies) VALUES ('a', 'b', '', 0, '', '')"
        ).rowcount

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(catalogue.write, stand)
        assert inside.wait(SECONDS)
        added, broke = (threads.submit(catalogue.write, work) for work in (add, lambda tx: tx.close()))
        while len(catalogue._waiting) < 2:
            assert not first.done()
        go.set()
        first.result(SECONDS)
        assert isinstance(broke.exception(SECONDS), sqlite3.Error)
        assert added.result(SECONDS) == 1
        with pytest.raises(sqlite3.IntegrityError):
            catalogue.write(add)


def test_what_was_deleted_is_given_back_also_by_a_catalogue_of_an_earlier_release(tmp_path: Path) -> None:
    path = tmp_path / "blobs" / "catalogue.db"
    LocalBlobStore(tmp_path / "blobs").close()
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA auto_vacuum = 0")
    old.execute("VACUUM")
    old.close()
    store = LocalBlobStore(tmp_path / "blobs")
    store.create_container(BOX, {}, 1)
    for number in range(300):
        put(store, str(number), b"x" * 20_000)
    store.delete_container(BOX, ALWAYS)
    while store.purge(100):
        pass
    steps = 0
    while store.shrink(250) == 250:
        steps += 1
    assert steps > 1
    assert path.stat().st_size < 2_500_000
    assert path.with_name("catalogue.db-wal").stat().st_size == 0
    store.close()


def test_a_catalogue_of_a_newer_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    Catalogue(path, SCHEMA).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA.newest,)
        connection.execute(f"PRAGMA user_version = {SCHEMA.newest + 1}")
    with pytest.raises(NewerSchema, match=f"schema {SCHEMA.newest + 1}, this release knows {SCHEMA.newest}"):
        Catalogue(path, SCHEMA)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA.newest + 1,)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_catalogue_of_an_earlier_release_is_opened_with_all_that_it_holds(tmp_path: Path, kept: int) -> None:
    """The first releases kept no version; what a blob is stays as it was, and no id is given again."""
    path = tmp_path / "blobs" / "catalogue.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        build(connection, 1, SCHEMA)
        connection.execute(f"PRAGMA user_version = {kept}")
        connection.execute(
            "INSERT INTO containers (account, name, etag, modified, metadata, policies) VALUES ('a', 'box', '', 0, '{}', '{}')"
        )
        for name, number in (("x", 7), ("gone", 9)):
            connection.execute("INSERT INTO blobs VALUES (?, 1, ?, 'BlockBlob', 3, '0x1', 5, 4, '{}', '{\"k\":\"v\"}', 0)", (number, name))
        connection.execute("INSERT INTO segments VALUES (7, 0, 3, NULL, NULL, x'616263')")
        connection.execute("DELETE FROM blobs WHERE id = 9")
    store = LocalBlobStore(tmp_path / "blobs")
    place = BlobRef("a", "box", "x")
    seen = store.blob(place)
    assert (seen.length, seen.etag, seen.modified_us, seen.created_us, seen.metadata, seen.snapshot) == (3, "0x1", 5, 4, {"k": "v"}, None)
    reader = store.read(place, ALWAYS, 0, None)
    assert reader.read(10) == b"abc"
    reader.close()
    upload = store.put(BlobRef("a", "box", "y"), BlobDraft(), ALWAYS)
    upload.commit(1)
    with store._catalogue.reading() as tx:
        assert tx.execute("SELECT id FROM blobs WHERE name = 'y'").fetchone()[0] == 10
    store.close()
