"""Two servers on one store that take turns statement by statement, in the order that a test says: a race that can be repeated.

A server stands before each statement of its units and of its reads, before it asks for the right to write and before it commits. One step
is what it does until it stands again, has ended its work, or waits for the other to let go of that right.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from batchyard.drivers.pipeline import PostgresConnection
from batchyard.drivers.postgres import PostgresDriver, connect
from batchyard.store.db import Database

T = TypeVar("T")
PATIENCE_S = 90.0
_LOOK_S = 0.002
_WAITS = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = $1::bigint::integer"


class Turns:
    """Who of two servers takes the next step."""

    def __init__(self, one: Database, other: Database) -> None:
        self._changed = threading.Condition()
        self._standing: set[int] = set()
        self._inside: set[int] = set()
        self._working: set[int] = set()
        self._next: int | None = None
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="server")
        self._control: Any = None
        self.taken = [0, 0]
        """Steps of each in the last run."""
        self.both_inside = False
        """True once both held the right to write at the same time, which must not be."""
        self._pids: dict[int, int] = {}
        self._refused: set[int] = set()
        for server, db in enumerate((one, other)):
            self._wrap(server, db)

    def _wrap(self, server: int, db: Database) -> None:
        real = db.driver
        if isinstance(real, PostgresDriver) and self._control is None:
            self._control = connect(real._location)
        real.journal = _Journal(self, server, real.journal)  # type: ignore[misc]
        read = real.read

        def stepped(query: Callable[[Any], T]) -> T:
            return read(lambda connection: query(_Connection(self, server, connection)))

        real.read = stepped  # type: ignore[method-assign]

    def close(self) -> None:
        self._threads.shutdown()
        if self._control is not None:
            self._control.close()

    def run(self, works: Sequence[Callable[[], T]], order: Iterable[tuple[int, int]]) -> list[Future[T]]:
        """Have both do their work; `order` says whose turn it is, and for how many steps. Behind it the first one goes on."""
        steps = (server for server, n in order for _ in range(n))
        with self._changed:
            self._working = {0, 1}
            self.taken = [0, 0]
        futures = [self._threads.submit(self._do, server, work) for server, work in enumerate(works)]
        with self._changed:
            while self._settle():
                wanted = next(steps, None)
                standing = sorted(self._standing)
                self._next = wanted if wanted in self._standing else standing[0]
                self._standing.discard(self._next)
                self.taken[self._next] += 1
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: self._next is None, PATIENCE_S)
        return futures

    def _do(self, server: int, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            with self._changed:
                self._working.discard(server)
                self._changed.notify_all()

    def _settle(self) -> bool:
        """Wait until nobody moves; False when all is done."""
        still = 0.0
        while self._working and not self._still():
            assert still < PATIENCE_S, (self._standing, self._inside, self._working)
            still += 0 if self._changed.wait(_LOOK_S) else _LOOK_S
        return bool(self._working)

    def _still(self) -> bool:
        """True when somebody stands, and the other one stands or is kept waiting by the database."""
        others = self._working - self._standing
        return bool(self._standing) and all(self._waits(server) for server in others)

    def _waits(self, server: int) -> bool:
        if self._control is None:
            return server in self._refused and bool(self._inside - {server})
        return self._control.execute(_WAITS, (self._pids.get(server, 0),)).fetchone() is not None

    def step(self, server: int) -> None:
        """Stand until it is this one's turn; whoever does no work that takes turns goes on."""
        with self._changed:
            if server not in self._working:
                return
            self._standing.add(server)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._next == server, PATIENCE_S)
            self._next = None
            self._changed.notify_all()

    def asks(self, server: int, pid: int) -> None:
        """It asks for the right to write, over the connection that the database knows by this number."""
        with self._changed:
            self._pids[server] = pid

    def entered(self, server: int) -> None:
        """It has the right to write."""
        with self._changed:
            self._inside.add(server)
            self.both_inside = self.both_inside or len(self._inside) > 1
            self._changed.notify_all()

    def refused(self, server: int) -> None:
        """SQLite says that the other one writes: ask again when it has ended."""
        with self._changed:
            self._refused.add(server)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._inside - {server}, PATIENCE_S)
            self._refused.discard(server)

    def left(self, server: int) -> None:
        """It writes no more; the other one may have the right before this one hears that its commit has arrived."""
        with self._changed:
            self._inside.discard(server)
            self._changed.notify_all()


class _Journal:
    """A driver's journal whose owner stands before each step."""

    def __init__(self, turns: Turns, server: int, real: Any) -> None:
        self._turns, self._server, self._real = turns, server, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def begin(self) -> Any:
        self._turns.step(self._server)
        postgres = isinstance(self._real.connection, PostgresConnection)
        pid = self._real.connection._connection.info.backend_pid if postgres else 0
        self._turns.asks(self._server, pid)
        connection = self._real.begin() if postgres else self._begin()
        connection.settle()
        self._turns.entered(self._server)
        return _Connection(self._turns, self._server, connection)

    def _begin(self) -> Any:
        self._real.connection.execute("PRAGMA busy_timeout = 0")
        while True:
            try:
                return self._real.begin()
            except sqlite3.OperationalError:
                self._turns.refused(self._server)

    def commit(self, topics: Sequence[str]) -> None:
        self._turns.step(self._server)
        self._turns.left(self._server)
        self._real.commit(topics)

    def abandon(self, error: BaseException) -> None:
        self._turns.left(self._server)
        self._real.abandon(error)


class _Connection:
    """A connection whose owner stands before each statement."""

    def __init__(self, turns: Turns, server: int, real: Any) -> None:
        self._turns, self._server, self._real = turns, server, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, *args: Any) -> Any:
        self._turns.step(self._server)
        return self._real.execute(*args)

    def executemany(self, *args: Any) -> Any:
        self._turns.step(self._server)
        return self._real.executemany(*args)
