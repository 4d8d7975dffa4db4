"""The local store itself: crashes, full disks, readers that outlive what they read."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.blobs.conftest import catalogue, words

from batchyard.blobs.base import (
    ALWAYS,
    Blob,
    BlobDraft,
    BlobError,
    BlobKind,
    BlobRef,
    BlockSource,
    ContainerRef,
    Copied,
    CopyDraft,
    ListQuery,
    Upload,
)
from batchyard.blobs.store import files, local
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import INLINE_BYTES
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.schema import SCHEMA
from batchyard.blobs.store.sharing import SILENT_BEATS, SharedFiles
from batchyard.drivers.base import Connection

BOX = ContainerRef("account", "box")
NOW = 1_700_000_000_000_000


def ref(name: str) -> BlobRef:
    return BlobRef(BOX.account, BOX.container, name)


def write_and_commit(upload: Upload[Blob], content: bytes) -> Blob:
    upload.write(content)
    return upload.commit(NOW)


def put(store: LocalBlobStore, name: str, content: bytes) -> Blob:
    return write_and_commit(store.put(ref(name), BlobDraft(metadata={"sum": str(sum(content))}), ALWAYS), content)


def put_many(store: LocalBlobStore, count: int) -> None:
    for number in range(count):
        put(store, f"{number}", b"x" * 20_000)


def get(store: LocalBlobStore, name: str) -> bytes:
    reader = store.read(ref(name), ALWAYS, 0, None)
    try:
        return b"".join(iter(lambda: reader.read(10_000), b""))
    finally:
        reader.close()


def tidy(store: LocalBlobStore) -> None:
    """Where servers share the files: what nobody needs is gone, also of one that was killed."""
    if isinstance(store._files, SharedFiles):
        for _ in range(SILENT_BEATS + 2):
            store._files.tend()


def data_files(directory: Path) -> list[Path]:
    return [path for path in (directory / "data").rglob("*") if path.is_file()]


@pytest.fixture
def box(store: LocalBlobStore) -> LocalBlobStore:
    store.create_container(BOX, {}, NOW)
    return store


def run_script(directory: Path, script: str) -> subprocess.Popen[str]:
    program = (
        "import itertools, os, sys\nfrom pathlib import Path\nfrom batchyard.blobs.store import files, sharing, uploads\n"
        "from batchyard.blobs.base import *\n"
        "from batchyard.blobs.store.catalogue import Catalogue\nfrom batchyard.blobs.store.local import LocalBlobStore\n"
        "store = LocalBlobStore(Path(sys.argv[1]), *sys.argv[2:])\nref = lambda n: BlobRef('account', 'box', n)\n"
        "def put(name, content):\n"
        "    u = store.put(ref(name), BlobDraft(metadata={'sum': str(sum(content))}), ALWAYS)\n"
        "    for at in range(0, len(content), 50_000): u.write(content[at:at + 50_000])\n"
        "    u.commit(1)\n" + script
    )
    return subprocess.Popen([sys.executable, "-c", program, *words(directory)], stdout=subprocess.PIPE, text=True)


WRITER = """
store.create_container(ContainerRef('account', 'box'), {}, 1)
for n in itertools.count():
    for size in (10, 40_000, 150_000):
        name = f'{n % 20}-{size}'
        put(name, bytes([n % 251]) * size)
        print(name, n % 251, flush=True)
