"""One source on its way into one file, over as many requests as that takes.

What was cut off goes on where it was, as long as the source is the same: a part is asked for with `If-Match` and the ETag that the
first answer had. One that changed meanwhile, has no ETag, or whose server knows no parts begins anew, so a file never holds parts of
two versions. What the server says of the whole (`Content-MD5`, `x-ms-content-crc64`) has to hold for what was written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from batchyard.agent.transfer import storage
from batchyard.agent.transfer.stop import Stop
from batchyard.agent.transfer.storage import Heard, Unreachable

_WHOLE, _PART, _SAME, _ANOTHER, _NO_SUCH_PART = 200, 206, 304, 412, 416


class _Sum(Protocol):
    """A checksum that grows with the content."""

    def update(self, piece: memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Download:
    """Fills the open file `fd` from its start; `held` is the ETag of a version that is there already.

    `grown` hears how many bytes there are, and may raise.
    """

    def __init__(self, url: str, fd: int, stop: Stop, grown: Callable[[int], None] = lambda _: None, *, held: str | None = None) -> None:
        self._url, self._fd, self._stop, self._grown, self._held = url, fd, stop, grown, held
        self._position = 0
        self._whole: int | None = None
        self._sums: list[tuple[str, _Sum, bytes]] = []
        """What the whole has to have: the name of a checksum, it so far, and what it has to be in the end."""
        self.etag: str | None = None
        """Of the version that is downloaded, where it is a strong one."""

    def run(self, accept: Callable[[Mapping[str, str]], bool] = lambda _: True) -> bool:
        """Download; False when `held` still counts, or when `accept` does not want what these headers announce.

        Raises Unreachable, Cancelled, OSError where the file cannot be written, and what `grown` raises.
        """
        return self._stop.patiently(lambda: self._go_on(accept), lambda: self._position)

    def _go_on(self, accept: Callable[[Mapping[str, str]], bool]) -> bool:
        if not self._position or self._position != self._whole:  # else only the end was missing
            with storage.ask(self._url, self._asking()) as heard:
                if heard.status == _SAME and self._held is not None:
                    return False
                if self._starts(heard) and not accept(heard.headers):
                    return False
                for piece in heard.pieces:
                    self._stop.check()
                    self._add(piece)
        self._verify()
        return True

    def _asking(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self._position and self.etag is not None:
            return headers | {"Range": f"bytes={self._position}-", "If-Match": self.etag}
        self._begin({})
        return headers if self._held is None else headers | {"If-None-Match": self._held}

    def _starts(self, heard: Heard) -> bool:
        """Whether the answer is the whole from its start, not the rest of it. Raises Unreachable when it is neither."""
        if heard.status == _WHOLE:
            self._begin(heard.headers)
            return True
        if heard.status == _PART and self._position:
            said = heard.headers.get("content-range", "")
            if said.startswith(f"bytes {self._position}-") and heard.headers.get("etag") == self.etag:
                return False
            raise self._changed("the server sent another part than was asked for")
        if self._position and heard.status in (_ANOTHER, _NO_SUCH_PART):
            raise self._changed("it was changed while it was downloaded")
        raise Unreachable(heard.status, f"the server answered {heard.status}")

    def _begin(self, headers: Mapping[str, str]) -> None:
        """From the start; `headers` say what is to come."""
        if self._position:
            os.ftruncate(self._fd, 0)
        self._position, self.etag = 0, strong_etag(headers)
        length = headers.get("content-length", "")
        self._whole = int(length) if length.isascii() and length.isdigit() else None
        self._sums = list(_sums(headers))

    def _add(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._fd, rest, self._position)
            for _, so_far, _ in self._sums:
                so_far.update(rest[:written])
            self._position += written
            rest = rest[written:]
        self._grown(self._position)

    def _verify(self) -> None:
        for name, so_far, wanted in self._sums:
            if so_far.digest() != wanted:
                raise self._changed(f"what came has another {name} than the server says")

    def _changed(self, reason: str) -> Unreachable:
        """What was written counts no more; it is tried again from the start."""
        self._begin({})
        return Unreachable(0, reason)


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """The ETag that says that two answers have the same bytes; None without one, or with a weak one."""
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') and etag.isascii() else None


def _sums(headers: Mapping[str, str]) -> list[tuple[str, _Sum, bytes]]:
    """The checksums of the whole that headers say; what is no checksum counts as absent."""
    found: list[tuple[str, _Sum, bytes]] = []
    if (md5 := _decoded(headers.get("content-md5", ""), 16)) is not None:
        found.append(("MD5", hashlib.md5(usedforsecurity=False), md5))
    if (crc := _decoded(headers.get("x-ms-content-crc64", ""), 8)) is not None:
        found.append(("CRC64", _Crc64(), crc))
    return found


def _decoded(text: str, length: int) -> bytes | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if len(value) == length else None


class _Crc64:
    """The storage service's CRC64."""

    def __init__(self) -> None:
        from azure.storage.extensions import checksums  # of few answers, so not imported for all

        self._compute, self._value = checksums.crc64.compute, 0

    def update(self, piece: memoryview, /) -> None:
        """Add bytes at the end."""
        self._value = self._compute(bytes(piece), self._value)

    def digest(self) -> bytes:
        """The sum of what was added so far."""
        return self._value.to_bytes(8, "little")
