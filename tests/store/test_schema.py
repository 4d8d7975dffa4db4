"""Migrations and the tables they make."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batchyard.drivers.sqlite import migrate
from batchyard.store.db import MEMORY, Database
from batchyard.store.migrate import WORLD, NewerSchema
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolRow
from batchyard.store.tasks import TaskRow


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_migrations_are_numbered_without_gaps_and_apply_from_nothing() -> None:
    numbers = [number for number, _ in WORLD.migrations()]
    assert len(set(numbers)) == len(numbers)
    assert set(range(1, numbers[-1] + 1)) - set(numbers) == {14, 20, 21}  # were kept free for changes that needed none
    connection = sqlite3.connect(MEMORY)
    migrate(connection, WORLD)
    assert connection.execute("PRAGMA user_version").fetchone() == (WORLD.migrations()[-1][0],)
    before = schema(connection)
    migrate(connection, WORLD)
    assert schema(connection) == before


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batchyard.db"
    broken = [*WORLD.migrations(), (WORLD.migrations()[-1][0] + 1, "CREATE TABLE half (pk ${KEY}); INSERT INTO nowhere VALUES (1);")]
    with monkeypatch.context() as patched:
        patched.setattr("batchyard.drivers.migrations.Chain.migrations", lambda *_: broken)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            Database(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (WORLD.migrations()[-1][0],)
    assert "half" not in dict(schema(connection))
    connection.close()
    Database(path).close()


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {WORLD.migrations()[-1][0] + 1}")
    connection.close()
    with pytest.raises(NewerSchema, match=f"schema {WORLD.migrations()[-1][0] + 1}, this release knows {WORLD.migrations()[-1][0]}"):
        Database(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (WORLD.migrations()[-1][0] + 1,)
    connection.close()


@pytest.mark.parametrize(("row", "table"), [(TaskRow, "task"), (NodeRow, "node"), (PoolRow, "pool")])
def test_rows_hold_every_column_of_the_migrated_schema(row: type[TaskRow], table: str) -> None:
    connection = sqlite3.connect(MEMORY)
    migrate(connection, WORLD)
    columns = connection.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,)).fetchall()
    assert [*row.__struct_fields__] == [name for (name,) in columns]
