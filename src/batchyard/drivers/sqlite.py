"""A SQLite file, or one in memory: one connection that writes, a few that read, synced to disk before anybody hears (D14)."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TypeVar

import structlog

from batchyard.disk import sqlite
from batchyard.disk.sqlite import Journal
from batchyard.drivers.base import Use
from batchyard.drivers.migrations import Chain

T = TypeVar("T")
log = structlog.get_logger()

MEMORY = Path(":memory:")
_READERS = 3
_CHECKPOINT_BYTES = 4_000_000
_PRAGMAS = (
    "PRAGMA journal_mode = wal",
    "PRAGMA synchronous = full",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_size_limit = 67108864",
)
_TENDED_PAGES = 20_000
"""Whoever tends a file checkpoints it; this is the bound of its log should they ever stand still."""
_WORDS = {"KEY": "INTEGER PRIMARY KEY", "NAME": "INTEGER PRIMARY KEY AUTOINCREMENT", "BYTES": "BLOB"}


class SqliteConnection(sqlite3.Connection):
    """A connection as the store wants it, which is nearly what SQLite's is."""

    lazy = False

    def settle(self) -> None:
        """Nothing: every answer is there."""

    def last_given(self, table: str, column: str) -> int:
        """The highest key that ever was, where none is given twice; else the highest that is."""
        (highest,) = self.execute(f"SELECT COALESCE(MAX({column}), 0) FROM {table}").fetchone()
        kept = None
        if self.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is not None:
            kept = self.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return max(int(highest), 0 if kept is None else int(kept[0]))

    def give_after(self, table: str, column: str, number: int) -> None:
        """Give higher keys, where none is given twice; elsewhere the highest that is decides."""
        (made,) = self.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        if "AUTOINCREMENT" in made and number:
            self.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def moment(self) -> int:
        """Microseconds since 1970 by this machine's clock; nobody else has the file."""
        return time.time_ns() // 1000

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more."""
        return sqlite.shrink(self, pages)


class SqliteDriver:
    """A file, or memory, that is open."""

    def __init__(self, path: Path, use: Use) -> None:
        self._path, self._use = path, use
        self.readers = 0 if path == MEMORY else _READERS
        self.journal = Journal(self._first_connection(), self._writer, in_memory=path == MEMORY)
        self._idle: deque[SqliteConnection] = deque()

    def _first_connection(self) -> SqliteConnection:
        """The writer's, with the schema as it should be; the only one that may make the file."""
        connection = self._connect(self._use.cache_kib[0], new=True)
        try:
            if self._path != MEMORY:
                self._let_shrink(connection)
            migrate(connection, self._use.chain)
        except BaseException:
            connection.close()
            raise
        return _for_writing(connection)

    def _writer(self) -> SqliteConnection:
        return _for_writing(self._connect(self._use.cache_kib[0]))

    def _let_shrink(self, connection: sqlite3.Connection) -> None:
        try:
            if not sqlite.let_shrink(connection, self._path):
                log.warning("the database keeps its size: too little room to write it anew", path=str(self._path))
        except sqlite3.Error as error:
            if not sqlite.passing(error) or not sqlite.undone(connection, error):
                raise
            log.warning("the database keeps its size for now", path=str(self._path), reason=str(error))

    def _connect(self, cache_kib: int, *, new: bool = False) -> SqliteConnection:
        """A connection; a database that is not there is made only when it is `new`. Raises sqlite3.Error."""
        path = str(self._path) if new else f"{self._path.absolute().as_uri()}?mode=rw"
        connection: SqliteConnection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=512, uri=not new, factory=SqliteConnection
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            connection.execute(f"PRAGMA cache_size = -{cache_kib}")
            if self._use.tended:
                connection.execute(f"PRAGMA wal_autocheckpoint = {_TENDED_PAGES}")
            if self._use.named:
                connection.row_factory = sqlite3.Row
        except BaseException:
            sqlite.close(connection)
            raise
        return connection

    @contextmanager
    def reading(self) -> Iterator[SqliteConnection]:
        """A snapshot on a connection that nobody else has. Raises sqlite3.Error."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect(self._use.cache_kib[1])
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error:
            sqlite.close(connection)
            raise
        except BaseException:
            self._idle.append(connection)
            raise
        self._idle.append(connection)

    def read(self, query: Callable[[SqliteConnection], T]) -> T:
        """Run a query on a snapshot. Raises what it raises, and sqlite3.Error."""
        with self.reading() as connection:
            return query(connection)

    def passing(self, error: BaseException) -> bool:
        """True for what is over once the disk or another process lets go."""
        return sqlite.passing(error)

    def checkpoint(self, *, empty: bool) -> None:
        """Move what the log holds into the file without stopping the writer; with `empty` its own room is given back too."""
        if self._path == MEMORY or not (empty or self._log_bytes() > _CHECKPOINT_BYTES):
            return
        connection = self._connect(self._use.cache_kib[1])
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute(f"PRAGMA wal_checkpoint({'truncate' if empty else 'passive'})").fetchone()
        except sqlite3.Error as error:
            if not sqlite.passing(error):
                raise
        finally:
            sqlite.close(connection)

    def _log_bytes(self) -> int:
        try:
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        except FileNotFoundError:  # the writer is just opened anew
            return 0

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            sqlite.close(self._idle.pop())
        self.journal.close()


def _for_writing(connection: SqliteConnection) -> SqliteConnection:
    """Keep what undoes a unit in memory: a full directory for temporary files is no reason to refuse a write."""
    connection.execute("PRAGMA temp_store = memory")
    return connection


def migrate(connection: sqlite3.Connection, chain: Chain) -> None:
    """Bring the schema to the newest version, which `user_version` holds. Raises NewerSchema."""
    (at,) = connection.execute("PRAGMA user_version").fetchone()
    for number, sql in chain.pending(at):
        _apply(connection, number, sql)


def build(connection: sqlite3.Connection, version: int, chain: Chain) -> None:
    """Make in an empty database what one of that version holds; nothing for that of a newer release, which is not known here."""
    known = chain.migrations()
    for number, sql in known:
        if number <= version <= known[-1][0]:
            _apply(connection, number, sql)


def _apply(connection: sqlite3.Connection, number: int, sql: str) -> None:
    connection.executescript(f"BEGIN;\n{Template(sql).substitute(_WORDS)}\nPRAGMA user_version = {number};\nCOMMIT;")