"""


def test_kill_loses_nothing_that_was_acknowledged(driver: str, tmp_path: Path) -> None:
    process = run_script(tmp_path, WRITER)
    assert process.stdout is not None
    acknowledged = {}
    for _ in range(150):
        name, value = process.stdout.readline().split()
        acknowledged[name] = int(value)
    process.kill()
    for line in process.stdout.readlines():
        if line.endswith("\n"):
            acknowledged[line.split()[0]] = int(line.split()[1])
    process.wait()
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    page = store.list_blobs(BOX, ListQuery())
    for entry in page.entries:
        assert isinstance(entry, Blob)
        content = get(store, entry.name)
        assert len(content) == entry.length == int(entry.name.split("-")[1])
        assert len(set(content)) == 1
        assert entry.metadata["sum"] == str(sum(content))
        # One overwrite may have been under way: then the blob is a round newer than the last acknowledgement.
        assert content[0] in (acknowledged.get(entry.name, content[0]), (acknowledged.get(entry.name, 0) + 20) % 251)
    tidy(store)
    assert set(acknowledged) <= {entry.name for entry in page.entries if isinstance(entry, Blob)}
    assert len(data_files(tmp_path)) == sum(1 for entry in page.entries if isinstance(entry, Blob) and entry.length > INLINE_BYTES)
    store.close()


CRASHES = {
    "while writing": "files.os.write = lambda *a: os.kill(os.getpid(), 9)",
    "before the file is synced": "files.os.fsync = lambda *a: os.kill(os.getpid(), 9)",
    "before the directory is synced": "files.sync_directory = lambda *a: os.kill(os.getpid(), 9)",
    "before the commit": "Catalogue.write_all = lambda *a: os.kill(os.getpid(), 9)",
    "inside the transaction": "uploads.rows.insert_segment = lambda *a: os.kill(os.getpid(), 9)",
    "after the commit": "files.DataFiles.give_up = sharing.SharedFiles.give_up = lambda *a: os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_leaves_the_old_or_the_new_blob(driver: str, tmp_path: Path, where: str) -> None:
    old, new = b"o" * 100_000, b"n" * 200_000
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    store.create_container(BOX, {}, NOW)
    put(store, "blob", old)
    store.close()
    process = run_script(tmp_path, f"{CRASHES[where]}\nput('blob', b'n' * 200_000)\n")
    assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    content = get(store, "blob")
    assert content == (new if where == "after the commit" else old)
    assert store.blob(ref("blob")).metadata["sum"] == str(sum(content))
    tidy(store)
    assert len(data_files(tmp_path)) == 1
    store.close()


def test_bytes_are_on_disk_before_the_catalogue_names_them(box: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    synced: set[int] = set()
    seen = []
    real_sync, real_write = os.fsync, Catalogue.write_all

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def write(self: Catalogue, works: object) -> object:
        for path in data_files(tmp_path / "store"):
            seen.append({path.stat().st_ino, path.parent.stat().st_ino} <= synced)
        return real_write(self, works)  # type: ignore[arg-type]

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(Catalogue, "write_all", write)
    put(box, "a", b"x" * 100_000)
    assert seen
    assert all(seen)


@pytest.mark.sqlite
def test_the_catalogue_syncs_every_commit(box: LocalBlobStore) -> None:
    connection: sqlite3.Connection = box._catalogue._driver.journal.connection
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.sqlite
def test_a_directory_has_one_owner(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in use"):
        LocalBlobStore(tmp_path / "store", catalogue(tmp_path / "store"))


@pytest.mark.parametrize("change", ["overwrite", "delete", "drop container"])
def test_a_reader_keeps_its_version(box: LocalBlobStore, tmp_path: Path, change: str) -> None:
    for number in range(3):
        upload = box.stage(ref("blob"), f"{number}")
        upload.write(bytes([number]) * 50_000)
        upload.commit(NOW)
    box.commit_blocks(ref("blob"), [(BlockSource.LATEST, str(n)) for n in range(3)], BlobDraft(), ALWAYS, NOW)
    reader = box.read(ref("blob"), ALWAYS, 0, None)
    first = reader.read(10)
    if change == "overwrite":
        put(box, "blob", b"new")
    elif change == "delete":
        box.delete_blob(ref("blob"), ALWAYS)
    else:
        box.delete_container(BOX, ALWAYS)
    content = first + b"".join(iter(lambda: reader.read(10_000), b""))
    assert content == b"\0" * 50_000 + b"\1" * 50_000 + b"\2" * 50_000
    tidy(box)
    assert len(data_files(tmp_path / "store")) == 3
    while box.purge(1):
        pass
    tidy(box)
    assert len(data_files(tmp_path / "store")) == 3
    reader.close()
    reader.close()
    tidy(box)
    assert data_files(tmp_path / "store") == []


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_nothing(box: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    put(box, "blob", b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    upload = box.put(ref("blob"), BlobDraft(), ALWAYS)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, full)
        with pytest.raises(OSError, match="full"):
            write_and_commit(upload, b"x" * 100_000)
    upload.abort()
    assert get(box, "blob") == b"old"
    assert data_files(tmp_path / "store") == []


@pytest.mark.sqlite
def test_a_full_catalogue_fails_all_that_share_the_commit(box: LocalBlobStore) -> None:
    writer: sqlite3.Connection = box._catalogue._driver.journal.connection
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="cannot grow"):
        put_many(box, 50)
    writer.execute("PRAGMA max_page_count = 1000000")
    names = [entry.name for entry in box.list_blobs(BOX, ListQuery()).entries if isinstance(entry, Blob)]
    assert all(get(box, name) == b"x" * 20_000 for name in names)
    put(box, "after", b"fine")
    assert get(box, "after") == b"fine"


def test_one_failing_unit_does_not_spoil_the_commit_of_others(box: LocalBlobStore) -> None:
    gate = threading.Event()
    inside = threading.Event()

    def slow(tx: Connection) -> None:
        inside.set()
        gate.wait()

    first = threading.Thread(target=box._catalogue.write, args=(slow,))
    first.start()
    inside.wait()
    results: list[object] = []

    def attempt(name: str) -> None:
        try:
            upload = box.put(ref(name), BlobDraft(), ALWAYS) if name != "bad" else box.append(ref(name), ALWAYS, None, None)
            upload.write(b"x")
            results.append(upload.commit(NOW))
        except BlobError as error:
            results.append(error.code)

    threads = [threading.Thread(target=attempt, args=(name,)) for name in ("a", "bad", "b")]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in [first, *threads]:
        thread.join()
    assert sorted(str(r) for r in results if isinstance(r, str)) == ["BlobNotFound"]
    assert get(box, "a") == get(box, "b") == b"x"


def test_expired_blocks_go(box: LocalBlobStore, tmp_path: Path) -> None:
    for number, at in ((1, NOW), (2, NOW + 10)):
        upload = box.stage(ref("blob"), str(number))
        upload.write(b"x")
        upload.commit(at)
    assert box.expire_blocks(NOW + 5) == 1
    assert [block.id for block in box.blocks(ref("blob"))[2]] == ["2"]
    tidy(box)
    assert len(data_files(tmp_path / "store")) == 1


def test_a_deleted_container_that_a_crash_left_half_removed_is_finished(driver: str, tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    store.create_container(BOX, {}, NOW)
    put(store, "blob", b"x" * 100_000)
    put(store, "other", b"x" * 100_000)
    told: list[None] = []
    store.on_deleted = lambda: told.append(None)
    store.delete_container(BOX, ALWAYS)
    assert told == [None]
    assert store.purge(1)
    store.close()
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    tidy(store)
    assert len(data_files(tmp_path)) == 1
    while store.purge(1):
        pass
    tidy(store)
    assert data_files(tmp_path) == []
    store.close()


def test_an_upload_into_a_container_that_goes_away_leaves_nothing(box: LocalBlobStore, tmp_path: Path) -> None:
    upload = box.put(ref("blob"), BlobDraft(), ALWAYS)
    upload.write(b"x" * 100_000)
    box.delete_container(BOX, ALWAYS)
    box.create_container(BOX, {}, NOW)
    box.delete_container(BOX, ALWAYS)
    with pytest.raises(BlobError, match="ContainerNotFound"):
        upload.commit(NOW)
    assert data_files(tmp_path / "store") == []


def test_concurrent_appends_all_arrive(box: LocalBlobStore) -> None:
    box.put(ref("log"), BlobDraft(BlobKind.APPEND), ALWAYS).commit(NOW)

    def add(number: int) -> None:
        for _ in range(10):
            upload = box.append(ref("log"), ALWAYS, None, None)
            upload.write(b"%d\n" % number)
            upload.commit(NOW)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(get(box, "log").split()) == sorted(b"%d" % n for n in range(4) for _ in range(10))


def test_a_failing_unit_takes_back_only_what_it_did_itself(box: LocalBlobStore) -> None:
    def broken(tx: Connection) -> None:
        tx.execute("UPDATE containers SET etag = 'broken'")
        raise BlobError("InvalidInput")

    with pytest.raises(BlobError, match="InvalidInput"):
        box._catalogue.write(broken)
    assert box.container(BOX).etag != "broken"


def hurt(directory: Path, name: str) -> None:
    """Take the parts of a blob away, as an overwrite during a copy once did."""
    with closing(Catalogue(catalogue(directory) or directory / "catalogue.db", SCHEMA)) as other:
        other.write(lambda tx: tx.execute("DELETE FROM segments WHERE blob = (SELECT id FROM blobs WHERE name = ?)", (name,)).rowcount)


def test_blobs_that_lost_their_content_are_named_at_the_start(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    store.create_container(BOX, {}, NOW)
    for name, size in (("inline", 100), ("file", 100_000), ("whole", 100), ("empty", 0)):
        put(store, name, b"x" * size)
    assert store.check() == 0
    store.close()
    hurt(tmp_path, "inline")
    hurt(tmp_path, "file")
    store = LocalBlobStore(tmp_path, catalogue(tmp_path))
    assert store.check() == 2
    assert "name='inline' length=100 stored=0" in caplog.text
    assert "name='file' length=100000 stored=0" in caplog.text
    for name in ("inline", "file"):
        with pytest.raises(BlobError, match="BlobContentLost"):
            store.read(ref(name), ALWAYS, 10, 20)
        with pytest.raises(BlobError, match="BlobContentLost"):
            store.copy(ref(name), ref("copy"), CopyDraft(Copied("id", "url", "success", "")), (ALWAYS, ALWAYS), NOW)
    assert get(store, "whole") == b"x" * 100
    assert get(store, "empty") == b""
    put(store, "inline", b"again")
    store.delete_blob(ref("file"), ALWAYS)
    assert get(store, "inline") == b"again"
    assert store.check() == 0
    store.close()


@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_damaged_data_file_is_met_before_a_byte_goes_out(box: LocalBlobStore, tmp_path: Path, damage: str) -> None:
    put(box, "blob", b"x" * 100_000)
    [path] = data_files(tmp_path / "store")
    path.unlink() if damage == "gone" else os.truncate(path, 10)
    with pytest.raises(BlobError, match="BlobContentLost"):
        box.read(ref("blob"), ALWAYS, 0, None)
    box.delete_blob(ref("blob"), ALWAYS)
    tidy(box)
    assert data_files(tmp_path / "store") == []


def test_many_blobs_are_checked_batch_by_batch(box: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(7):
        put(box, f"{number}", b"x")
    hurt(tmp_path / "store", "0")
    hurt(tmp_path / "store", "6")
    for batch in (1, 3, 7, 8):
        monkeypatch.setattr(local, "_CHECK_BATCH", batch)
        assert box.check() == 2
