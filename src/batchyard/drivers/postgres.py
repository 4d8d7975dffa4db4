"""A schema of a PostgreSQL database: servers share it, one of them writes at a time (decisions D17, D18).

A commit begins by taking the schema's advisory lock, which ends with the transaction; each statement behind it sees all that was
committed before. So what is true of SQLite's one writer is true of the writers of all servers together. Readers take no lock and
see a snapshot. What a commit wakes is told to the other servers by NOTIFY in the same transaction.

When the connection is lost while a commit is on its way, the number that each commit leaves in `commit_mark` says whether it arrived.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
import psycopg.sql
import structlog
from psycopg import errors

from batchyard.drivers import postgres_words as words
from batchyard.drivers.base import Use, Wakes
from batchyard.drivers.migrations import Chain
from batchyard.drivers.pipeline import PostgresConnection

T = TypeVar("T")
log = structlog.get_logger()

OLDEST = 14
_READERS = 4
_CONNECT_S = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_ASK_S = 8.0
"""So long it is tried to find out what became of a commit whose answer was lost."""
_PAUSED_S = 5
"""A server that stands still within a transaction, where all others wait for its lock, loses it after so long."""
_NOTICE_BYTES = 7000
"""PostgreSQL takes 8,000."""
_MARKS_KEPT = "7 days"
_PASSING = (
    psycopg.InterfaceError,
    errors.OperationalError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)


class OutcomeUnknown(psycopg.OperationalError):
    """The connection was lost while a commit was on its way, and the database cannot be asked whether it arrived."""


def connect(location: words.Location, *, named: bool = False) -> psycopg.Connection[Any]:
    """A connection to a schema, which need not be there yet. Raises psycopg.Error."""
    connection: psycopg.Connection[Any] = psycopg.connect(
        location.conninfo, autocommit=True, connect_timeout=_CONNECT_S, prepare_threshold=2, cursor_factory=psycopg.RawCursor
    )
    try:
        if connection.info.server_version < OLDEST * 10_000:
            raise psycopg.NotSupportedError(f"PostgreSQL {connection.info.server_version // 10_000} is older than {OLDEST}")
        connection.prepared_max = 1000
        words.adapt(connection.adapters)
        if named:
            connection.row_factory = words.named_rows
        connection.execute(
            "SELECT set_config('search_path', $1, false), set_config('timezone', 'UTC', false),"
            " set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
            " ELSE current_setting('synchronous_commit') END, false)",
            (location.quoted,),
        )
    except BaseException:
        connection.close()
        raise
    return connection


def passing(error: BaseException) -> bool:
    """True while the server is away, starts, or has no room."""
    return isinstance(error, _PASSING) and not isinstance(error, errors.SyntaxErrorOrAccessRuleViolation)


class PostgresDriver:
    """A schema that is open."""

    readers = _READERS

    def __init__(self, location: str, use: Use, on_wake: Wakes | None) -> None:
        self._location = words.locate(location)
        self._named = use.named
        with connect(self._location) as connection:
            migrate(connection, self._location, use.chain)
        self._writer_id = secrets.token_hex(8)
        self.journal = PostgresJournal(self._location, self._writer_id, named=use.named)
        self._idle: deque[PostgresConnection] = deque()
        self._seats = threading.BoundedSemaphore(_READERS)
        self._closed = threading.Event()
        self._listening: psycopg.Connection[Any] | None = None
        self._listener_ready = threading.Event()
        self._listener = None if on_wake is None else threading.Thread(target=self._listen, args=(on_wake,), name="listen", daemon=True)
        if self._listener is not None:
            self._listener.start()

    @contextmanager
    def reading(self) -> Iterator[PostgresConnection]:
        """A snapshot on a connection that nobody else has, once there is one. Raises psycopg.Error."""
        with self._seats:
            connection = self._reader()
            try:
                connection.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                try:
                    yield connection
                finally:
                    connection.finish("COMMIT")
            except psycopg.Error:
                connection.close()
                raise
            except BaseException:
                if connection.idle:
                    self._idle.append(connection)
                else:
                    connection.close()
                raise
            self._idle.append(connection)

    def read(self, query: Callable[[PostgresConnection], T]) -> T:
        """Run a query on a snapshot. Raises what it raises, and psycopg.Error."""
        with self.reading() as connection:
            return query(connection)

    def _reader(self) -> PostgresConnection:
        """A connection that nobody uses; those that were lost meanwhile are left."""
        while self._idle:
            connection = self._idle.pop()
            if connection.alive():
                return connection
            connection.close()
        return PostgresConnection(connect(self._location, named=self._named))

    def passing(self, error: BaseException) -> bool:
        """True while the server is away, starts, or has no room."""
        return passing(error)

    def checkpoint(self, *, empty: bool) -> None:
        """Nothing: the server keeps its files itself."""

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        listening = self._listening
        if listening is not None:
            with suppress(psycopg.Error):
                listening.cancel_safe(timeout=1)
        if self._listener is not None:
            self._listener.join(_CONNECT_S)
        while self._idle:
            self._idle.pop().close()
        self.journal.close()

    def _listen(self, on_wake: Wakes) -> None:
        """Hear what other servers' commits wake; what is lost while the connection is costs a loop period."""
        pause = _FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                with connect(self._location) as connection:
                    self._listening = connection
                    connection.execute(f"LISTEN {self._location.channel}")
                    pause = _FIRST_PAUSE_S
                    self._listener_ready.set()
                    while not self._closed.is_set():
                        for notice in connection.notifies(timeout=0.5, stop_after=1):
                            self._heard(notice.payload, on_wake)
            except psycopg.Error as error:
                if not self._closed.is_set():
                    log.warning("not heard what other servers wake", reason=str(error), next_try_s=pause)
                self._closed.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            finally:
                self._listening = None

    def _heard(self, payload: str, on_wake: Wakes) -> None:
        try:
            writer, topics = json.loads(payload)
            if writer != self._writer_id:
                on_wake(topics)
        except Exception:
            log.exception("wake-ups lost")


