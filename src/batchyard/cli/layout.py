"""Rows as aligned text. Pure: widths come from the rows that are there first, so that a long list starts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

Cell = Callable[[Any, Any], object]
"""From an entry of a list and the present time to what is shown of it."""
_GAP = "  "
_LOOKED_AT = 200
_NARROWEST = 8
_COLOURS = {"running": "cyan", "completed": "dim", "success": "green", "failure": "red", "idle": "green", "unusable": "red"}


class Column(NamedTuple):
    """A column of a table."""

    head: str
    cell: Cell
    number: bool = False
    wide: bool = False
    """Only in the wide table."""
    keep: int = 0
    """What has the least goes first where there is no room."""


Paint = Callable[[str, str | None], str]


def plain(text: str, colour: str | None) -> str:
    """No colours."""
    return text


def lines(
    columns: Sequence[Column], rows: Iterable[Sequence[object]], room: int | None = None, paint: Paint = plain, sample: int = _LOOKED_AT
) -> Iterator[str]:
    """Head and rows; where there is no room for all, columns shrink and go, but nothing is cut without a limit."""
    texts = ([_text(cell) for cell in row] for row in rows)
    first = list(islice(texts, sample))
    widths = [max([len(column.head), *(len(row[at]) for row in first)]) for at, column in enumerate(columns)]
    kept = list(range(len(columns)))
    if room is not None:
        kept = _fitted(columns, widths, room)
    cut = room is not None
    yield _GAP.join(paint(part, "bold") for part in _parts(columns, kept, widths, [column.head for column in columns], cut)).rstrip()
    for row in chain(first, texts):
        parts = _parts(columns, kept, widths, row, cut)
        yield _GAP.join(paint(part, _COLOURS.get(part.strip())) for part in parts).rstrip()


def _text(cell: object) -> str:
    return "" if cell is None else " ".join(str(cell).split("\n"))


def _fitted(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """The columns that stay, in their order; `widths` of those that give way shrink first."""
    kept = list(range(len(columns)))

    def over() -> int:
        return sum(widths[at] for at in kept) + len(_GAP) * (len(kept) - 1) - room

    while over() > 0:
        loose = min(kept, key=lambda at: (columns[at].keep, -at))
        spare = widths[loose] - _NARROWEST
        if not columns[loose].number and spare >= over():
            widths[loose] -= over()
        elif len(kept) > 2:
            kept.remove(loose)
        else:
            longest = max(kept, key=lambda at: widths[at])
            if widths[longest] <= 1:
                break
            widths[longest] = max(1, widths[longest] - over())
    return kept


def _parts(columns: Sequence[Column], kept: Sequence[int], widths: Sequence[int], row: Sequence[str], cut: bool) -> Iterator[str]:
    for at in kept:
        text, width = row[at], widths[at]
        if cut and len(text) > width:
            text = text[: max(0, width - 1)] + "…"
        yield f"{text:>{width}}" if columns[at].number else text if at == kept[-1] else f"{text:{width}}"
