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
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from batchyard.disk import sqlite
from batchyard.rules.transitions import IllegalChange
from batchyard.store.migrate import migrate
from batchyard.store.reader import Reader
from batchyard.store.tx import Conflict, Tx

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

MEMORY = Path(":memory:")
_UNITS_PER_COMMIT = 500
_TRIES = 5
"""How often a unit is run that loses a race each time."""
_MOST_ASIDE = 3
"""Units of a commit that are tried apart from the others; when more break it, it is not theirs to mend."""
_READERS = 3
_CHECKPOINT_BYTES = 4_000_000
_WRITER_CACHE_KIB = 65_536
_READER_CACHE_KIB = 8_192
"""What a page of a list touches, several times over; each reader has a cache of its own."""
_PRAGMAS = (
    "PRAGMA journal_mode = wal",
    "PRAGMA synchronous = full",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_size_limit = 67108864",
    # Upkeep checkpoints from its own thread; this is the bound should it ever stand still.
    "PRAGMA wal_autocheckpoint = 20000",
)

Wakes = Callable[[Iterable[str]], None]
GUARD: ContextVar[Callable[[Tx], None] | None] = ContextVar("guard", default=None)
"""What every unit that is queued in this context begins with, in its own transaction; it raises when the unit must not run."""


class StoreUnavailable(Exception):
    """The commit failed (disk full, I/O error); nothing of the unit is stored."""