class PostgresJournal:
    """The connection that writes, opened anew with back-off when it is lost."""

    def __init__(self, location: words.Location, writer: str, *, named: bool = False) -> None:
        self._location, self._writer, self._named = location, writer, named
        self._number = 0
        self._pause = _FIRST_PAUSE_S
        self._not_before = 0.0
        self._reason = ""
        self.connection: PostgresConnection | None = self._open()

    def _open(self) -> PostgresConnection:
        """Raises psycopg.OperationalError, at once while the last failure is not long ago."""
        if time.monotonic() < self._not_before:
            raise psycopg.OperationalError(self._reason)
        try:
            made = connect(self._location, named=self._named)
            made.execute("SELECT set_config('idle_in_transaction_session_timeout', $1, false)", (f"{_PAUSED_S}s",))
            connection = PostgresConnection(made)
        except psycopg.Error as error:
            self._reason = str(error)
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
            raise
        self._pause = _FIRST_PAUSE_S
        return connection

    def begin(self) -> PostgresConnection:
        """Begin to write, when no other server does. Raises psycopg.Error."""
        if self.connection is not None and not self.connection.alive():
            self._give_up()
        if self.connection is None:
            self.connection = self._open()
        self.connection.begin("BEGIN ISOLATION LEVEL READ COMMITTED")
        self.connection.later("SELECT pg_advisory_xact_lock($1)", (self._location.lock,))
        return self.connection

    def mark(self) -> None:
        """A point that `undo` comes back to; sent with the first statement behind it."""
        self._at_work().later("SAVEPOINT unit")

    def undo(self) -> None:
        """Undo what was written since the mark. Raises what a statement did: then all is undone, and begun anew without the unit."""
        connection = self._at_work()
        connection.settle()
        connection.later("ROLLBACK TO unit")

    def keep(self) -> None:
        """Forget the mark. What the unit sent is settled by now."""
        self._at_work().later("RELEASE unit")

    def commit(self, topics: Sequence[str]) -> None:
        """Returns when all is on disk. Raises OutcomeUnknown when nobody can say whether it is."""
        connection = self._at_work()
        self._number += 1
        connection.later(
            "INSERT INTO commit_mark (writer, number) VALUES ($1, $2) ON CONFLICT (writer) DO UPDATE SET number = $2, at = now()",
            (self._writer, self._number),
        )
        for notice in _notices(self._writer, topics):
            connection.later("SELECT pg_notify($1, $2)", (self._location.topic, notice))
        try:
            connection.finish("COMMIT")
        except psycopg.Error as error:
            if connection.alive():
                raise
            self._ask(error)

    def _ask(self, lost: psycopg.Error) -> None:
        """Find out whether a commit arrived whose answer was lost. Raises what was lost when it did not, OutcomeUnknown."""
        self._give_up()
        deadline = time.monotonic() + _ASK_S
        while True:
            try:
                with connect(self._location) as connection, connection.transaction():
                    # Behind the lock the transaction that it belonged to has ended, one way or the other.
                    connection.execute("SELECT pg_advisory_xact_lock($1)", (self._location.lock,))
                    found = connection.execute("SELECT number FROM commit_mark WHERE writer = $1", (self._writer,)).fetchone()
                break
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise OutcomeUnknown("the connection was lost during a commit; whether it is stored is not known") from lost
                time.sleep(_FIRST_PAUSE_S)
        if found is None or found[0] != self._number:
            raise lost

    def abandon(self, error: BaseException) -> None:
        """Undo a transaction that failed."""
        if self.connection is not None and not self.connection.undone():
            self._give_up()

    def spoils(self, error: BaseException) -> bool:
        """True when the connection is lost, or the server had no room or no time."""
        return isinstance(error, _PASSING)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            with suppress(psycopg.Error):
                self.connection.execute("DELETE FROM commit_mark WHERE writer = $1", (self._writer,))
        self._give_up()

    def _give_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _at_work(self) -> PostgresConnection:
        if self.connection is None or self.connection.broken or not self.connection.in_transaction:
            raise psycopg.OperationalError("the transaction is gone")
        return self.connection


