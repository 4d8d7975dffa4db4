"""Page blobs: what was written lies in segments with holes between; a write makes room for itself in those that are there.

Invariant: segments of a blob do not overlap. A data file may hold several of them, parts of what was written at once; it goes when the
last of them does. What is no segment is zeros, and takes no room.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from batchyard.blobs.base import Blob, BlobError, BlobKind, BlobRef, Conditions, ContentHeaders, PageRange, SequenceConditions
from batchyard.blobs.conditions import check_read, check_write
from batchyard.blobs.store import rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles
from batchyard.blobs.store.giving import Giving
from batchyard.blobs.store.uploads import LocalUpload
from batchyard.drivers.base import Connection, Row

T = TypeVar("T")


class Pages(Giving):
    """The part of a store that is about these."""

    def write_pages(self, ref: BlobRef, begin: int, conditions: Conditions, sequence: SequenceConditions) -> PagesUpload:
        """Begin to write from that byte on; commit raises InvalidPageRange for what does not fit into the blob."""
        with self._catalogue.reading() as tx:
            _page_row(tx, ref)
        return PagesUpload(self._catalogue, self._files, ref, begin, conditions, sequence)

    def clear_pages(self, ref: BlobRef, pages: PageRange, conditions: Conditions, sequence: SequenceConditions, now_us: int) -> Blob:
        """Make zeros of a range."""

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            row = _writable(tx, ref, pages, conditions, sequence)
            gone = carve(tx, row["id"], pages.begin, pages.end)
            return rows.touch_blob(tx, row, now_us), gone

        return self._and_give_up(work)

    def set_page_properties(
        self, ref: BlobRef, size: int | None, sequence: tuple[str, int] | None, headers: ContentHeaders | None, conditions: Conditions
    ) -> Blob:
        """Change the size, the sequence number (`max`, `update` or `increment`) and the content headers; None keeps each."""

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            row = _page_row(tx, ref)
            check_write(conditions, rows.version(row))
            gone = [] if size is None or size >= row["length"] else carve(tx, row["id"], size, row["length"])
            if sequence is not None:
                extras = rows.extras_of(row)
                rows.write_extras(tx, row, replace(extras, sequence=_next(extras.sequence, *sequence)))
                row = _page_row(tx, ref)
            values: dict[str, str | int] = {} if size is None else {"length": size}
            if headers is not None:
                values["headers"] = rows.json_text(headers)
            return rows.touch_blob(tx, row, conditions.now_us, **values), gone

        return self._and_give_up(work)

    def page_ranges(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> tuple[Blob, list[PageRange]]:
        """What was written of a range of the blob, in order."""
        with self._catalogue.reading() as tx:
            row = _page_row(tx, ref)
            check_read(conditions, rows.version(row))
            stop = row["length"] if end is None else min(end, row["length"])
            # The bytes of the segments, which may be many, are not read.
            where = "blob = ? AND start < ? AND start + length > ? ORDER BY start"
            found = tx.execute(f"SELECT start, length FROM segments WHERE {where}", (row["id"], stop, begin))
            written = (PageRange(one["start"], one["start"] + one["length"]).cut(begin, stop) for one in found)
            return rows.as_blob(row), list(_joined(written))

    def page_changes(
        self, ref: BlobRef, previous: str, conditions: Conditions, begin: int, end: int | None
    ) -> tuple[Blob, list[PageRange]]:
        """What is otherwise than in an earlier snapshot, in order. Raises PreviousSnapshotNotFound."""
        with self._files.looking(), self._catalogue.reading() as tx:
            row = _page_row(tx, ref)
            check_read(conditions, rows.version(row))
            before = rows.find_blob(tx, row["container"], ref.name, previous)
            if before is None:
                raise BlobError("PreviousSnapshotNotFound")
            stop = row["length"] if end is None else min(end, row["length"])
            new, old = (self._known(_segments(tx, one["id"], begin, stop)) for one in (row, before))
            return rows.as_blob(row), list(_joined(_changes(new, old, begin, stop)))

    def _known(self, segments: Iterable[_Segment]) -> list[_Segment]:
        """Segments with what their bytes are, so that those of a snapshot compare: the number of the file, whose names differ."""
        return [replace(one, what=one.what if one.file is None else os.stat(self._files.path(one.file)).st_ino) for one in segments]


class PagesUpload(LocalUpload[Blob]):
    """Put Page: what is written takes the place of what was there."""

    inline = True

    def __init__(
        self, catalogue: Catalogue, files: DataFiles, ref: BlobRef, begin: int, conditions: Conditions, sequence: SequenceConditions
    ) -> None:
        super().__init__(catalogue, files, ref)
        self._begin, self._conditions, self._sequence = begin, conditions, sequence

    def _enter(self, tx: Connection, now_us: int) -> tuple[Blob, list[str]]:
        pages = PageRange(self._begin, self._begin + self.length)
        row = _writable(tx, self._ref, pages, self._conditions, self._sequence)
        gone = carve(tx, row["id"], pages.begin, pages.end)
        rows.insert_segment(tx, row["id"], pages.begin, self.length, self._content.name, self._content.inline)
        return rows.touch_blob(tx, row, now_us), gone


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment; `what` are its bytes, or what stands for them: two that have the same at the same place are the same."""

    start: int
    length: int
    file: str | None
    skip: int
    what: bytes | int | None

    @property
    def end(self) -> int:
        return self.start + self.length


