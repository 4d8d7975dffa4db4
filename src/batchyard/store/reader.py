"""Prepared statements and the rows they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Generic, TypeVar

from batchyard.drivers.base import Answer, Connection

R = TypeVar("R")
Params = Mapping[str, Any]


class Statement(Generic[R]):
    """SQL with `:name` parameters and what a row of its answer becomes."""

    __slots__ = ("row", "sql")

    def __init__(self, sql: str, row: Callable[..., R]) -> None:
        self.sql, self.row = sql, row


class Change:
    """SQL that changes rows, with `:name` parameters."""

    __slots__ = ("sql",)

    def __init__(self, sql: str) -> None:
        self.sql = sql


class Insertion:
    """Rows of a table to insert, each with the same columns; `otherwise` says what becomes of one that cannot be.

    Many go with one statement: to run one for each costs twice as much. Columns that no row has a value for are left out, because to
    bind NULL takes a driver longer than to bind a number.
    """

    __slots__ = ("columns", "otherwise", "table")

    def __init__(self, table: str, columns: Sequence[str], otherwise: str = "") -> None:
        self.table, self.columns, self.otherwise = table, tuple(columns), otherwise

    def parts(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, list[Any]]]:
        """Statements that insert them all, with their parameters: of few lengths, for them to stay prepared."""
        named = {
            name: values for name, values in zip(self.columns, zip(*rows, strict=True), strict=False) if any(v is not None for v in values)
        }
        plain = [*zip(*named.values(), strict=True)]
        while plain:
            n = min(1 << len(plain).bit_length() - 1, _MOST_INSERTED)
            some, plain = plain[:n], plain[n:]
            yield inserting(self.table, tuple(named), n, self.otherwise), [*chain.from_iterable(some)]


class Reader:
    """A snapshot to ask questions of."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self, statement: Statement[R], **params: Any) -> list[R]:
        """Every row."""
        row = statement.row
        return [row(*values) for values in self._connection.execute(statement.sql, params)]

    def soon(self, statement: Statement[R], **params: Any) -> Sequence[R]:
        """Every row as it is now; where that costs a way to the database and back they are fetched when they are looked at."""
        if not self._connection.lazy:
            return self.all(statement, **params)
        return Rows(self._connection.execute(statement.sql, params), statement.row)

    def first(self, statement: Statement[R], **params: Any) -> R | None:
        """The first row, None when there is none."""
        values = self._connection.execute(statement.sql, params).fetchone()
        return None if values is None else statement.row(*values)

    def moment(self) -> int:
        """Microseconds since 1970 by the database's clock, which all servers that share it have."""
        return self._connection.moment()

    def among(self, statement: Statement[R], keys: Sequence[int]) -> list[R]:
        """Every row of some keys, in no order; they stand in the statement as `IN (:keys)`."""
        found: list[R] = []
        for at in range(0, len(keys), _FILLS[-1]):
            some = keys[at : at + _FILLS[-1]]
            n = next(fill for fill in _FILLS if fill >= len(some))
            filled = [*some, *[some[-1]] * (n - len(some))]
            found += [statement.row(*values) for values in self._connection.execute(spread(statement.sql, n), filled)]
        return found


class Rows(Sequence[R]):
    """Rows of an answer that is fetched when somebody looks at it."""

    def __init__(self, answer: Answer, row: Callable[..., R]) -> None:
        self._answer, self._row = answer, row

    @cached_property
    def fetched(self) -> list[R]:
        """The rows."""
        return [self._row(*values) for values in self._answer]

    def __getitem__(self, at: Any) -> Any:
        return self.fetched[at]

    def __len__(self) -> int:
        return len(self.fetched)


_FILLS = (1, 4, 16, 64, 256)
"""Lengths of lists of keys: a few, for the statements to stay prepared."""
_MOST_INSERTED = 64
"""Rows that one statement inserts."""


@lru_cache(maxsize=128)
def spread(sql: str, n: int) -> str:
    """The statement with `n` parameters in the place of `:keys`."""
    return sql.replace(":keys", ", ".join("?" * n))


@lru_cache(maxsize=256)
def inserting(table: str, columns: tuple[str, ...], n: int, otherwise: str) -> str:
    """INSERT of `n` rows of these columns."""
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * n)} {otherwise}".rstrip()


def columns(row: type[Any], prefix: str = "") -> str:
    """Columns of a row struct as a select list, in its order."""
    fields: Sequence[str] = row.__struct_fields__
    return ", ".join(prefix + field for field in fields)
