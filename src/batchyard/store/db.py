"""One writer thread, many readers: acknowledged means on disk.

The writer takes every unit of work that is waiting into one transaction, a savepoint each, and tells the callers only
after the commit (decision D14). A unit that raises is undone alone. Units are plain functions `unit(tx, …)`.

Whatever happens, every unit's future is done in the end and the thread lives on: a failed commit (a full disk) is undone,
a connection in an unknown state is opened anew, and the next commit finds the store as the last acknowledged one left it.

So units may run more than once, and change nothing but what the transaction holds: one that lost a race (Conflict, IllegalChange)
is run again in a later commit, a few times; when one breaks the transaction of all, the others are committed without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from batchyard import drivers
from batchyard.disk import commits
from batchyard.disk.commits import Unit
from batchyard.drivers.base import Connection, Driver, Use, Wakes
from batchyard.drivers.migrations import Chain
from batchyard.drivers.sqlite import MEMORY
from batchyard.measures import Durations
from batchyard.rules.transitions import IllegalChange
from batchyard.store.migrate import WORLD
from batchyard.store.reader import Reader
from batchyard.store.tx import Conflict, Event, Tx

__all__ = ["GUARD", "MEMORY", "Database", "StoreUnavailable", "open_store"]

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

_UNITS_PER_COMMIT = 500
_TRIES = 5
"""How often a unit is run that loses a race each time."""

GUARD: ContextVar[Callable[[Tx], None] | None] = ContextVar("guard", default=None)
"""What every unit that is queued in this context begins with, in its own transaction; it raises when the unit must not run."""


class StoreUnavailable(Exception):
    """The commit failed (disk full, I/O error); nothing of the unit is stored."""


class _Waiting(Unit[Connection]):
    """A unit on its way to the writer, and where its outcome goes."""

    __slots__ = ("args", "driver", "future", "guard", "happened", "kwargs", "result", "tries", "unit")

    def __init__(self, driver: Driver, unit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.driver, self.unit, self.args, self.kwargs = driver, unit, args, kwargs
        self.guard = GUARD.get()
        self.future: Future[Any] = Future()
        self.tries = 0
        self.result: Any = None
        self.happened: Counter[Event] = Counter()

    def run(self, connection: Connection) -> None:
        tx = Tx(connection)
        self.tries += 1
        if self.guard is not None:
            self.guard(tx)
        try:
            self.result = self.unit(tx, *self.args, **self.kwargs)
            tx.flush()
        except Exception as error:
            if not tx.came_of(error):
                tx.settle()  # a race that was lost before may be why it came so far
            raise
        self.wakes, self.happened = tx.wakes, tx.happened

    def refuse(self, error: BaseException) -> None:
        self.error = self.error or _unavailable(error, passing=self.driver.passing(error))

    def lost_a_race(self) -> bool:
        """True when the unit is to be run once more, because what it saw was no longer so."""
        return isinstance(self.error, Conflict | IllegalChange) and self.tries < _TRIES


def open_store(location: Path | str, on_wake: Wakes = lambda topics: None, chain: Chain = WORLD) -> Database:
    """The store at a location: the path of a SQLite file, or `postgresql://…?schema=…`; `chain` makes its tables.

    Raises NewerSchema, drivers.Unusable, and what the database raises.
    """
    return Database(location, on_wake, chain)


def peek(location: str, query: Callable[[Reader], T]) -> T | None:
    """What a query finds in a PostgreSQL store that need not be open here; None when there is none. Raises StoreUnavailable."""
    try:
        return drivers.peek(location, lambda connection: query(Reader(connection)))
    except Exception as error:
        if drivers.away(error):
            raise StoreUnavailable(str(error)) from error
        raise


class Database:
    """A store with its writer thread; `on_wake` hears of every topic after the commit."""

    def __init__(self, location: Path | str, on_wake: Wakes = lambda topics: None, chain: Chain = WORLD) -> None:
        self.on_wake = on_wake
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self.failures = 0
        """Commits that failed so far; who measures how long somebody was silent leaves out the time of these."""
        self.commits = Durations()
        self.units = 0
        """Units that were committed so far."""
        self.happened: Counter[Event] = Counter()
        """Events that were."""
        self._works = True
        self.driver: Driver = drivers.opened(location, Use(chain), self._heard)
        self._readers = ThreadPoolExecutor(max(self.driver.readers, 1), thread_name_prefix="store-read")
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._writer.start()

    def _heard(self, topics: Iterable[str]) -> None:
        """What another server's commit wakes."""
        self.on_wake(topics)

    @property
    def waiting(self) -> int:
        """Units that wait for the writer."""
        return self._queue.qsize()

    def close(self) -> None:
        """Finish what waits, then close; what comes later is refused."""
        with self._gate:
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.driver.close()

    def submit(self, unit: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a unit of work; the future is done after its commit. Raises StoreUnavailable when the store is closed."""
        waiting = _Waiting(self.driver, unit, args, kwargs)
        with self._gate:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._queue.put(waiting)
        return waiting.future

    def call(self, unit: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work and wait for its commit."""
        return self.submit(unit, *args, **kwargs).result()

    async def run(self, unit: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work; returns after its commit."""
        return await asyncio.wrap_future(self.submit(unit, *args, **kwargs))

    async def read(self, query: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query on a snapshot of its own. Raises StoreUnavailable when it cannot be read for now."""
        if not self.driver.readers:
            return await asyncio.wrap_future(self.submit(query, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: self._query(query, args, kwargs))

    def _query(self, query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        try:
            return self.driver.read(lambda connection: query(Reader(connection), *args, **kwargs))
        except Exception as error:
            if self.driver.passing(error):
                raise StoreUnavailable(str(error)) from error
            raise

    def checkpoint(self, *, empty: bool = False) -> None:
        """Upkeep of the database's files without stopping the writer; call from a thread that may wait.

        With `empty` the room of a log is given back too, if nobody reads at this moment.
        """
        self.driver.checkpoint(empty=empty)

    def _write(self) -> None:
        last = False
        again: list[_Waiting] = []
        while again or not last:
            if again:
                batch, again = again, []
            else:
                batch, last = self._take()
            if batch:
                again = self._commit(batch)

    def _take(self) -> tuple[list[_Waiting], bool]:
        """What waits, at most a commit's fill, and whether that is the last."""
        batch: list[_Waiting] = []
        waiting = self._queue.get()
        try:
            while waiting is not None and len(batch) < _UNITS_PER_COMMIT:
                batch.append(waiting)
                waiting = self._queue.get_nowait() if len(batch) < _UNITS_PER_COMMIT else waiting
        except queue.Empty:
            pass
        # Whom nobody waits for any more is left out; the others can no longer be cancelled.
        return [each for each in batch if each.future.set_running_or_notify_cancel()], waiting is None

    def _commit(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Run units in one transaction and tell everybody how it went; raises nothing, not even where a log call would.

        Those that are to be run again are told nothing yet.
        """
        begun = time.monotonic()
        failed = commits.commit(self.driver.journal, batch)
        self.failures += len(failed)
        self.commits.add(time.monotonic() - begun)
        topics = {topic for waiting in batch for topic in waiting.wakes}
        if topics:
            with contextlib.suppress(Exception):
                self._tell(topics)
        again = [waiting for waiting in batch if waiting.lost_a_race()]
        for waiting in batch:
            if waiting.lost_a_race():
                continue
            if waiting.error is not None:
                waiting.future.set_exception(waiting.error)
            else:
                self.units += 1
                self.happened.update(waiting.happened)
                waiting.future.set_result(waiting.result)
        with contextlib.suppress(Exception):
            self._note(failed, len(batch))
        return again

    def _note(self, failed: list[BaseException], units: int) -> None:
        """Log when commits begin to fail and when they go on."""
        works, self._works = self._works, not failed
        if failed and works:
            error = failed[-1]
            log.error("commit failed", units=units, reason=str(error), exc_info=None if self.driver.passing(error) else error)
        elif not failed and not works:
            log.warning("commits work again", failed=self.failures)

    def _tell(self, topics: Iterable[str]) -> None:
        """Send wake-ups; losing one costs a loop period, so an error stops nothing."""
        try:
            self.on_wake(topics)
        except Exception:
            log.exception("wake-ups lost")


def _unavailable(error: BaseException, *, passing: bool) -> StoreUnavailable:
    unavailable = StoreUnavailable(str(error))
    unavailable.__cause__ = error.with_traceback(None) if passing else error  # whose frames hold the whole batch
    return unavailable
