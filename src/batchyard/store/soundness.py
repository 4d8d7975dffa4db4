"""Whether a database file is one, whole, and ours, as far as can be seen before anything is written to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
_LOOKED_INTO = 64 << 20
"""Bytes up to which every page is looked at; a larger file would hold up the start, and of it only the length is checked."""
_NAMED = 3


def damage(path: Path, build: Callable[[sqlite3.Connection, int], None]) -> str | None:
    """What is wrong with an existing database file, None when nothing is seen. Raises OSError, sqlite3.OperationalError.

    `build` makes in an empty database what one with that `user_version` must hold.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(100)
    if not size:
        return "it is empty"
    if len(head) < 100 or not head.startswith(_MAGIC):
        return "it is no SQLite database"
    if missing := _missing(head, size, path.with_name(path.name + "-wal")):
        return f"it is cut short by {missing} bytes"
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            if size <= _LOOKED_INTO and (broken := _broken(connection)):
                return broken
            return _lacking(connection, build)
    except sqlite3.OperationalError:
        raise  # it could not be looked at, which is no damage
    except sqlite3.DatabaseError as error:
        return str(error)


def _broken(connection: sqlite3.Connection) -> str | None:
    (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if told == "ok" else str(told).replace("\n", " ")[:200]


def _lacking(connection: sqlite3.Connection, build: Callable[[sqlite3.Connection, int], None]) -> str | None:
    """Which tables and columns are not there: it is another program's file, or somebody began a fresh one in the place of ours."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        build(model, version)
        wanted = _columns(model)
    found = _columns(connection)
    if tables := sorted(wanted.keys() - found.keys()):
        return f"it has no table {', '.join(tables[:_NAMED])}{', ...' * (len(tables) > _NAMED)}"
    for table, columns in wanted.items():
        if gone := sorted(columns - found[table]):
            return f"its table {table} has no {', '.join(gone[:_NAMED])}"
    return None


def _columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """The names of all columns, by table."""
    found: dict[str, set[str]] = {}
    sql = (
        "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
    )
    for table, column in connection.execute(sql):
        found.setdefault(table, set()).add(column)
    return found


def _missing(head: bytes, size: int, log: Path) -> int:
    """Bytes that the file's own head says are there and are not; a log that is not moved yet may have them."""
    page = int.from_bytes(head[16:18], "big")
    length = int.from_bytes(head[28:32], "big") * (65_536 if page == 1 else page)
    told = head[24:28] == head[92:96]
    waiting = log.exists() and log.stat().st_size > 0
    return max(length - size, 0) if told and not waiting else 0
