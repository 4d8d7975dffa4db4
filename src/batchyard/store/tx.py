"""A unit of work: what it changed, counted, logged and whom it wakes, all in one transaction."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from batchyard.disk import sqlite
from batchyard.store.reader import Change, Params, Reader, Statement

_RESERVE = Statement(
    "INSERT INTO sequence (name, next) VALUES (:name, 1 + :n)"
    " ON CONFLICT (name) DO UPDATE SET next = sequence.next + :n RETURNING next - :n",
    int,
)
_LOG = Change(
    "INSERT INTO event (at, what, subject, until, happened, old, new, cause)"
    " VALUES (:at, :what, :subject, :until, :happened, :old, :new, :cause)"
)


class Conflict(Exception):
    """A guarded change met another version of the row; the unit is undone and may be run again."""


class Taken(Exception):
    """A row of that name is there already."""


class Tx(Reader):
    """A running transaction. Counts and events are gathered and written once, when the unit ends."""

    __slots__ = ("_counts", "_events", "_grown", "wakes")

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._counts: dict[int, dict[str, int]] = {}
        self._grown: set[int] = set()
        self._events: list[Params] = []
        self.wakes: set[str] = set()

    def change(self, change: Change, **params: Any) -> int:
        """Run a change; how many rows it reached."""
        return self._connection.execute(change.sql, params).rowcount

    def change_many(self, change: Change, rows: Iterable[Params | tuple[Any, ...]]) -> int:
        """Run a change for every row of parameters; how many rows it reached in all."""
        return self._connection.executemany(change.sql, rows).rowcount

    def insert(self, table: str, **values: Any) -> int:
        """Insert a row; its key."""
        (pk,) = self._connection.execute(insert_sql(table, tuple(values)), values).fetchone()
        return int(pk)

    def guarded(self, table: str, pk: int, seen: int, **values: Any) -> None:
        """Change a row that still has the version `seen`, or Conflict."""
        if self._connection.execute(guarded_sql(table, tuple(values)), {**values, "pk": pk, "seen": seen}).rowcount != 1:
            raise Conflict(f"{table} {pk} is no longer at version {seen}")

    def mark(self, name: str) -> None:
        """A point to come back to within the unit."""
        self._connection.execute(f"SAVEPOINT {name}")

    def back_to(self, name: str) -> None:
        """Undo what was written since the mark."""
        self._connection.execute(f"ROLLBACK TO {name}")

    def reserve(self, name: str, n: int) -> int:
        """First of `n` keys that nobody had before."""
        first = self.first(_RESERVE, name=name, n=n)
        assert first is not None
        return first

    def count(self, job_pk: int, **deltas: int) -> None:
        """Change the counters of a job by `deltas`."""
        if deltas.get("ready", 0) > 0:
            self._grown.add(job_pk)
        counts = self._counts.setdefault(job_pk, defaultdict(int))
        for name, delta in deltas.items():
            counts[name] += delta

    def log(
        self,
        at: int,
        what: str,
        subject: int,
        happened: str,
        *,
        old: str | None = None,
        new: str | None = None,
        until: int | None = None,
        cause: str | None = None,
    ) -> None:
        """Append to the event log (decision D9); `until` makes it one row for a range of subjects."""
        self._events.append(
            {"at": at, "what": what, "subject": subject, "until": until, "happened": happened, "old": old, "new": new, "cause": cause}
        )

    def wake(self, topic: str) -> None:
        """Hint after the commit that there is work for `topic`; losing it costs a loop period."""
        self.wakes.add(topic)

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more."""
        return sqlite.shrink(self._connection, pages)

    def flush(self) -> None:
        """Write gathered counts and events."""
        for job_pk, deltas in self._counts.items():
            changed = {name: delta for name, delta in deltas.items() if delta}
            if changed or job_pk in self._grown:
                self._connection.execute(_count_sql(tuple(changed), job_pk in self._grown), {**changed, "job_pk": job_pk})
        if self._events:
            self._connection.executemany(_LOG.sql, self._events)
        self._counts.clear()
        self._grown.clear()
        self._events.clear()


@lru_cache
def insert_sql(table: str, names: tuple[str, ...]) -> str:
    """INSERT of these columns that answers the key."""
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)}) RETURNING pk"


@lru_cache
def guarded_sql(table: str, names: tuple[str, ...]) -> str:
    """UPDATE of these columns, guarded by the version that was seen."""
    return f"UPDATE {table} SET {', '.join(f'{n} = :{n}' for n in names)}, version = version + 1 WHERE pk = :pk AND version = :seen"


@lru_cache
def _count_sql(names: tuple[str, ...], grown: bool) -> str:
    """What became ready may be smaller than all that was there."""
    changes = [f"{n} = {n} + :{n}" for n in names] + ["smallest = 0"] * grown
    return f"UPDATE job_counts SET {', '.join(changes)} WHERE job_pk = :job_pk"