def carve(tx: Connection, blob: int, begin: int, end: int) -> list[str]:
    """Make a hole from `begin` to `end` (exclusive); the data files that hold nothing any more."""
    freed = set()
    for one in _segments(tx, blob, begin, end):
        tx.execute("DELETE FROM segments WHERE blob = ? AND start = ?", (blob, one.start))
        if one.file is not None:
            freed.add(one.file)
        if one.start < begin:
            _insert_part(tx, blob, one, one.start, begin)
        if one.end > end:
            _insert_part(tx, blob, one, end, one.end)
    return [file for file in freed if tx.execute("SELECT 1 FROM segments WHERE file = ? LIMIT 1", (file,)).fetchone() is None]


def _insert_part(tx: Connection, blob: int, of: _Segment, begin: int, end: int) -> None:
    offset = begin - of.start
    inline = of.what[offset : offset + end - begin] if isinstance(of.what, bytes) else None
    rows.insert_segment(tx, blob, begin, end - begin, of.file, inline, skip=of.skip + offset if of.file is not None else 0)


def _segments(tx: Connection, blob: int, begin: int, end: int) -> list[_Segment]:
    """Segments that have bytes of the range, in order."""
    found = tx.execute(
        "SELECT start, length, file, skip, bytes FROM segments WHERE blob = ? AND start < ? AND start + length > ? ORDER BY start",
        (blob, end, begin),
    )
    return [_Segment(row["start"], row["length"], row["file"], row["skip"], row["bytes"]) for row in found]


def _changes(new: Sequence[_Segment], old: Sequence[_Segment], begin: int, end: int) -> Iterator[PageRange]:
    """Ranges in which the two differ, in order; what is no segment now and was one is cleared."""
    edges = {begin, end, *(edge for one in [*new, *old] for edge in (one.start, one.end) if begin < edge < end)}
    ordered = sorted(edges)
    now, then = _Walk(new), _Walk(old)
    for first, last in itertools.pairwise(ordered):
        here, before = now.at(first), then.at(first)
        if here is None and before is not None:
            yield PageRange(first, last, cleared=True)
        elif here is not None and not _same(here, before, first, last):
            yield PageRange(first, last)


class _Walk:
    """Segments from left to right."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self._segments, self._next = segments, 0

    def at(self, place: int) -> _Segment | None:
        """The segment that has this byte; places come in order."""
        while self._next < len(self._segments) and self._segments[self._next].end <= place:
            self._next += 1
        one = self._segments[self._next] if self._next < len(self._segments) else None
        return one if one is not None and one.start <= place else None


def _same(one: _Segment, other: _Segment | None, begin: int, end: int) -> bool:
    if other is None or (one.file is None) != (other.file is None):
        return False
    if isinstance(one.what, bytes) and isinstance(other.what, bytes):
        return one.what[begin - one.start : end - one.start] == other.what[begin - other.start : end - other.start]
    return one.what == other.what and one.start - one.skip == other.start - other.skip


def _joined(ranges: Iterable[PageRange]) -> Iterator[PageRange]:
    """Neighbours of a kind as one."""
    last: PageRange | None = None
    for one in ranges:
        if last is not None and last.end == one.begin and last.cleared == one.cleared:
            last = replace(last, end=one.end)
            continue
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last


def _page_row(tx: Connection, ref: BlobRef) -> Row:
    row = rows.blob_row(tx, ref)
    if row["kind"] != BlobKind.PAGE:
        raise BlobError("InvalidBlobType")
    return row


def _writable(tx: Connection, ref: BlobRef, pages: PageRange, conditions: Conditions, sequence: SequenceConditions) -> Row:
    row = _page_row(tx, ref)
    check_write(conditions, rows.version(row))
    if not sequence.hold(rows.extras_of(row).sequence):
        raise BlobError("SequenceNumberConditionNotMet")
    if pages.end > row["length"]:
        raise BlobError("InvalidPageRange")
    return row


def _next(now: int, action: str, number: int) -> int:
    if action == "increment":
        return now + 1
    return max(now, number) if action == "max" else number
