"""Reading one version of a blob: its data files are pinned until the reader closes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchyard.blobs.base import Blob, BlobError, BlobKind
from batchyard.blobs.store.files import DataFiles, Pin
from batchyard.drivers.base import Connection


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of content: a data file, or the bytes themselves (only of blobs that are small as a whole)."""

    start: int
    length: int
    block: str | None
    file: str | None
    inline: bytes | None
    skip: int = 0
    """Where it begins in the file."""

    @property
    def is_hole(self) -> bool:
        """Nothing was written there."""
        return self.file is None and self.inline is None


class LocalReader:
    """BlobReader over data files; memory does not grow with the content."""

    def __init__(self, files: DataFiles, pin: Pin, blob: Blob, begin: int, end: int, parts: list[Part]) -> None:
        self.blob = blob
        self.begin = begin
        self.length = max(0, end - begin)
        self.parts = parts
        self._files, self._pin = files, pin
        self._todo = deque(parts)
        self._at = begin
        self._end = end
        self._descriptor: int | None = None
        self._closed = False

    @classmethod
    def open(cls, tx: Connection, files: DataFiles, pin: Pin, blob: tuple[int, Blob], begin: int, end: int) -> LocalReader:
        """Look up and pin a blob of that id, within `files.looking`. Raises BlobContentLost unless the parts are all there."""
        found = tx.execute(
            "SELECT start, length, block, file, bytes, skip FROM segments"
            " WHERE blob = ? AND start < ? AND start + length > ? ORDER BY start",
            (blob[0], end, begin),
        )
        parts = [Part(*row) for row in found]
        if blob[1].kind is BlobKind.PAGE:
            parts = list(_with_holes(parts, begin, end))
        _check_seams(parts, blob[1], begin, end)
        pin.hold(part.file for part in parts if part.file is not None)
        return cls(files, pin, blob[1], begin, end, parts)

    def check(self) -> None:
        """Raise BlobContentLost unless the data files hold what the catalogue says; before the first byte is on its way."""
        for part in self.parts:
            if part.file is None:
                continue
            try:
                size = self._files.path(part.file).stat().st_size
            except FileNotFoundError:
                size = 0
            if size < part.skip + part.length if self.blob.kind is BlobKind.PAGE else size != part.length:
                raise lost(self.blob, f"a data file holds {size} bytes and not {part.length}")

    def read(self, size: int) -> bytes:
        """Up to `size` next bytes, empty at the end; fewer than asked at the seam of two parts."""
        if self._at >= self._end:
            return b""
        part = self._todo[0]
        offset = self._at - part.start
        count = min(size, part.length - offset, self._end - self._at)
        if part.is_hole:
            chunk = bytes(count)
        else:
            chunk = part.inline[offset : offset + count] if part.inline is not None else self._from_file(part, part.skip + offset, count)
        if not chunk:
            raise OSError(f"data file {part.file} is shorter than the catalogue says")
        self._at += len(chunk)
        if self._at == part.start + part.length:
            self._todo.popleft()
            self._close_file()
        return chunk

    def close(self) -> None:
        """Let go of the version."""
        if not self._closed:
            self._closed = True
            self._close_file()
            self._pin.release()

    def _from_file(self, part: Part, offset: int, count: int) -> bytes:
        if self._descriptor is None:
            assert part.file is not None
            self._descriptor = os.open(self._files.path(part.file), os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._descriptor, count, offset)

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lost(blob: Blob, reason: str) -> BlobError:
    """The answer for a blob that is not what its row says."""
    return BlobError(
        "BlobContentLost", f"The content of this blob of {blob.length} bytes is lost: {reason}. Upload it again, or delete it."
    )


def _check_seams(parts: list[Part], blob: Blob, begin: int, end: int) -> None:
    """Raise BlobContentLost unless the parts lie end to end from `begin` (or before) to `end` (or behind)."""
    reached = min([begin, *(part.start for part in parts[:1])])
    for part in parts:
        if part.start != reached:
            break
        reached += part.length
    if reached < end:
        raise lost(blob, f"nothing is stored of it from byte {reached} on")


def _with_holes(parts: Sequence[Part], begin: int, end: int) -> Iterator[Part]:
    """The parts of a page blob, and what lies between them."""
    reached = begin
    for part in parts:
        if part.start > reached:
            yield Part(reached, part.start - reached, None, None, None)
        yield part
        reached = part.start + part.length
    if reached < end:
        yield Part(reached, end - reached, None, None, None)
