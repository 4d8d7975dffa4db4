"""All rows of a database into an empty one of the same chain, through both drivers, and a digest of each table to compare them by.

A digest does not depend on the order of rows, and is the same on every driver: a number, a text and bytes are what they are.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from batchyard.drivers.base import Connection
from batchyard.drivers.migrations import Chain
from batchyard.drivers.sqlite import build

_AT_ONCE = 500
_WHOLE = 1 << 128


class Differs(Exception):
    """What was written is not what was read; the message says where."""


class Table(NamedTuple):
    """A table of a chain. `order` is what tells its rows apart, empty where nothing does."""

    name: str
    columns: tuple[str, ...]
    binary: frozenset[int]
    """Places of the columns that hold bytes."""
    order: tuple[str, ...]
    given: str | None
    """The column whose numbers the database gives."""


class Sum(NamedTuple):
    """How many rows a table has, and their digest."""

    rows: int
    digest: str


def tables(chain: Chain) -> list[Table]:
    """The tables that a chain makes, by name."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        build(model, chain.newest, chain)
        names = [name for (name,) in model.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        return [_table(model, name) for name in sorted(names)]


def _table(model: sqlite3.Connection, name: str) -> Table:
    found = model.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?) ORDER BY cid', (name,)).fetchall()
    keys = [(pk, column, kind) for column, kind, _, pk in found if pk]
    given = keys[0][1] if len(keys) == 1 and keys[0][2] == "INTEGER" else None
    order = tuple(column for _, column, _ in sorted(keys)) or _unique(model, name, {column for column, _, required, _ in found if required})
    binary = frozenset(place for place, (_, kind, _, _) in enumerate(found) if kind == "BLOB")
    return Table(name, tuple(column for column, *_ in found), binary, order, given)


def _unique(model: sqlite3.Connection, name: str, required: set[str]) -> tuple[str, ...]:
    for (index,) in model.execute('SELECT name FROM pragma_index_list(?) WHERE "unique" = 1 AND partial = 0 ORDER BY seq', (name,)):
        columns = tuple(column for (column,) in model.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index,)))
        if set(columns) <= required:
            return columns
    return ()


def copy(source: Connection, target: Connection, chain: Chain, without: Collection[str] = ()) -> dict[str, Sum]:
    """Copy all tables but some within the transactions of both, and look whether all arrived. Raises Differs, and what databases raise."""
    sums = {}
    for table in tables(chain):
        if table.name in without:
            continue
        if target.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone() is not None:
            raise Differs(f"the table {table.name} is not empty where it was to be copied to")
        wanted = _copied(source, target, table)
        if (found := summed(target, table)) != wanted:
            raise Differs(f"of the table {table.name} {wanted.rows} rows were read and {found.rows} written, or not as they were")
        if table.given is not None:
            target.give_after(table.name, table.given, source.last_given(table.name, table.given))
        sums[table.name] = wanted
    target.settle()
    return sums


def summed(connection: Connection, table: Table) -> Sum:
    """How many rows a table has, and their digest."""
    return _sum(row for part in _parts(connection, table) for row in part)


def _copied(source: Connection, target: Connection, table: Table) -> Sum:
    marks = ", ".join("?" * len(table.columns))
    sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})"

    def rows() -> Iterator[tuple[Any, ...]]:
        for part in _parts(source, table):
            target.executemany(sql, part)
            target.settle()
            yield from part

    return _sum(rows())


def _parts(connection: Connection, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    """All rows, some at a time."""
    columns, order = ", ".join(table.columns), ", ".join(table.order)
    places = [table.columns.index(column) for column in table.order]
    if not order:
        yield [_plain(row, table) for row in connection.execute(f"SELECT {columns} FROM {table.name}")]
        return
    behind = f"WHERE ({order}) > ({', '.join('?' * len(places))})"
    last: Sequence[Any] = ()
    while True:
        sql = f"SELECT {columns} FROM {table.name} {behind if last else ''} ORDER BY {order} LIMIT {_AT_ONCE}"
        part = [_plain(row, table) for row in connection.execute(sql, tuple(last))]
        yield part
        if len(part) < _AT_ONCE:
            return
        last = [part[-1][place] for place in places]


def _plain(row: Sequence[Any], table: Table) -> tuple[Any, ...]:
    """A row as every database can hold it."""
    return tuple(_value(value, binary=place in table.binary) for place, value in enumerate(row))


def _value(value: Any, *, binary: bool) -> Any:
    if isinstance(value, str):
        return value.encode() if binary else value.replace("\0", "\ufffd")
    return value


def _sum(rows: Iterator[tuple[Any, ...]]) -> Sum:
    count = whole = 0
    for row in rows:
        count += 1
        text = repr([bytes(value) if isinstance(value, memoryview) else value for value in row]).encode("utf-8", "surrogatepass")
        whole = (whole + int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())) % _WHOLE
    return Sum(count, f"{whole:032x}")
