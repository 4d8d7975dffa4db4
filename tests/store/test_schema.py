"""Migrations and the tables they make."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import StaticPool
from sqlalchemy.types import BigInteger, Integer, LargeBinary, Text

from batchyard.store import tables
from batchyard.store.db import MEMORY, Database
from batchyard.store.migrate import NewerSchema, migrate, migrations
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolRow
from batchyard.store.tasks import TaskRow


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_migrations_are_numbered_without_gaps_and_apply_from_nothing() -> None:
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))
    connection = sqlite3.connect(MEMORY)
    migrate(connection)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
    before = schema(connection)
    migrate(connection)
    assert schema(connection) == before


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batchyard.db"
    broken = [*migrations(), (len(migrations()) + 1, "CREATE TABLE half (pk ${KEY}); INSERT INTO nowhere VALUES (1);")]
    with monkeypatch.context() as patched:
        patched.setattr("batchyard.store.migrate.migrations", lambda: broken)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            Database(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
    assert "half" not in dict(schema(connection))
    connection.close()
    Database(path).close()


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    connection.close()
    with pytest.raises(NewerSchema, match=f"schema {len(migrations()) + 1}, this release knows {len(migrations())}"):
        Database(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()) + 1,)
    connection.close()


def test_the_migrated_schema_is_the_one_in_tables() -> None:
    connection = sqlite3.connect(MEMORY, check_same_thread=False)
    migrate(connection)
    found = inspect(create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool))
    assert set(found.get_table_names()) == set(tables.metadata.tables)
    kinds: dict[type, str] = {Text: "TEXT", BigInteger: "INT", Integer: "INT", LargeBinary: "BLOB"}
    for name, table in tables.metadata.tables.items():
        there = {column["name"]: str(column["type"]) for column in found.get_columns(name)}
        assert list(there) == [column.name for column in table.columns], name
        for column in table.columns:
            kind = next(word for known, word in kinds.items() if isinstance(column.type, known))
            assert kind in there[column.name], f"{name}.{column.name}"
        keys = [column.name for column in table.primary_key.columns]
        assert keys in ([], found.get_pk_constraint(name)["constrained_columns"]), name


@pytest.mark.parametrize(("row", "table"), [(TaskRow, tables.task), (NodeRow, tables.node), (PoolRow, tables.pool)])
def test_rows_hold_every_column(row: type[TaskRow], table: object) -> None:
    assert [*row.__struct_fields__] == [column.name for column in table.columns]  # type: ignore[attr-defined]
