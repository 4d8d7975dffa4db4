"""The SQLite catalogue of a local blob store: one connection that writes, a few that read.

Invariant: `write` returns only after its change is on disk (WAL, synchronous=FULL). Units of work that wait at the same
moment share one commit (a savepoint each), because the fsync is the price.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from batchyard.disk import commits, sqlite
from batchyard.disk.commits import Unit

log = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 256


class _Unit(Unit[sqlite3.Connection], Generic[T]):
    """One unit of work and what became of it."""

    __slots__ = ("done", "value", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T]) -> None:
        super().__init__()
        self.work = work
        self.done = False
        self.value: T | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        self.value = self.work(connection)


class NewerCatalogue(RuntimeError):
    """A newer release wrote the catalogue."""


@dataclass(frozen=True)
class Schema:
    """Tables, step by step: what a step made is never changed, a later one adds to it. Each step is one transaction."""

    steps: tuple[tuple[str, ...], ...]

    @property
    def newest(self) -> int:
        """The version that this release makes; `user_version` says which one a file has."""
        return len(self.steps)

    def build(self, connection: sqlite3.Connection, version: int | None = None) -> None:
        """Make what a catalogue of that version holds, out of an empty one or an older one. Raises NewerCatalogue.

        Catalogues of before there were versions say 0 and hold what the first step makes.
        """
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > self.newest:
            raise NewerCatalogue(f"catalogue {found}, this release knows {self.newest}")
        for number, step in enumerate(self.steps[: self.newest if version is None else max(version, 1)], 1):
            if number <= found:
                continue
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in step:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


class Catalogue:
    """Database file with group commit; safe to use from any thread."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema
        self._lock = threading.Lock()
        self._waiting: deque[_Unit[Any]] = deque()
        self._readers: deque[sqlite3.Connection] = deque()
        self._journal = sqlite.Journal(self._open_writer(new=True), self._open_writer)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction and return its result once that is on disk; its exception undoes it alone."""
        (unit,) = self._done([work])
        if unit.error is not None:
            raise _as_disk_error(unit.error)
        return cast(T, unit.value)

    def write_all(self, works: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T | BaseException]:
        """The same for several at once, in their order; in the place of a result that there is none of, what was raised."""
        return [cast(T, unit.value) if unit.error is None else _as_disk_error(unit.error) for unit in self._done(works)]

    def _done(self, works: Sequence[Callable[[sqlite3.Connection], T]]) -> list[_Unit[T]]:
        units = [_Unit(work) for work in works]
        self._waiting.extend(units)
        # Whoever gets the lock first commits for all that wait; the others find their units done.
        with self._lock:
            while not all(unit.done for unit in units):
                self._run_batch()
        return units

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A snapshot of everything acknowledged so far: what is read within it agrees, whatever is committed meanwhile."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")
            self._readers.append(connection)

    def close(self) -> None:
        """Close all connections; the caller sees to it that nothing is under way."""
        while self._readers:
            self._readers.pop().close()
        self._journal.close()

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more."""
        given = self.write(lambda tx: sqlite.shrink(tx, pages))
        if 0 < given < pages:
            with self.reading() as connection, suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA wal_checkpoint(truncate)").fetchone()
        return given

    def _connect(self, *, new: bool = False) -> sqlite3.Connection:
        path = str(self._path) if new else f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30, uri=not new)
        connection.row_factory = sqlite3.Row
        return connection

    def _open_writer(self, *, new: bool = False) -> sqlite3.Connection:
        connection = self._connect(new=new)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if new:
                _let_shrink(connection, self._path)
                self._schema.build(connection)
            connection.execute("PRAGMA temp_store = memory")
        except BaseException:
            sqlite.close(connection)
            raise
        return connection

    def _run_batch(self) -> None:
        """Run the oldest units that wait, up to _BATCH, in one commit; raises nothing, and every unit is done behind it."""
        units = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        commits.commit(self._journal, units)
        for unit in units:
            unit.done = True


def _let_shrink(connection: sqlite3.Connection, path: Path) -> None:
    try:
        sqlite.let_shrink(connection, path)
    except sqlite3.Error as error:
        if not sqlite.passing(error) or not sqlite.undone(connection, error):
            raise
        log.warning("the catalogue keeps its size for now: %s", error)


def _as_disk_error(error: BaseException) -> BaseException:
    """A full disk is an OSError, whoever met it."""
    if sqlite.full(error):
        return OSError(errno.ENOSPC, "the catalogue cannot grow")
    return error
