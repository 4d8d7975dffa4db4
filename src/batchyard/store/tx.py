"""A unit of work: what it changed, counted, logged and whom it wakes, all in one transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, cast

from msgspec.structs import replace

from batchyard.drivers.base import Answer, Connection
from batchyard.store.reader import Change, Insertion, Params, Reader, Statement

_RESERVE = Statement(
    "INSERT INTO sequence (name, next) VALUES (:name, 1 + :n)"
    " ON CONFLICT (name) DO UPDATE SET next = sequence.next + :n RETURNING next - :n",
    int,
)
_LOG = Insertion("event", ("at", "what", "subject", "until", "happened", "old", "new", "cause"))


class Conflict(Exception):
    """What a unit saw is no longer so; the unit is undone and run again from its beginning."""


class Taken(Exception):
    """A row of that name is there already."""


class Row(Protocol):
    """What guarded changes have to know of a row."""

    @property
    def pk(self) -> int:
        """Its key."""
        ...

    @property
    def version(self) -> int:
        """How often it was changed."""
        ...


W = TypeVar("W", bound=Row)
Event = tuple[str, str]
"""Of what kind a subject is, and what happened to it."""


class Versioned(Generic[W]):
    """A table whose rows carry the version that guards each change, and what a row of it becomes.

    `states` are the columns that no ordinary change may touch: `engine.changes` alone does, by `set_state` (decision D19).
    Every write there is counts the version: so the guard proves the rest of the row, and what it has become need not be read, which
    would cost as much as the change itself. `returning` is for rows that show more than their own columns.
    """

    __slots__ = ("returning", "row", "states", "table")

    def __init__(self, table: str, row: Callable[..., W], *, returning: str | None = None, states: Iterable[str] = ("state",)) -> None:
        self.table, self.row, self.returning, self.states = table, row, returning, frozenset(states)


class Tx(Reader):
    """A running transaction. Counts and events are gathered and written once, when the unit ends."""

    __slots__ = ("_counts", "_events", "_grown", "_guards", "happened", "wakes")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._counts: dict[int, dict[str, int]] = {}
        self._grown: set[int] = set()
        self._events: list[tuple[Any, ...]] = []
        self._guards: list[tuple[Answer, int, str]] = []
        self.happened: Counter[Event] = Counter()
        self.wakes: set[str] = set()

    def change(self, change: Change, **params: Any) -> None:
        """Run a change."""
        self._connection.execute(change.sql, params)

    def changed(self, change: Change, **params: Any) -> int:
        """Run a change; how many rows it reached, which costs the way to the database and back."""
        return self._connection.execute(change.sql, params).rowcount

    def change_many(self, change: Change, rows: Iterable[Params]) -> None:
        """Run a change for every row of parameters."""
        self._connection.executemany(change.sql, rows)

    def insert_many(self, insertion: Insertion, rows: Sequence[tuple[Any, ...]]) -> Sequence[Answer]:
        """Insert rows; the answers of which tell how many there were room for."""
        return [self._connection.execute(sql, params) for sql, params in insertion.parts(rows)]

    def change_all(self, change: Change, rows: Sequence[Params], otherwise: str) -> None:
        """Run a change that each row of parameters has to reach one row by. Raises Conflict when one did not."""
        if rows and not self._reached(self._connection.executemany(change.sql, rows), otherwise, len(rows)):
            raise Conflict(otherwise)

    def insert(self, table: str, **values: Any) -> int:
        """Insert a row; its key."""
        (pk,) = self._connection.execute(insert_sql(table, tuple(values)), values).fetchone()
        return int(pk)

    def move(self, rows: Versioned[W], seen: Row, values: Mapping[str, Any]) -> W:
        """Change a row that is still as it was seen, all but its state; the row as it is then. Raises Conflict."""
        if not rows.states.isdisjoint(values):
            raise TypeError(f"a state of {rows.table} changes by engine.changes alone")
        return self.set_state(rows, seen, values)

    def set_state(self, rows: Versioned[W], seen: Row, values: Mapping[str, Any]) -> W:
        """The same with the state, which is for `engine.changes` alone."""
        sql = guarded_sql(rows.table, tuple(values), rows.returning)
        done = self._connection.execute(sql, {**values, "pk": seen.pk, "seen": seen.version})
        if rows.returning is None:
            if self._reached(done, f"{rows.table} {seen.pk} is no longer at version {seen.version}"):
                known: W = replace(cast("Any", seen), version=seen.version + 1, **values)
                return known
        elif (fresh := done.fetchone()) is not None:
            return rows.row(*fresh)
        raise Conflict(f"{rows.table} {seen.pk} is no longer at version {seen.version}")

    def set_states(self, rows: Versioned[W], changes: Sequence[tuple[Row, Mapping[str, Any]]]) -> list[W]:
        """The same for several rows, of each the same columns, in one statement; as they are then. Raises Conflict when one was changed."""
        if not changes:
            return []
        assert rows.returning is None, f"rows of {rows.table} show more than their own columns"
        sql = guarded_sql(rows.table, tuple(changes[0][1]), None)
        params = [{**values, "pk": seen.pk, "seen": seen.version} for seen, values in changes]
        refusal = f"some of {rows.table} {', '.join(str(seen.pk) for seen, _ in changes)} is no longer as it was seen"
        if not self._reached(self._connection.executemany(sql, params), refusal, len(params)):
            raise Conflict(refusal)
        return [replace(cast("Any", seen), version=seen.version + 1, **values) for seen, values in changes]

    def _reached(self, done: Answer, otherwise: str, rows: int = 1) -> bool:
        """Whether so many rows were reached; where an answer costs a way and back that is looked at when the unit ends."""
        if self._connection.lazy:
            self._guards.append((done, rows, otherwise))
            return True
        return done.rowcount == rows

    def settle(self) -> None:
        """Have every change made, or raise what it raises. Raises Conflict when what one guarded is no longer so."""
        guards, self._guards = self._guards, []
        self._connection.settle()
        for done, rows, otherwise in guards:
            if done.rowcount != rows:
                raise Conflict(otherwise)

    def came_of(self, error: BaseException) -> bool:
        """True for an error of the database."""
        return isinstance(error, self._connection.Error)

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
        self.happened[what, str(happened)] += 1 if until is None else until - subject + 1
        self._events.append((at, what, subject, until, str(happened), old and str(old), new and str(new), cause))

    def wake(self, topic: str) -> None:
        """Hint after the commit that there is work for `topic`; losing it costs a loop period."""
        self.wakes.add(topic)

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many, fewer when there are no more."""
        return self._connection.shrink(pages)

    def flush(self) -> None:
        """Write gathered counts and events, and have all that was guarded looked at. Raises Conflict as `write` and `settle` do."""
        self.write()
        self.settle()

    def write(self) -> None:
        """Write gathered counts and events, for what this unit looks at next. Raises Conflict when a job ran more tasks than it may."""
        for job_pk, deltas in self._counts.items():
            changed = {name: delta for name, delta in deltas.items() if delta}
            starts = changed.get("running", 0) > 0
            if changed or job_pk in self._grown:
                sql = _count_sql(tuple(changed), job_pk in self._grown, starts)
                done = self._connection.execute(sql, {**changed, "job_pk": job_pk})
                refusal = f"job {job_pk} may not run so many tasks any more"
                if starts and not self._reached(done, refusal):
                    raise Conflict(refusal)
        self.insert_many(_LOG, self._events)
        self._counts.clear()
        self._grown.clear()
        self._events.clear()


@lru_cache
def insert_sql(table: str, names: tuple[str, ...]) -> str:
    """INSERT of these columns that answers the key."""
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)}) RETURNING pk"


@lru_cache(maxsize=512)
def guarded_sql(table: str, names: tuple[str, ...], returning: str | None) -> str:
    """UPDATE of these columns, guarded by the version that was seen."""
    changes = ", ".join(f"{n} = :{n}" for n in names)
    answer = "" if returning is None else f" RETURNING {returning}"
    return f"UPDATE {table} SET {changes}, version = version + 1 WHERE pk = :pk AND version = :seen{answer}"


@lru_cache
def _count_sql(names: tuple[str, ...], grown: bool, starts: bool) -> str:
    """What became ready may be smaller than all that was there; tasks start only while the job is open and may run so many."""
    changes = [f"{n} = {n} + :{n}" for n in names] + ["smallest = 0"] * grown
    guard = " AND open = 1 AND (max_parallel < 0 OR running + :running <= max_parallel)" if starts else ""
    return f"UPDATE job_counts SET {', '.join(changes)} WHERE job_pk = :job_pk{guard}"
