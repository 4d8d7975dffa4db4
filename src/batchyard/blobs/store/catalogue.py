"""A catalogue of blobs or of queues in a database: one connection that writes, a few that read.

Invariant: `write` returns only after its change is on disk. Units of work that wait at the same moment share one commit (a savepoint
each), because the way to the disk is the price.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from batchyard import drivers
from batchyard.blobs.errors import BlobError, Unavailable
from batchyard.disk import commits, sqlite
from batchyard.disk.commits import Unit
from batchyard.drivers.base import Connection, Driver, Use
from batchyard.drivers.migrations import Chain

T = TypeVar("T")

_BATCH = 256
_CACHE_KIB = (2_000, 2_000)


class _Unit(Unit[Connection], Generic[T]):
    """One unit of work and what became of it."""

    __slots__ = ("done", "value", "work")

    def __init__(self, work: Callable[[Connection], T]) -> None:
        super().__init__()
        self.work = work
        self.done = False
        self.value: T | None = None

    def run(self, connection: Connection) -> None:
        try:
            self.value = self.work(connection)
        except BlobError:
            connection.settle()  # what failed before may be why it came so far
            raise
        connection.settle()


class Catalogue:
    """A database with group commit; safe to use from any thread. Raises Unavailable, or OSError for a full disk, what is over by itself."""

    def __init__(self, location: Path | str, schema: Chain) -> None:
        self._driver: Driver = drivers.opened(location, Use(schema, named=True, tended=False, cache_kib=_CACHE_KIB))
        self.shared = drivers.is_postgres(location)
        """Other servers may have it open too."""
        self._lock = threading.Lock()
        self._waiting: deque[_Unit[Any]] = deque()

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and return its result once that is on disk; its exception undoes it alone."""
        (unit,) = self._done([work])
        if unit.error is not None:
            raise self._told(unit.error)
        return cast(T, unit.value)

    def write_all(self, works: Sequence[Callable[[Connection], T]]) -> list[T | BaseException]:
        """The same for several at once, in their order; in the place of a result that there is none of, what was raised."""
        return [cast(T, unit.value) if unit.error is None else self._told(unit.error) for unit in self._done(works)]

    def _done(self, works: Sequence[Callable[[Connection], T]]) -> list[_Unit[T]]:
        units = [_Unit(work) for work in works]
        self._waiting.extend(units)
        # Whoever gets the lock first commits for all that wait; the others find their units done.
        with self._lock:
            while not all(unit.done for unit in units):
                self._run_batch()
        return units

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A snapshot of everything acknowledged so far: what is read within it agrees, whatever is committed meanwhile."""
        try:
            with self._driver.reading() as connection:
                yield connection
        except BlobError:
            raise
        except Exception as error:
            raise self._told(error)  # noqa: B904 - it says itself where it comes from

    def finds(self, sql: str, *params: object) -> bool:
        """Whether a statement gives a row: upkeep that has nothing to do writes nothing, and keeps nobody from writing."""
        with self.reading() as tx:
            return tx.execute(sql, params).fetchone() is not None

    def close(self) -> None:
        """Close all connections; the caller sees to it that nothing is under way."""
        self._driver.close()

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more."""
        if self.shared:
            return 0
        given = self.write(lambda tx: tx.shrink(pages))
        if 0 < given < pages:
            self._driver.checkpoint(empty=True)
        return given

    def _run_batch(self) -> None:
        """Run the oldest units that wait, up to _BATCH, in one commit; raises nothing, and every unit is done behind it."""
        units = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        commits.commit(self._driver.journal, units)
        for unit in units:
            unit.done = True

    def _told(self, error: BaseException) -> BaseException:
        """What an error is to callers, whichever database met it."""
        told: BaseException
        if sqlite.full(error):
            told = OSError(errno.ENOSPC, "the catalogue cannot grow")
        elif self._driver.passing(error):
            told = Unavailable(str(error))
        else:
            return error
        told.__cause__ = error
        return told
