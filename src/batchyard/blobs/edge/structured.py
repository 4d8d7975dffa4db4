"""Structured messages: content in segments, each with its CRC64, and that of the whole at the end.

The newest clients send and ask for them with `validate_content="crc64"`. All numbers are little-endian. A message: version (1 byte, 1),
length of the message (8), properties (2, 1: CRC64), number of segments (2), the segments, CRC64 of all content (8). A segment: number from
1 on (2), length (8), content, CRC64 of it (8). Empty content is one empty segment.
Source: https://learn.microsoft.com/rest/api/storageservices/put-blob, `x-ms-structured-body`; the form is azure-storage-blob's own,
`_shared/streams.py` of 12.31.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

from starlette.types import Message, Receive

from batchyard.blobs.base import BlobError, BlobReader
from batchyard.blobs.edge import sums
from batchyard.blobs.edge.request import Request

BODY, LENGTH = "x-ms-structured-body", "x-ms-structured-content-length"
FORM = "XSM/1.0; properties=crc64"
_MESSAGE, _SEGMENT = struct.Struct("<BQHH"), struct.Struct("<HQ")
_SUM_BYTES = 8
_VERSION, _WITH_CRC64 = 1, 1
_SEGMENT_BYTES, _MOST_SEGMENTS = 4 * 1024 * 1024, 2**16 - 1


def is_wanted(request: Request) -> bool:
    """Whether the content of a request or of its answer is a structured message. Raises InvalidHeaderValue for a form that is not known."""
    text = request.headers.get(BODY)
    if text is None and LENGTH not in request.headers:
        return False
    text = text or ""
    if text.replace(" ", "").lower() != FORM.replace(" ", "").lower():
        raise BlobError("InvalidHeaderValue", f"The value for {BODY} is not {FORM}.")
    return True


def unpacked(request: Request) -> Request:
    """The request as one that brings its content plainly; what is wrong with the message is raised where that is received."""
    content, message = request.number_header(LENGTH), request.number_header("content-length")
    if content is None:
        raise BlobError("MissingRequiredHeader", f"{LENGTH} is not specified.")
    if message is None:
        raise BlobError("MissingContentLengthHeader")
    kept = {name: value for name, value in request.headers.items() if name not in (BODY, LENGTH)}
    return replace(
        request, headers={**kept, "content-length": str(content)}, receive=_unpacking(request.receive, Unpacker(message, content))
    )


def _unpacking(receive: Receive, unpacker: Unpacker) -> Receive:
    async def plain() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        content = unpacker.feed(message.get("body", b""))
        if not message.get("more_body", False):
            unpacker.finish()
        return {**message, "body": content}

    return plain


class Unpacker:
    """Takes a message apart as it arrives. Raises InvalidInput for what is none, and Crc64Mismatch."""

    def __init__(self, message_bytes: int, content_bytes: int) -> None:
        self._message_bytes, self._content_bytes = message_bytes, content_bytes
        self._waiting = bytearray()
        self._expected = _MESSAGE.size
        self._take: Callable[[bytes], None] = self._begin
        self._segments = self._number = self._left = self._total = 0
        self._all, self._one = sums.Crc64(), sums.Crc64()
        self._content: list[bytes] = []
        self._over = False

    def feed(self, chunk: bytes) -> bytes:
        """The content in the next bytes of the message."""
        at, view = 0, memoryview(chunk)
        while at < len(chunk):
            if self._over:
                raise _malformed("there is more behind its end")
            if self._left:
                part = bytes(view[at : at + self._left])
                self._add(part)
                at += len(part)
                continue
            more = view[at : at + self._expected - len(self._waiting)]
            self._waiting += more
            at += len(more)
            if len(self._waiting) == self._expected:
                header, self._waiting = bytes(self._waiting), bytearray()
                self._take(header)
        content, self._content = b"".join(self._content), []
        return content

    def finish(self) -> None:
        """Raise unless the message came to its end with as much content as was said."""
        if not self._over or self._total != self._content_bytes:
            raise _malformed(f"it holds {self._total} bytes of content and not {self._content_bytes}, or lacks its end")

    def _begin(self, header: bytes) -> None:
        version, length, properties, self._segments = _MESSAGE.unpack(header)
        if (version, properties) != (_VERSION, _WITH_CRC64) or not self._segments:
            raise _malformed("it is of another version, has other properties or no segment")
        if length != self._message_bytes:
            raise _malformed(f"it says that it has {length} bytes and has {self._message_bytes}")
        self._expect(_SEGMENT.size, self._open)

    def _open(self, header: bytes) -> None:
        number, self._left = _SEGMENT.unpack(header)
        self._number += 1
        if number != self._number:
            raise _malformed(f"segment {number} comes where {self._number} should")
        if self._total + self._left > self._content_bytes:
            raise _malformed(f"it holds more than {self._content_bytes} bytes of content")
        self._one = sums.Crc64()
        self._expect(_SUM_BYTES, self._shut)

    def _add(self, part: bytes) -> None:
        self._one.update(part)
        self._all.update(part)
        self._content.append(part)
        self._left -= len(part)
        self._total += len(part)

    def _shut(self, said: bytes) -> None:
        sums.check(said, self._one)
        if self._number < self._segments:
            self._expect(_SEGMENT.size, self._open)
        else:
            self._expect(_SUM_BYTES, self._end)

    def _end(self, said: bytes) -> None:
        sums.check(said, self._all)
        self._over = True

    def _expect(self, size: int, take: Callable[[bytes], None]) -> None:
        self._expected, self._take = size, take


class PackedReader:
    """A reader of a message that holds what another reader reads, and closes that."""

    def __init__(self, reader: BlobReader) -> None:
        self._reader = reader
        self._segment_bytes = max(_SEGMENT_BYTES, -(-reader.length // _MOST_SEGMENTS))
        self._segments = -(-reader.length // self._segment_bytes) or 1
        self.blob, self.begin = reader.blob, reader.begin
        self.length = _MESSAGE.size + self._segments * (_SEGMENT.size + _SUM_BYTES) + reader.length + _SUM_BYTES
        self._pieces = self._packed()

    @property
    def headers(self) -> dict[str, str]:
        """What an answer says of it."""
        return {"content-length": str(self.length), BODY: FORM, LENGTH: str(self._reader.length)}

    def read(self, size: int) -> bytes:
        """The next bytes, empty at the end: `size` of content at most, and what stands around it."""
        self._most = size
        return next(self._pieces, b"")

    def close(self) -> None:
        """Let go of the version."""
        self._reader.close()

    def _packed(self) -> Iterator[bytes]:
        whole, left = sums.Crc64(), self._reader.length
        before = _MESSAGE.pack(_VERSION, self.length, _WITH_CRC64, self._segments)
        for number in range(1, self._segments + 1):
            size = min(left, self._segment_bytes)
            before += _SEGMENT.pack(number, size)
            one = sums.Crc64()
            left -= size
            while size:
                content = self._reader.read(min(size, self._most))
                if not content:
                    raise OSError("a blob is shorter than its row says")
                one.update(content)
                whole.update(content)
                size -= len(content)
                yield before + content
                before = b""
            before += one.digest()
        yield before + whole.digest()


def _malformed(reason: str) -> BlobError:
    return BlobError("InvalidInput", f"The structured message cannot be read: {reason}.", headers={"connection": "close"})
