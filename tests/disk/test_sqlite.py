"""Database files give back what they no longer need, as far as they can, and say how much it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from batchyard.disk import sqlite

ROWS = 3_000
STEP = 250


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    return connection


def fill_and_empty(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE t (content BLOB)")
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO t SELECT zeroblob(4000) FROM n", (ROWS,)
    )
    connection.execute("DELETE FROM t")


def free(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def test_a_file_that_keeps_no_track_of_its_free_pages_gives_none_and_says_none(path: Path) -> None:
    """As one of an earlier release does that had no room to be written anew: who asked on until nothing came would never end."""
    with closing(connect(path)) as connection:
        fill_and_empty(connection)
        before = free(connection)
        assert before > ROWS // 2
        assert sqlite.shrink(connection, STEP) == 0
        assert free(connection) == before


def test_what_is_said_to_be_given_is_given_until_there_is_no_more(path: Path) -> None:
    with closing(connect(path)) as connection:
        assert sqlite.let_shrink(connection, path)
        fill_and_empty(connection)
        given = [STEP]
        while given[-1] == STEP:
            before = free(connection)
            given.append(sqlite.shrink(connection, STEP))
            assert before - free(connection) == given[-1]
        assert sum(given) > ROWS // 2
        assert sqlite.shrink(connection, STEP) == 0
