"""A state directory that is damaged: one sentence and exit code 1, nothing fresh beside what is left, and whole again it works."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli import daemon
from batchyard.drivers import sqlite as driver
from batchyard.server import account_file
from batchyard.store.migrate import WORLD
from batchyard.store.soundness import damage


def build(connection: sqlite3.Connection, version: int) -> None:
    driver.build(connection, version, WORLD)


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a server leaves it that ended."""
    directory = tmp_path_factory.mktemp("whole") / "state"
    done = batchyard("up", "--dir", directory, "--port", "0", "--nodes", "0")
    assert done.returncode == 0, done.stderr
    assert batchyard("down", "--dir", directory).returncode == 0
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it."""
    shutil.copytree(whole, tmp_path / "state")
    yield tmp_path / "state"
    daemon.stop(tmp_path / "state")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = os.urandom(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove(path: Path) -> None:
    path.unlink()


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.touch()


def make_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def begin_anew(path: Path) -> None:
    """A sound SQLite file that nobody has put anything into."""
    _instead(path, "CREATE TABLE x (a)", "DROP TABLE x")


def put_another_programs_in_its_place(path: Path) -> None:
    _instead(path, "CREATE TABLE job (id TEXT)", "CREATE TABLE songs (title TEXT)", "PRAGMA user_version = 7")


def drop_a_table(path: Path) -> None:
    _change(path, "DROP TABLE node" if path.name == "batchyard.db" else "DROP TABLE segments")


def drop_a_column(path: Path) -> None:
    _change(path, "ALTER TABLE node DROP COLUMN slots_used" if path.name == "batchyard.db" else "ALTER TABLE blobs DROP COLUMN length")


def _instead(path: Path, *sql: str) -> None:
    path.unlink()
    _change(path, *sql)


def _change(path: Path, *sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in sql:
            connection.execute(statement)


DAMAGES = [
    *(("serve", name, harm) for name in ("account.json", "batchyard.db", "blobs/catalogue.db") for harm in (cut, empty, remove)),
    ("serve", "account.json", replace_by_directory),
    ("serve", "batchyard.db", replace_by_directory),
    ("serve", "batchyard.db", scribble),
    ("serve", "server.lock", replace_by_directory),
    ("serve", "blobs/lock", replace_by_directory),
    *(
        ("serve", name, harm)
        for name in ("batchyard.db", "blobs/catalogue.db")
        for harm in (begin_anew, put_another_programs_in_its_place, drop_a_table, drop_a_column)
    ),
    *(("serve", name, replace_by_file) for name in ("nodes", "blobs", "blobs/data")),
    *(("serve", name, make_directory) for name in ("server.json", "reserve")),
    ("up", "account.json", cut),
    ("up", "batchyard.db", empty),
]


@pytest.mark.parametrize(("command", "name", "harm"), DAMAGES, ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_a_damaged_file_is_one_sentence_and_nothing_is_made_beside_it(
    directory: Path, command: str, name: str, harm: Callable[[Path], None]
) -> None:
    harm(directory / name)
    before = {path.name for path in directory.iterdir()}
    done = batchyard(command, "--dir", directory, "--port", "0", "--nodes", "0")
    assert done.returncode == 1
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("batchyard: ")
    assert Path(name).name in sentence or str(directory) in sentence
    assert {path.name for path in directory.iterdir()} - before <= {"server.log", "batchyard.db-wal", "batchyard.db-shm"}
    if harm in (remove, empty):
        assert not (directory / name).exists() or not (directory / name).stat().st_size


def test_what_a_lock_holds_does_not_matter(directory: Path) -> None:
    (directory / "server.lock").write_text("4711\n")
    (directory / "blobs/lock").write_bytes(bytes(5000))
    assert batchyard("up", "--dir", directory, "--port", "0", "--nodes", "0").returncode == 0


GOOD = b64encode(bytes(range(64))).decode()
ACCOUNT = {"name": "batchyard", "keys": [GOOD, GOOD], "storageName": "batchyardstorage", "storageKey": GOOD, "nodeKey": GOOD}
BAD_KEYS = ["", "!!!", "abc", "a2V5", "=", GOOD[:-1], GOOD + "\n", "ä" * 88]
WRONG: list[dict[str, Any]] = [
    *({"keys": [key, GOOD]} for key in BAD_KEYS),
    *({"keys": [GOOD, key]} for key in BAD_KEYS),
    *({name: key} for name in ("storageKey", "nodeKey") for key in BAD_KEYS),
    {"keys": []},
    {"keys": [GOOD] * 3},
    {"keys": GOOD},
    {"keys": None},
    {"name": ""},
    {"name": "a/b"},
    {"storageName": "a b"},
    {"storageName": 7},
]


@pytest.mark.parametrize("change", WRONG, ids=json.dumps)
def test_a_key_or_name_that_grants_what_it_should_not_is_refused_when_it_is_read(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "account.json"
    path.write_text(json.dumps(ACCOUNT))
    assert account_file.read(path) is not None
    path.write_text(json.dumps(ACCOUNT | change))
    with pytest.raises(account_file.Unusable) as caught:
        account_file.read(path)
    assert GOOD not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "abc"])
def test_a_server_does_not_start_with_such_a_key(directory: Path, key: str) -> None:
    account = json.loads((directory / "account.json").read_bytes())
    (directory / "account.json").write_text(json.dumps(account | {"keys": [key, account["keys"][1]]}))
    done = batchyard("serve", "--dir", directory, "--port", "0", "--nodes", "0")
    assert done.returncode == 1
    assert "keys[0]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", json.dumps(ACCOUNT | {"keys": []}), json.dumps(ACCOUNT | {"keys": [1]})])
def test_commands_that_read_the_account_say_so_too(tmp_path: Path, content: str) -> None:
    (tmp_path / "account.json").write_text(content)
    with pytest.raises(daemon.Problem, match=r"account\.json"):
        daemon.account(tmp_path)


@pytest.mark.parametrize("made", [(), ("batchyard.db",)])
def test_a_first_start_that_a_crash_cut_short_is_finished_by_the_next(directory: Path, made: tuple[str, ...]) -> None:
    (directory / "account.json").rename(directory / "account.new")
    name = json.loads((directory / "account.new").read_bytes())["keys"]
    for part in ("batchyard.db", "blobs"):
        if part not in made:
            path = directory / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert batchyard("up", "--dir", directory, "--port", "0", "--nodes", "0").returncode == 0
    assert json.loads((directory / "account.json").read_bytes())["keys"] == name
    assert not (directory / "account.new").exists()


def test_a_log_that_is_not_moved_yet_is_no_damage(directory: Path) -> None:
    database = directory / "batchyard.db"
    assert damage(database, build) is None
    database.with_name("batchyard.db-wal").write_bytes(b"")
    assert damage(database, build) is None


def test_the_database_of_every_release_is_known_as_one(tmp_path: Path) -> None:
    for version, _ in WORLD.migrations():
        path = tmp_path / f"{version}.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            build(connection, version)
        assert damage(path, build) is None
    _change(path, f"PRAGMA user_version = {version + 1}")
    assert damage(path, build) is None, "a newer one is refused as such, by what opens it"
