"""A PostgreSQL connection that sends statements on before their answers are there, so that a unit waits only for what it looks at.

An error shows at the next answer that is looked at; what was sent behind it did nothing.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from batchyard.drivers.postgres_words import translated


class Answer:
    """What a statement gives, fetched when it is looked at."""

    __slots__ = ("_connection", "_cursor")

    def __init__(self, connection: PostgresConnection, cursor: psycopg.RawCursor[Any]) -> None:
        self._connection, self._cursor = connection, cursor

    @property
    def rowcount(self) -> int:
        """How many rows it reached."""
        self._connection.settle()
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        """The next row, None when there is none."""
        self._connection.settle()
        return self._cursor.fetchone() if self._cursor.description else None

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        self._connection.settle()
        return self._cursor.fetchall() if self._cursor.description else []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class _Nothing:
    """The answer of what has none."""

    rowcount = -1

    def fetchone(self) -> None:
        """No row."""

    def fetchall(self) -> list[Any]:
        """No rows."""
        return []

    def __iter__(self) -> Iterator[Any]:
        return iter(())


_NOTHING = _Nothing()


class PostgresConnection:
    """A connection within a transaction, and its pipeline."""

    Error = psycopg.Error
    lazy = True

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pipeline: psycopg.Pipeline | None = None
        self._open: Any = None
        self._waiting = False
        self.broken = False
        """True once a statement failed: which of those behind it were prepared nobody knows, so the connection is not used again."""
        self.round_trips = 0
        """How often answers were waited for so far."""

    def begin(self, sql: str) -> None:
        """Begin a transaction; sent with the first statement of it."""
        self._open = self._connection.pipeline()
        self._pipeline = self._open.__enter__()
        self.later(sql)

    def later(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Send a statement in PostgreSQL's words whose answer nobody looks at."""
        psycopg.RawCursor(self._connection).execute(sql, params or None)
        self._waiting = True
        if sql.startswith("ROLLBACK"):  # which psycopg forgets what was prepared by: nothing may be on its way behind it
            self.settle()

    def execute(self, sql: str, params: Mapping[str, Any] | Sequence[Any] = (), /) -> Answer | _Nothing:
        """Send a statement."""
        if sql.startswith("ROLLBACK"):
            self.later(sql)
            return _NOTHING
        text, names = translated(sql)
        cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(self._connection)
        cursor.execute(text, _values(names, params))
        self._waiting = True
        return Answer(self, cursor)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Answer:
        """Send a statement for each row of parameters."""
        text, names = translated(sql)
        cursor: psycopg.RawCursor[Any] = psycopg.RawCursor(self._connection)
        cursor.executemany(text, [_values(names, row) or () for row in rows])
        self._waiting = True
        return Answer(self, cursor)

    def settle(self) -> None:
        """Wait for all answers. Raises the first error among them."""
        if self._waiting:
            self._waiting = False
            self.round_trips += 1
            if self._pipeline is not None:
                try:
                    self._pipeline.sync()
                except psycopg.Error:
                    self.broken = True
                    raise

    def finish(self, sql: str) -> None:
        """End the transaction."""
        try:
            self.later(sql)
            self.settle()
        finally:
            self._leave()

    def undone(self) -> bool:
        """Undo a transaction; False when nobody knows any more what the connection is in."""
        try:
            self.settle()
            self._leave()
            if self.broken:
                return False
            if not self.idle:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            return False
        return self.idle

    def _leave(self) -> None:
        opened, self._open, self._pipeline, self._waiting = self._open, None, None, False
        if opened is not None:
            with suppress(psycopg.Error):
                opened.__exit__(None, None, None)

    @property
    def idle(self) -> bool:
        """True between transactions."""
        return self._pipeline is None and self._connection.info.transaction_status == TransactionStatus.IDLE

    @property
    def in_transaction(self) -> bool:
        """False when the transaction that was begun is not there any more, as far as answers say."""
        if self._waiting:
            return self._pipeline is not None
        return self._connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def alive(self) -> bool:
        """False for a connection that the other side has closed, as far as this one was told."""
        if self._connection.closed or self._connection.info.transaction_status == TransactionStatus.UNKNOWN:
            return False
        if self._pipeline is None:
            readable, _, _ = select.select([self._connection.fileno()], [], [], 0)
            if readable:  # nothing is asked, so it is a farewell or a notice
                with suppress(psycopg.Error):
                    self._connection.execute("SELECT 1")
                return not self._connection.closed
        return True

    def last_given(self, table: str, column: str) -> int:
        """The highest key that the sequence of the column gave."""
        name = self.execute("SELECT pg_get_serial_sequence(?, ?)", (table, column)).fetchone()
        assert name is not None
        found = self.execute(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name[0]}").fetchone()
        assert found is not None
        return int(found[0])

    def give_after(self, table: str, column: str, number: int) -> None:
        """Set the sequence of the column."""
        if number:
            self.execute("SELECT setval(pg_get_serial_sequence(?, ?)::regclass, ?)", (table, column, number))

    def moment(self) -> int:
        """Microseconds since 1970 by the server's clock, as it is now and not as the transaction began."""
        found = self.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT").fetchone()
        assert found is not None
        return int(found[0])

    def shrink(self, pages: int) -> int:
        """Nothing: the server keeps its files itself."""
        return 0

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        with suppress(psycopg.Error):
            self._connection.close()
        self._open = self._pipeline = None


def _values(names: tuple[str, ...] | None, params: Any) -> Any:
    """The parameters in their order."""
    if names is None:
        return params or None
    return [params[name] for name in names]
