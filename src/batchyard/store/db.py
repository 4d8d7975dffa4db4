"""One writer thread, many readers: acknowledged means on disk.

The writer takes every unit of work that is waiting into one transaction, a savepoint each, and tells the callers only
after the commit (decision D14). A unit that raises is undone alone. Units are plain functions `unit(tx, …)`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from batchyard.store.migrate import migrate
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

MEMORY = Path(":memory:")
_UNITS_PER_COMMIT = 500
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


class StoreUnavailable(Exception):
    """The commit failed (disk full, I/O error); nothing of the unit is stored."""


class _Waiting:
    """A unit on its way to the writer, and where its outcome goes."""

    __slots__ = ("args", "error", "future", "kwargs", "result", "unit", "wakes")

    def __init__(self, unit: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.unit, self.args, self.kwargs = unit, args, kwargs
        self.future: Future[Any] = Future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.wakes: Iterable[str] = ()


class Database:
    """A SQLite file (or `:memory:`) with its writer thread; `on_wake` hears of every topic after the commit."""

    def __init__(self, path: Path, on_wake: Wakes = lambda topics: None) -> None:
        self._path = path
        self.on_wake = on_wake
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._connection = self._connect(_WRITER_CACHE_KIB)
        try:
            migrate(self._connection)
        except BaseException:
            self._connection.close()
            raise
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._opened: list[sqlite3.Connection] = []
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._writer.start()

    def _connect(self, cache_kib: int = _READER_CACHE_KIB) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=512)
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        return connection

    def close(self) -> None:
        """Finish what waits, then close; what comes later is refused."""
        with self._gate:
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        for connection in [*self._opened, self._connection]:
            connection.close()

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
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
        connection.execute("BEGIN")
        try:
            return query(Reader(connection), *args, **kwargs)
        finally:
            connection.execute("COMMIT")

    def checkpoint(self) -> None:
        """Move what the log holds into the database file without stopping the writer; call from a thread that may wait."""
        log_file = self._path.with_name(self._path.name + "-wal")
        if self._path != MEMORY and log_file.stat().st_size > _CHECKPOINT_BYTES:
            connection = self._connect()
            try:
                connection.execute("PRAGMA wal_checkpoint(passive)")
            finally:
                connection.close()

    def _write(self) -> None:
        while True:
            first = self._queue.get()
            batch: list[_Waiting] = []
            last = first is None
            if first is not None:
                batch.append(first)
            while not last and len(batch) < _UNITS_PER_COMMIT:
                try:
                    waiting = self._queue.get_nowait()
                except queue.Empty:
                    break
                if waiting is None:
                    last = True
                else:
                    batch.append(waiting)
            # Whom nobody waits for any more is left out; the others can no longer be cancelled.
            batch = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if batch:
                self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[_Waiting]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for waiting in batch:
                self._run_unit(waiting)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.exception("commit failed", units=len(batch))
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for waiting in batch:
                waiting.error = waiting.error or StoreUnavailable(str(error))
                waiting.wakes = ()
        topics = {topic for waiting in batch for topic in waiting.wakes}
        if topics:
            self._tell(topics)
        for waiting in batch:
            if waiting.error is not None:
                waiting.future.set_exception(waiting.error)
            else:
                waiting.future.set_result(waiting.result)

    def _tell(self, topics: Iterable[str]) -> None:
        """Send wake-ups; losing one costs a loop period, so an error stops nothing."""
        try:
            self.on_wake(topics)
        except Exception:
            log.exception("wake-ups lost")

    def _run_unit(self, waiting: _Waiting) -> None:
        connection = self._connection
        connection.execute("SAVEPOINT unit")
        tx = Tx(connection)
        try:
            waiting.result = waiting.unit(tx, *waiting.args, **waiting.kwargs)
            tx.flush()
            waiting.wakes = tx.wakes
        except sqlite3.OperationalError:
            raise  # disk full and the like: the whole transaction is in doubt
        except Exception as error:
            connection.execute("ROLLBACK TO unit")
            waiting.error = error
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE unit")
