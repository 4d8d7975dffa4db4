"""Checked filters as SQL, and pages of what they find.

A condition is text of this module and names of columns only; every value from outside is a bound parameter. A page costs the same
whatever is asked for: it looks at a bounded number of rows, so it may be short, even empty, and still say that there is more behind a
key (contract 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from batchyard.rules.odata import And, Comparison, Filter, Kind
from batchyard.store.reader import Reader, Statement

R = TypeVar("R")

ALL = 2**62
"""A key behind all others."""
_SIGNS = {"eq": "=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Page(msgspec.Struct, Generic[R]):
    """What a list shows at once, and the key behind which it goes on; None at its end."""

    rows: list[R]
    more: int | None


def page(rows: Sequence[R], most: int, key: Callable[[R], int], until: int | None = None) -> Page[R]:
    """A page of at most `most` of the rows that were read, one more than that if they are there; `until` is where reading stopped."""
    if len(rows) > most:
        return Page(list(rows[:most]), key(rows[most - 1]))
    return Page(list(rows), until)


def by_key(row: Any) -> int:
    """The key of a row."""
    return int(row.pk)


def condition(found: Filter, columns: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The filter as a condition on these columns, and its parameters `f0`, `f1`, …; ids and words are stored or made small."""
    params: dict[str, Any] = {}

    def text(part: Filter) -> str:
        if isinstance(part, Comparison):
            return _comparison(part, columns[part.name], params)
        return "(" + (" AND " if isinstance(part, And) else " OR ").join(map(text, part.parts)) + ")"

    return text(found), params


def _comparison(part: Comparison, column: str, params: dict[str, Any]) -> str:
    if part.kind is Kind.ID:
        column = f"lower({column})"
    name = f"f{len(params)}"
    params[name] = part.value
    if part.operator == "ne":
        return f"({column} IS NULL OR {column} <> :{name})"
    said = f"{column} {_SIGNS.get(part.operator)} :{name}"
    if part.operator == "startswith":
        params[f"{name}_length"] = len(str(part.value))
        said = f"substr({column}, 1, CAST(:{name}_length AS INTEGER)) = :{name}"
    return f"({column} IS NULL OR NOT {said})" if part.negated else said


def reach(reader: Reader, table: str, where: str, after: int, rows: int, **params: Any) -> int | None:
    """Key of the row that many behind `after`; None when there are fewer."""
    sql = f"SELECT pk FROM {table} WHERE {where} AND pk > :after ORDER BY pk LIMIT 1 OFFSET :skip"
    return reader.first(Statement(sql, int), after=after, skip=rows - 1, **params)


def sift(
    read: Callable[[int, int], Sequence[R]], keep: Callable[[R], bool], key: Callable[[R], int], after: int, most: int, look_at: int
) -> Page[R]:
    """A page of the items worth keeping among the next `look_at`, which `read(after, n)` gives in the order of their keys."""
    found: list[R] = []
    step = min(look_at, 1_000)
    for _ in range(max(1, look_at // step)):
        items = read(after, step)
        found += filter(keep, items)
        if len(found) > most or len(items) < step:
            return page(found, most, key)
        after = key(items[-1])
    return page(found, most, key, after)
