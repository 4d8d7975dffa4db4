"""Listing by keyset: each page starts at a name, and a common prefix is skipped over without reading what is under it.

Names are ordered by code point, in SQLite (BINARY collation of UTF-8) as in Python.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from contextlib import closing

from batchyard.blobs.base import Blob, BlobPage, ListQuery
from batchyard.blobs.store import rows

# Names in order, from the first argument up to (not including) the second, None meaning no end.
Scan = Callable[[str, str | None], Generator[Blob, None, None]]

_LAST = 0x10FFFF


def after_prefix(prefix: str) -> str | None:
    """The smallest text greater than every text that starts with `prefix`; None when there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < _LAST:
            code = 0xE000 if code == 0xD7FF else code + 1  # surrogates are not characters
            return prefix[:index] + chr(code)
    return None


def page(query: ListQuery, scan: Scan, is_marked: Callable[[str], bool] = lambda name: False) -> BlobPage:
    """One page of blobs and common prefixes; where directories are shown as such, `is_marked` tells which have a blob of their own."""
    entries: list[Blob | str] = []
    with closing(_entries(query, scan, is_marked)) as found:
        for entry, place in found:
            if len(entries) == query.limit:
                return BlobPage(entries, place)
            entries.append(entry)
    return BlobPage(entries)


def merged(one: Generator[Blob, None, None], other: Generator[Blob, None, None]) -> Generator[Blob, None, None]:
    """The blobs of both in the order of their names."""
    with closing(one), closing(other):
        yield from heapq.merge(one, other, key=lambda blob: blob.name)


def _entries(query: ListQuery, scan: Scan, is_marked: Callable[[str], bool]) -> Generator[tuple[Blob | str, str], None, None]:
    """Blobs and common prefixes from query.start on, lazily, each with where a listing starts that goes on with it."""
    end = after_prefix(query.prefix)
    start: str | None = max(query.start, query.prefix)
    while start is not None:
        begin, start = start, None
        with closing(scan(begin, end)) as blobs:
            for blob in blobs:
                common = _common(query, blob.name)
                if common is None:
                    shown = query.delimiter if query.directories and blob.is_directory else ""
                    yield f"{blob.name}{shown}" if shown else blob, rows.place_of(blob, query)
                    continue
                if not (query.directories and is_marked(common.removesuffix(query.delimiter))):  # else it was shown where its blob stands
                    yield common, common
                start = after_prefix(common)
                break


def _common(query: ListQuery, name: str) -> str | None:
    """The common prefix that stands for `name`, None when it is listed itself."""
    if not query.delimiter:
        return None
    at = name.find(query.delimiter, len(query.prefix))
    return None if at < 0 else name[: at + len(query.delimiter)]
