"""A backup of a server that works, and what a server makes of it afterwards."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from azure.storage.blob import BlobServiceClient
from tests.conftest import Server, wait_for
from tests.crash.test_full_disk import add_job, ask, pool

from batchyard.blobs.store.local import LocalBlobStore
from batchyard.server import backup as work

BIG = 60_000
"""Bytes of a blob that has a data file of its own."""


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(nodes=1)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def filled(server: Server) -> Server:
    assert ask(server, "POST", "/pools", pool("p", nodes=1))[0] == 201
    assert add_job(server, "done") == 201
    assert ask(server, "POST", "/jobs/done/tasks", {"id": "t", "commandLine": "/bin/echo hello"})[0] == 201
    wait_for(lambda: ask(server, "GET", "/jobs/done/tasks/t")[1]["state"] == "completed", "the task")
    box = BlobServiceClient.from_connection_string(server.storage_connection_string).create_container("box")
    for number in range(20):
        box.upload_blob(f"{number}", f"{number} ".encode() * BIG)
    return server


@pytest.fixture(scope="module")
def archive(filled: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup") / "yard.tar"
    done = batchyard("backup", path, "--dir", filled.directory)
    assert done.returncode == 0, done.stderr
    return path


def test_all_is_there_again(filled: Server, archive: Path, tmp_path: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    place = tmp_path / "again"
    assert batchyard("restore", archive, "--dir", place).returncode == 0
    assert not {path.name for path in place.iterdir()} & {"nodes", "server.json", "server.log"}
    try:
        up = batchyard("up", "--dir", place, "--port", "0", "--nodes", "0")
        assert up.returncode == 0, up.stderr
        env = dict(
            line.removeprefix("export ").split("=", 1) for line in batchyard("env", "--dir", place).stdout.splitlines() if "=" in line
        )
        assert env["AZURE_BATCH_ACCESS_KEY"].strip("'") == filled.key
        shown = batchyard("task", "show", "done/t", "--dir", place, "-o", "json")
        assert msgspec.json.decode(shown.stdout)["state"] == "completed", shown.stderr
        store = BlobServiceClient.from_connection_string(env["AZURE_STORAGE_CONNECTION_STRING"].strip("'"))
        box = store.get_container_client("box")
        for number in range(20):
            assert box.download_blob(f"{number}").readall() == f"{number} ".encode() * BIG
    finally:
        batchyard("down", "--dir", place)


def test_every_backup_of_a_busy_server_is_of_one_moment(filled: Server, tmp_path: Path) -> None:
    """Each round writes a task and then, as its output, a blob anew; in no backup is there a task ahead of its blob, or half a blob."""
    assert add_job(filled, "busy") == 201
    box = BlobServiceClient.from_connection_string(filled.storage_connection_string).create_container("busy")
    begun, stop, failed = threading.Event(), threading.Event(), []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                box.upload_blob("last", f"{number:06d} ".encode() * 10_000, overwrite=True)
                if number % 2:
                    box.upload_blob(f"{number}", b"x" * BIG)
                    box.delete_blob(f"{number}")
                assert ask(filled, "POST", "/jobs/busy/tasks", {"id": f"{number:06d}", "commandLine": "true"})[0] == 201
                begun.set()
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(60)
        for number in range(5):
            work.backup(filled.directory, tmp_path / f"{number}.tar.gz")
    finally:
        stop.set()
        writer.join()
    assert not failed
    assert not list(filled.directory.rglob(".backup*")), "nothing is left behind"
    for number in range(5):
        place = tmp_path / str(number)
        work.restore(tmp_path / f"{number}.tar.gz", place)
        with sqlite3.connect(place / "batchyard.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (task,) = db.execute("SELECT COALESCE(MAX(id), '000000') FROM task WHERE id GLOB '[0-9]*'").fetchone()
        store = LocalBlobStore(place / "blobs")
        assert store.check() == 0
        content = _content(store, filled.storage_account)
        assert len(set(content.split())) == 1, "half of one and half of another"
        assert content.split()[0].decode() >= task
        store.close()


def _content(store: LocalBlobStore, account: str) -> bytes:
    from batchyard.blobs.base import ALWAYS, BlobRef

    reader = store.read(BlobRef(account, "busy", "last"), ALWAYS, 0, None)
    try:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))
    finally:
        reader.close()


def test_without_blobs_it_is_small_and_works(filled: Server, tmp_path: Path) -> None:
    done = batchyard("backup", tmp_path / "small.tar", "--no-blobs", "--dir", filled.directory)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "small.tar") as tar:
        assert not [name for name in tar.getnames() if "/data/" in name]
    place = tmp_path / "again"
    assert batchyard("restore", tmp_path / "small.tar", "--dir", place).returncode == 0
    try:
        up = batchyard("up", "--dir", place, "--port", "0", "--nodes", "0")
        assert up.returncode == 0, up.stderr
    finally:
        batchyard("down", "--dir", place)


def test_nothing_is_written_over(filled: Server, archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    again = batchyard("backup", archive, "--dir", filled.directory)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    assert archive.read_bytes() == before
    (tmp_path / "mine").write_text("")
    into = batchyard("restore", archive, "--dir", tmp_path)
    assert (into.returncode, "is not empty" in into.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    nothing = batchyard("backup", tmp_path / "x.tar", "--dir", tmp_path)
    assert (nothing.returncode, "no database" in nothing.stderr) == (1, True)


def _rewritten(archive: Path, change: Any) -> bytes:
    """The archive with its members as `change(name, content)` gives them; None leaves one out."""
    out = io.BytesIO()
    with tarfile.open(archive) as tar, tarfile.open(fileobj=out, mode="w") as target:
        for member in tar:
            file = tar.extractfile(member)
            content = change(member.name, file.read() if file else b"")
            if content is not None:
                member.size = len(content) if member.isreg() else 0
                target.addfile(member, io.BytesIO(content))
    return out.getvalue()


DAMAGE = {
    "cut short": lambda archive: archive.read_bytes()[: archive.stat().st_size // 2],
    "empty": lambda archive: b"",
    "no tar": lambda archive: os.urandom(10_000),
    "a byte": lambda archive: _rewritten(archive, lambda name, text: b"?" + text[1:] if name == "account.json" else text),
    "a file gone": lambda archive: _rewritten(archive, lambda name, text: None if name == "account.json" else text),
    "no manifest": lambda archive: _rewritten(archive, lambda name, text: None if name == work.MANIFEST else text),
    "odd manifest": lambda archive: _rewritten(archive, lambda name, text: b"{}" if name == work.MANIFEST else text),
    "newer": lambda archive: _rewritten(
        archive, lambda name, text: text.replace(b'"format":1', b'"format":9') if name == work.MANIFEST else text
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_restores_nothing(archive: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "hurt.tar").write_bytes(DAMAGE[damage](archive))
    done = batchyard("restore", tmp_path / "hurt.tar", "--dir", tmp_path / "place")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hurt.tar"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "link"])
def test_an_archive_writes_nothing_elsewhere(archive: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(work.Unusable, match="nothing that a backup holds"):
        work.restore(tmp_path / "evil.tar", tmp_path / "deep" / "place")
    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "deep").iterdir()) == []


def test_blobs_that_were_lost_before_do_not_keep_it_from_ending(tmp_path: Path) -> None:
    place = tmp_path / "state"
    store = LocalBlobStore(place / "blobs")
    from batchyard.blobs.base import ALWAYS, BlobDraft, BlobRef, ContainerRef

    store.create_container(ContainerRef("a", "box"), {}, 1)
    for name in ("lost", "kept"):
        upload = store.put(BlobRef("a", "box", name), BlobDraft(), ALWAYS)
        upload.write(b"x" * BIG)
        upload.commit(1)
        if name == "lost":
            [data] = (place / "blobs" / "data").glob("*/*")
    store.close()
    data.unlink()
    sqlite3.connect(place / "batchyard.db").execute("CREATE TABLE t (x)").connection.close()
    work.backup(place, tmp_path / "b.tar")
    work.restore(tmp_path / "b.tar", tmp_path / "again")
    assert len(list((tmp_path / "again" / "blobs" / "data").glob("*/*"))) == 1