def _notices(writer: str, topics: Sequence[str]) -> list[str]:
    """Topics in as many notices as they need."""
    if not topics:
        return []
    text = json.dumps([writer, topics])
    if len(text) <= _NOTICE_BYTES or len(topics) == 1:
        return [text] if len(text) <= _NOTICE_BYTES else []
    half = len(topics) // 2
    return _notices(writer, topics[:half]) + _notices(writer, topics[half:])


def migrate(connection: psycopg.Connection[Any], location: words.Location, chain: Chain) -> None:
    """Make the schema, and bring it to the newest version, while no other server does. Raises NewerSchema, psycopg.Error."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock($1)", (location.lock,))
        there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = $1", (location.schema,)).fetchone()
        if there is None:
            connection.execute(f"CREATE SCHEMA {location.quoted}")
        found = connection.execute("SELECT to_regclass($1)", (f"{location.quoted}.schema_version",)).fetchone()
        if found is None or found[0] is None:
            connection.execute(words.OWN_TABLES)
        version = connection.execute("SELECT version FROM schema_version").fetchone()
        assert version is not None
        missing = chain.pending(version[0])
        if missing:
            steps = "".join(f"{words.migration(sql)}\n;" for _, sql in missing)
            connection.execute(f"{steps}UPDATE schema_version SET version = {missing[-1][0]}")
        connection.execute(f"DELETE FROM commit_mark WHERE at < now() - interval '{_MARKS_KEPT}'")


def reserve(location: str, mark: str) -> bool:
    """Make a schema and mark it; one with that mark is made anew. False for a schema that is there and has another mark, or none."""
    found = words.locate(location)
    with connect(found) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock($1)", (found.lock,))
        sql = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1"
        there = connection.execute(sql, (found.schema,)).fetchone()
        if there is not None and there[0] != mark:
            return False
        connection.execute(f"DROP SCHEMA IF EXISTS {found.quoted} CASCADE")
        connection.execute(f"CREATE SCHEMA {found.quoted}")
        connection.execute(f"COMMENT ON SCHEMA {found.quoted} IS {psycopg.sql.quote(mark)}")
        return True


def unmark(location: str) -> None:
    """Take the mark from a schema that is there. Raises psycopg.Error."""
    found = words.locate(location)
    with connect(found) as connection:
        connection.execute(f"COMMENT ON SCHEMA {found.quoted} IS NULL")


def peek(location: str, query: Callable[[PostgresConnection], T]) -> T | None:
    """What a query finds in a schema; None when the schema is not there, or holds no store. Raises psycopg.Error."""
    found = words.locate(location)
    connection = PostgresConnection(connect(found))
    try:
        connection.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        there = connection.execute("SELECT to_regclass($1)", (f"{found.quoted}.schema_version",)).fetchone()
        return None if there is None or there[0] is None else query(connection)
    finally:
        connection.close()


def drop(location: str) -> None:
    """Remove a store with all that it holds. Raises psycopg.Error."""
    found = words.locate(location)
    with connect(found) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {found.quoted} CASCADE")