class _Waiting:
    """A unit on its way to the writer, and where its outcome goes."""

    __slots__ = ("args", "error", "future", "guard", "kwargs", "result", "tries", "unit", "wakes")

    def __init__(self, unit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.unit, self.args, self.kwargs = unit, args, kwargs
        self.guard = GUARD.get()
        self.future: Future[Any] = Future()
        self.tries = 0
        self.result: Any = None
        self.error: BaseException | None = None
        self.wakes: Iterable[str] = ()

    def lost_a_race(self) -> bool:
        """True when the unit is to be run once more, because what it saw was no longer so."""
        return isinstance(self.error, Conflict | IllegalChange) and self.tries < _TRIES


class Database:
    """A SQLite file (or `:memory:`) with its writer thread; `on_wake` hears of every topic after the commit."""

    def __init__(self, path: Path, on_wake: Wakes = lambda topics: None) -> None:
        self._path = path
        self.on_wake = on_wake
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self.failures = 0
        """Commits that failed so far; who measures how long somebody was silent leaves out the time of these."""
        self._works = True
        self._connection: sqlite3.Connection | None = self._first_connection()
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._opened: list[sqlite3.Connection] = []
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._writer.start()

    def _first_connection(self) -> sqlite3.Connection:
        """The writer's, with the schema as it should be; the only one that may make the file."""
        connection = self._connect(_WRITER_CACHE_KIB, new=True)
        try:
            if self._path != MEMORY:
                self._let_shrink(connection)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return _for_writing(connection)

    def _let_shrink(self, connection: sqlite3.Connection) -> None:
        try:
            if not sqlite.let_shrink(connection, self._path):
                log.warning("the database keeps its size: too little room to write it anew", path=str(self._path))
        except sqlite3.Error as error:
            if not sqlite.passing(error) or not sqlite.undone(connection, error):
                raise
            log.warning("the database keeps its size for now", path=str(self._path), reason=str(error))

    def _connect(self, cache_kib: int = _READER_CACHE_KIB, *, new: bool = False) -> sqlite3.Connection:
        """A connection; a database that is not there is made only when it is `new`. Raises sqlite3.Error."""
        path = str(self._path) if new else f"{self._path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512, uri=not new)
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        except BaseException:
            sqlite.close(connection)
            raise
        return connection

    def close(self) -> None:
        """Finish what waits, then close; what comes later is refused."""
        with self._gate:
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in self._opened:
            sqlite.close(connection)
        if self._connection is not None:
            sqlite.close(self._connection)

    def submit(self, unit: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a unit of work; the future is done after its commit. Raises StoreUnavailable when the store is closed."""
        waiting = _Waiting(unit, args, kwargs)
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
        """Run a query on a snapshot of its own."""
        if self._path == MEMORY:
            return await asyncio.wrap_future(self.submit(query, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: self._query(query, args, kwargs))

    def _query(self, query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        """Run a query in a thread of its own. Raises StoreUnavailable when the disk does not let it be read for now."""
        try:
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                return query(Reader(connection), *args, **kwargs)
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._drop_reader()
            if sqlite.passing(error):
                raise StoreUnavailable(str(error)) from error
            raise

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
        return connection

    def _drop_reader(self) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._opened.remove(connection)
            sqlite.close(connection)

    def checkpoint(self, *, empty: bool = False) -> None:
        """Move what the log holds into the database file without stopping the writer; call from a thread that may wait.

        With `empty` the log's own room is given back too, if nobody reads at this moment.
        """
        if self._path == MEMORY or not (empty or self._log_bytes() > _CHECKPOINT_BYTES):
            return
        connection = self._connect()
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
        failed = self._run(batch)
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
                waiting.future.set_result(waiting.result)
        with contextlib.suppress(Exception):
            self._note(failed, len(batch))
        return again

    def _run(self, batch: list[_Waiting]) -> BaseException | None:
        """Commit, or undo; what went wrong. A unit that breaks the transaction is set aside and has one of its own after the others'."""
        rest: list[_Waiting] = batch
        aside: list[_Waiting] = []
        culprit, failed = self._run_together(rest)
        while culprit is not None and len(rest) > 1 and len(aside) < _MOST_ASIDE:
            aside.append(culprit)
            rest = [waiting for waiting in rest if waiting is not culprit]
            culprit, failed = self._run_together(rest)
        if failed is not None:
            return self._refuse([*rest, *aside], failed)
        for waiting in aside:
            _, alone = self._run_together([waiting])
            failed = failed if alone is None else self._refuse([waiting], alone)
        return failed

    def _run_together(self, units: Sequence[_Waiting]) -> tuple[_Waiting | None, BaseException | None]:
        """Commit, or undo all; what went wrong, and in which unit. Whatever it is, a writer that ended of it would leave all waiting."""
        current: _Waiting | None = None
        try:
            connection = self._ready()
            connection.execute("BEGIN IMMEDIATE")
            for current in units:
                self._run_unit(connection, current)
            current = None
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
            return current, error
        return None, None

    def _refuse(self, units: Iterable[_Waiting], error: BaseException) -> BaseException:
        """Nothing of these is stored, whatever they did."""
        self.failures += 1
        for waiting in units:
            waiting.error = waiting.error or _unavailable(error)
            waiting.wakes = ()
        return error

    def _ready(self) -> sqlite3.Connection:
        """The writer's connection, opened anew when the last one was given up. Raises sqlite3.Error."""
        if self._connection is None:
            self._connection = _for_writing(self._connect(_WRITER_CACHE_KIB))
        return self._connection

    def _undo(self, error: BaseException) -> None:
        """Undo a failed commit; a connection that may hold something else than what is on disk is given up."""
        connection = self._connection
        if connection is not None and not sqlite.undone(connection, error) and self._path != MEMORY:
            self._connection = None
            sqlite.close(connection)

    def _note(self, failed: BaseException | None, units: int) -> None:
        """Log when commits begin to fail and when they go on."""
        works, self._works = self._works, failed is None
        if failed is not None and works:
            log.error("commit failed", units=units, reason=str(failed), exc_info=None if sqlite.passing(failed) else failed)
        elif failed is None and not works:
            log.warning("commits work again", failed=self.failures)

    def _tell(self, topics: Iterable[str]) -> None:
        """Send wake-ups; losing one costs a loop period, so an error stops nothing."""
        try:
            self.on_wake(topics)
        except Exception:
            log.exception("wake-ups lost")

    def _run_unit(self, connection: sqlite3.Connection, waiting: _Waiting) -> None:
        connection.execute("SAVEPOINT unit")
        tx = Tx(connection)
        waiting.tries += 1
        waiting.error, waiting.wakes = None, ()
        try:
            if waiting.guard is not None:
                waiting.guard(tx)
            waiting.result = waiting.unit(tx, *waiting.args, **waiting.kwargs)
            tx.flush()
            waiting.wakes = tx.wakes
        except Exception as error:
            if sqlite.passing(error):
                raise  # disk full and the like: the whole transaction is in doubt
            if connection.in_transaction:
                connection.execute("ROLLBACK TO unit")
                waiting.error = error
        if not connection.in_transaction:
            # SQLite undid all of it. What follows would be in a transaction of its own, which nobody commits for all.
            raise sqlite3.OperationalError("the transaction is gone")
        connection.execute("RELEASE unit")


def _unavailable(error: BaseException) -> StoreUnavailable:
    unavailable = StoreUnavailable(str(error))
    unavailable.__cause__ = error.with_traceback(None) if sqlite.passing(error) else error  # whose frames hold the whole batch
    return unavailable


def _for_writing(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Keep what undoes a unit in memory: a full directory for temporary files is no reason to refuse a write."""
    connection.execute("PRAGMA temp_store = memory")
    return connection
