"""What the two SQLite files of a server need alike: knowing a full disk, a clean connection, and files that shrink again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

S = TypeVar("S", bound=sqlite3.Connection)

_INCREMENTAL = 2
_PASSING = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SLACK_PAGES = 256
"""So many free pages stay in the file: what is added next takes them."""
_SLACK_PART = 20
"""And one of so many pages of the whole."""


def passing(error: BaseException) -> bool:
    """True for what is over once the disk or another process lets go: full, unreadable for the moment, locked."""
    return isinstance(error, sqlite3.Error) and _primary(error) in _PASSING


def full(error: BaseException) -> bool:
    """True when SQLite found no room on the disk."""
    return isinstance(error, sqlite3.Error) and _primary(error) == sqlite3.SQLITE_FULL


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def undone(connection: sqlite3.Connection, error: BaseException) -> bool:
    """Undo what a failed transaction left; False when nobody knows any more what the connection holds, so that it must go."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    known = not isinstance(error, sqlite3.Error) or _primary(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_ERROR)
    return known and not connection.in_transaction


def close(connection: sqlite3.Connection) -> None:
    """Close a connection, whatever state it is in."""
    with suppress(sqlite3.Error):
        connection.close()


class Journal(Generic[S]):
    """The connection that writes to a file, for `disk.commits`; `open` makes it anew when it was given up.

    A database in memory is its connection and is not given up.
    """

    def __init__(self, connection: S, open: Callable[[], S], *, in_memory: bool = False) -> None:
        self._open, self._in_memory = open, in_memory
        self.connection: S | None = connection
        """None when the last one was given up."""

    def begin(self) -> S:
        """Begin to write. Raises sqlite3.Error."""
        if self.connection is None:
            self.connection = self._open()
        self.connection.execute("BEGIN IMMEDIATE")
        return self.connection

    def mark(self) -> None:
        """A point that `undo` comes back to."""
        self._at_work().execute("SAVEPOINT unit")

    def undo(self) -> None:
        """Undo what was written since the mark."""
        self._at_work().execute("ROLLBACK TO unit")

    def keep(self) -> None:
        """Forget the mark."""
        self._at_work().execute("RELEASE unit")

    def commit(self, topics: Sequence[str]) -> None:
        """Returns when all is on disk; nobody else follows this file."""
        self._at_work().execute("COMMIT")

    def abandon(self, error: BaseException) -> None:
        """Undo a transaction that failed."""
        if self.connection is not None and not undone(self.connection, error) and not self._in_memory:
            close(self.connection)
            self.connection = None

    def spoils(self, error: BaseException) -> bool:
        """True when SQLite may have undone the whole transaction."""
        return passing(error)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            close(self.connection)

    def _at_work(self) -> S:
        """Raises sqlite3.OperationalError when SQLite undid all of the transaction."""
        if self.connection is None or not self.connection.in_transaction:
            raise sqlite3.OperationalError("the transaction is gone")
        return self.connection


def let_shrink(connection: sqlite3.Connection, path: Path) -> bool:
    """Have the file keep track of free pages, as `shrink` needs it; False when a full one has no room to be written anew.

    A file without tables takes no time, one of an earlier release is copied once. Raises sqlite3.Error.
    """
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == _INCREMENTAL:
        return True
    seen = os.statvfs(path.parent)
    if path.stat().st_size * 5 // 2 > seen.f_bavail * seen.f_frsize:  # a copy, and the log that takes it back
        return False
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(truncate)").fetchone()
    return True


def shrink(connection: sqlite3.Connection, pages: int) -> int:
    """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more, none where it cannot shrink."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    free = _free_pages(connection)
    (whole,) = connection.execute("PRAGMA page_count").fetchone()
    steps = min(pages, free - max(_SLACK_PAGES, int(whole) // _SLACK_PART))
    if mode != _INCREMENTAL or steps <= 0:
        return 0
    for _ in range(steps):
        connection.execute("PRAGMA incremental_vacuum(1)")  # Python takes the first step of it alone, whatever the number
    return free - _free_pages(connection)


def _free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)
