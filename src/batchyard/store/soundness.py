"""Whether a database file is one, and whole, as far as can be seen before anything is written to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
_LOOKED_INTO = 64 << 20
"""Bytes up to which every page is looked at; a larger file would hold up the start, and of it only the length is checked."""


def damage(path: Path) -> str | None:
    """What is wrong with an existing database file, None when nothing is seen. Raises OSError, sqlite3.OperationalError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(100)
    if not size:
        return "it is empty"
    if len(head) < 100 or not head.startswith(_MAGIC):
        return "it is no SQLite database"
    if missing := _missing(head, size, path.with_name(path.name + "-wal")):
        return f"it is cut short by {missing} bytes"
    if size > _LOOKED_INTO:
        return None
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        raise  # it could not be looked at, which is no damage
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if told == "ok" else str(told).replace("\n", " ")[:200]


def _missing(head: bytes, size: int, log: Path) -> int:
    """Bytes that the file's own head says are there and are not; a log that is not moved yet may have them."""
    page = int.from_bytes(head[16:18], "big")
    length = int.from_bytes(head[28:32], "big") * (65_536 if page == 1 else page)
    told = head[24:28] == head[92:96]
    waiting = log.exists() and log.stat().st_size > 0
    return max(length - size, 0) if told and not waiting else 0
