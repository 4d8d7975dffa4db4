"""The event log as a reader of one subject sees it."""

from __future__ import annotations

import msgspec

from batchyard.store.reader import Reader, Statement


class EventRow(msgspec.Struct):
    """Something that happened to a subject; `old` and `new` are states, None when it changed none."""

    at: int
    happened: str
    old: str | None
    new: str | None
    cause: str | None


_LAST = Statement(
    "SELECT at, happened, old, new, cause FROM event WHERE what = :what AND subject = :subject ORDER BY pk DESC LIMIT :n", EventRow
)


def last(reader: Reader, what: str, subject: int, n: int) -> list[EventRow]:
    """The last `n` events of a subject, the oldest of them first."""
    return reader.all(_LAST, what=what, subject=subject, n=n)[::-1]
