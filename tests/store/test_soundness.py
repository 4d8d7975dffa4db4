"""A database file is told from a damaged one, and from another program's, before anything is written to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from batchyard.drivers.sqlite import build
from batchyard.store import soundness
from batchyard.store.migrate import WORLD
from batchyard.store.soundness import damage

pytestmark = pytest.mark.sqlite


def built(connection: sqlite3.Connection, version: int) -> None:
    build(connection, version, WORLD)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the present release makes it, with some rows in it."""
    path = tmp_path_factory.mktemp("whole") / "batchyard.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        build(connection, max(version for version, _ in WORLD.migrations()), WORLD)
        connection.execute("CREATE TABLE IF NOT EXISTS filling (a)")
        connection.executemany("INSERT INTO filling VALUES (?)", [("x" * 500,)] * 200)
    return path


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(whole, tmp_path))


def run(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                connection.execute(statement)

    return change


def overwrite(path: Path) -> None:
    """Damage the last page, which is one of rows; head and length stay as they are."""
    content = path.read_bytes()
    path.write_bytes(content[:-4096] + b"\xff" * 4096)


def cut(by: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, path.stat().st_size - by)


def test_a_whole_one_has_no_damage(file: Path) -> None:
    assert damage(file, built) is None
    run("CREATE TABLE more (a)")(file)
    assert damage(file, built) is None, "what a newer one has beside it is no damage"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(b"x"), "it is no SQLite database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "it is no SQLite database"),
        (lambda path: path.write_bytes(b"x" * 8192), "it is no SQLite database"),
        (cut(1), "it is cut short by 1 bytes"),
        (cut(10_000), "it is cut short by 10000 bytes"),
        (run("DROP TABLE event"), "it has no table event"),
        (run("DROP TABLE event", "DROP TABLE dependency"), "it has no table dependency, event"),
        (run("ALTER TABLE event RENAME COLUMN cause TO reason"), "its table event has no cause"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(file: Path, change: Callable[[Path], object], said: str) -> None:
    change(file)
    before = file.read_bytes()
    assert damage(file, built) == said
    assert file.read_bytes() == before


def test_of_many_tables_three_are_named(tmp_path: Path) -> None:
    path = tmp_path / "another.db"
    run("CREATE TABLE theirs (a)", f"PRAGMA user_version = {max(version for version, _ in WORLD.migrations())}")(path)
    found = damage(path, built)
    assert found is not None
    assert found.startswith("it has no table ")
    assert (found.count(", "), found.endswith(", ...")) == (3, True)


def test_pages_that_hold_something_else_are_found_in_a_file_that_is_not_too_large(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overwrite(file)
    found = damage(file, built)
    assert found is not None
    assert len(found) <= 200
    assert "\n" not in found
    monkeypatch.setattr(soundness, "_LOOKED_INTO", file.stat().st_size)
    assert damage(file, built) == found
    monkeypatch.setattr(soundness, "_LOOKED_INTO", file.stat().st_size - 1)
    assert damage(file, built) is None, "of a large one only its length and its tables are looked at"


def test_a_log_that_is_not_moved_yet_may_hold_what_the_file_lacks(file: Path) -> None:
    log = file.with_name("batchyard.db-wal")
    head, size = file.read_bytes()[:100], file.stat().st_size
    assert soundness._missing(head, size - 7, log) == 7
    assert soundness._missing(head, size + 7, log) == 0
    log.write_bytes(b"")
    assert soundness._missing(head, size - 7, log) == 7
    log.write_bytes(b"x")
    assert soundness._missing(head, size - 7, log) == 0


def test_a_file_that_cannot_be_looked_at_is_not_called_damaged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(soundness.sqlite3, "connect", locked)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        damage(file, built)
    with pytest.raises(FileNotFoundError):
        damage(file.with_name("none"), built)
