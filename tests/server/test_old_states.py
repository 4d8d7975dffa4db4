"""A state directory of a release that had one account becomes one of this release, wherever the first start is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from tests.api.conftest import Raw
from tests.conftest import Server

from batchyard.drivers.sqlite import build
from batchyard.engine.wakes import Wakes
from batchyard.server import state
from batchyard.server.refusals import Refused
from batchyard.store import accounts as rows
from batchyard.store import migrate, storage

FIXTURE = Path(__file__).parents[1] / "fixtures" / "state-0.1"
"""What version 0.1 left: a pool, a job with a completed task and one that waits, a small blob and one in a file of its own."""
LARGE = b"x" * 70_000


def old(directory: Path) -> Path:
    """A state directory as it was left."""
    directory.mkdir(exist_ok=True)
    (directory / "blobs").mkdir(mode=0o700)
    for name, path in (("batchyard", "batchyard.db"), ("catalogue", "blobs/catalogue.db")):
        with sqlite3.connect(directory / path) as database:
            database.executescript((FIXTURE / f"{name}.sql").read_text())
        [large] = [row[0] for row in database.execute("SELECT file FROM segments WHERE file IS NOT NULL")] if name == "catalogue" else [""]
        database.close()
    data = directory / "blobs" / "data" / large[:2] / large
    data.parent.mkdir(parents=True)
    data.write_bytes(LARGE)
    (directory / "account.json").write_bytes((FIXTURE / "account.json").read_bytes())
    (directory / "account.json").chmod(0o600)
    return directory


def test_a_server_of_this_release_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    began = Server.start
    monkeypatch.setattr(Server, "start", lambda self: ((self.directory / "blobs").exists() or old(self.directory), began(self))[1])
    server = Server(nodes=1)
    try:
        found = json.loads((FIXTURE / "account.json").read_text())
        assert (server.account, server.key) == (found["name"], found["keys"][0])
        raw = Raw(server.endpoint, server.account, server.key)
        assert raw("GET", "/jobs/old/tasks/done").json["executionInfo"]["exitCode"] == 3
        assert raw("GET", "/jobs/old/tasks/waits").json["state"] == "active"
        blobs = BlobServiceClient.from_connection_string(server.storage_connection_string)
        assert blobs.get_blob_client("old", "small").download_blob().readall() == b"kept"
        assert blobs.get_blob_client("old", "large").download_blob().readall() == LARGE
        operator = Raw(server.endpoint, "$operator", (server.directory / "operator.key").read_text().strip())
        assert [each["name"] for each in operator("GET", "/batchyard/v1/accounts").json["value"]] == [server.account]
        assert operator("POST", "/batchyard/v1/accounts", {"name": "second"}).status == 201
        keys = operator("GET", f"/batchyard/v1/storageaccounts/{server.storage_account}/keys").json
        assert keys["primary"] == found["storageKey"]
        server.kill()
        server.start()
        assert operator("GET", f"/batchyard/v1/storageaccounts/{server.storage_account}/keys").json == keys
        second = server.storage_connection_string.replace(keys["primary"], keys["secondary"])
        assert BlobServiceClient.from_connection_string(second).get_blob_client("old", "small").download_blob().readall() == b"kept"
    finally:
        server.stop()


def open_all(directory: Path) -> None:
    """What a server does with its directory before it answers anybody."""
    account, *parts = state.open_state(directory, Wakes())
    try:
        state.open_registry(directory, account, 1).close()
        state.operator_key(directory)
    finally:
        for part in parts:
            part.close()


_STEPS = tuple(f"batchyard/{name}.py" for name in ("server/state", "server/account_file", "drivers/sqlite", "store/accounts"))


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Run work in a process of its own that is killed at the `step`th line of what migrates; False when it came to its end before."""
    pid = os.fork()
    if pid == 0:
        left = step

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(_STEPS):
                return None
            left -= event == "line"
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        import threading

        threading.settrace(trace)
        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("made", [old, lambda path: path], ids=["old", "new"])
def test_a_start_that_is_killed_at_any_step_is_made_good_by_the_next(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    step, kills = 1, 0
    while True:
        directory = tmp_path / f"killed-{step}"
        directory.mkdir()
        made(directory)
        if not killed_at(step, lambda directory=directory: open_all(directory)):  # type: ignore[misc]
            break
        kills += 1
        open_all(directory)
        account = json.loads((directory / "account.json").read_text())
        with sqlite3.connect(directory / "registry.db") as registry:
            assert registry.execute("SELECT name, state, location FROM account").fetchall() == [(account["name"], "active", ".")]
            linked = "SELECT storage.name, storage.state FROM storage JOIN account ON account.pk = account_pk"
            assert registry.execute(linked).fetchall() == [(account["storageName"], "active")]
        registry.close()
        assert (directory / "operator.key").stat().st_mode & 0o777 == 0o600
        step += 17  # a prime, so that in the end no line is always passed over
    assert kills > 5


def test_a_registry_that_knew_no_storage_accounts_gets_the_linked_ones(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with sqlite3.connect(path, isolation_level=None) as registry:
        build(registry, 2, migrate.REGISTRY)
        for name in ("alpha", "beta"):
            sql = "INSERT INTO account (name, state, location, storage, created) VALUES (?, 'active', ?, ?, 1)"
            registry.execute(sql, (name, f"accounts/{name}", f"{name}storage"))
    registry.close()
    account, *parts = state.open_state(tmp_path, Wakes())
    db = state.open_registry(tmp_path, account, 1)
    found = asyncio.run(db.read(storage.page, 0, 10))
    assert [(row.name, row.state) for row in found] == [
        ("alphastorage", "active"),
        ("betastorage", "active"),
        (account.storage_name, "active"),
    ]
    assert asyncio.run(db.read(rows.storing, "BETAstorage")).name == "beta"  # type: ignore[union-attr]
    for each in (db, *parts):
        each.close()


def test_a_registry_that_is_lost_is_asked_for(tmp_path: Path) -> None:
    open_all(tmp_path)
    (tmp_path / "accounts" / "alpha").mkdir(parents=True)
    (tmp_path / "accounts" / "alpha" / "account.json").write_text("{}")
    for wrong in (None, b"", b"no database at all" * 50):
        (tmp_path / "registry.db").unlink()
        if wrong is not None:
            (tmp_path / "registry.db").write_bytes(wrong)
        with pytest.raises(Refused, match=r"registry\.db"):
            open_all(tmp_path)


def test_an_account_whose_file_has_another_name_now_is_known_by_that(tmp_path: Path) -> None:
    open_all(tmp_path)
    path = tmp_path / "account.json"
    path.write_text(path.read_text().replace('"batchyard"', '"renamed"'))
    account, *parts = state.open_state(tmp_path, Wakes())
    registry = state.open_registry(tmp_path, account, 1)
    found = asyncio.run(registry.read(rows.page, 0, 10))
    assert [(row.name, row.location) for row in found] == [("renamed", ".")]
    for each in (registry, *parts):
        each.close()
