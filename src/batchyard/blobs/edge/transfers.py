"""Bytes between the network and the store: constant memory, disk work in threads, nothing left of a broken upload."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from batchyard.blobs.base import Blob, BlobError, BlobReader, Upload
from batchyard.blobs.edge import sums
from batchyard.blobs.edge.request import Request

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_BYTES = 1024 * 1024  # handed to a thread at once
READ_BYTES = 512 * 1024
SMALL_BYTES = 64 * 1024  # brought in as a whole


class ClientGone(Exception):
    """The client closed the connection before the end of its request: there is nobody to answer."""


async def body(request: Request, most: int) -> bytes:
    """The whole of a small body; raises BlobError when it is larger than `most` bytes, ClientGone when it is cut short."""
    length = request.body_length(most)
    chunks = [chunk async for chunk in _chunks(request, length)]
    return b"".join(chunks)


class _Checked(Generic[T]):
    """An upload whose content has to have the sums that the client says."""

    def __init__(self, request: Request, upload: Upload[T], md5_headers: Sequence[str]) -> None:
        """Raises BlobError for a sum that is none."""
        for name in md5_headers:
            request.md5_header(name)
        self._request, self._upload, self._md5_headers = request, upload, md5_headers
        self._said, self._crc = sums.wanted(request), sums.Crc64()

    def write(self, chunk: bytes) -> None:
        if self._said is not None:
            self._crc.update(chunk)
        self._upload.write(chunk)

    def check(self) -> None:
        """Raises BlobError for content that is another."""
        check_md5(self._request, self._upload.md5(), *self._md5_headers)
        sums.check(self._said, self._crc)

    def commit(self) -> T:
        """Raises BlobError for content that is another."""
        self.check()
        return self._upload.commit(self._request.now_us)


async def take_in(request: Request, upload: Upload[T], length: int, *md5_headers: str) -> T:
    """Stream the body into the upload, check its sums against the headers, commit; on any failure nothing is left."""
    try:
        checked = _Checked(request, upload, md5_headers)
        await _fill(request, checked.write, length)
        return await run_in_threadpool(checked.commit)
    except BaseException:
        # Shielded: the cancellation that brought us here must not keep the file from being removed.
        await asyncio.shield(run_in_threadpool(upload.abort))
        raise


async def put(request: Request, begin: Callable[[], Upload[Blob]], length: int, *md5_headers: str) -> tuple[Upload[Blob], Blob]:
    """Begin an upload and take it in; a small one in one turn of a thread, whose changing costs more than to write a little."""
    if length > SMALL_BYTES:
        upload = await run_in_threadpool(begin)
        return upload, await take_in(request, upload, length, *md5_headers)
    content = b"".join([chunk async for chunk in _chunks(request, length)])
    filled = partial(_filled, request, begin, content, md5_headers)
    if request.place is not None:
        return await request.place.put(filled)
    return await asyncio.to_thread(_at_once, request, filled)  # a third of what starlette's way takes


def _at_once(request: Request, filled: Callable[[], Upload[Blob]]) -> tuple[Upload[Blob], Blob]:
    """Goes on to its end whoever waits for it; nothing is left when it fails."""
    upload = filled()
    try:
        return upload, upload.commit(request.now_us)
    except BaseException:
        upload.abort()
        raise


def _filled(request: Request, begin: Callable[[], Upload[Blob]], content: bytes, md5_headers: Sequence[str]) -> Upload[Blob]:
    """An upload with all of its content, which has the sums that it should have; nothing is left when it fails."""
    upload = begin()
    try:
        checked = _Checked(request, upload, md5_headers)
        if content:
            checked.write(content)
        checked.check()
    except BaseException:
        upload.abort()
        raise
    return upload


def check_md5(request: Request, actual: bytes, *names: str) -> None:
    """Raise Md5Mismatch unless every given header says the actual sum."""
    for name in names:
        if request.md5_header(name) not in (None, actual):
            raise BlobError("Md5Mismatch")


def md5_text(digest: bytes) -> str:
    """Base64 of an MD5."""
    return base64.b64encode(digest).decode()


def sum_headers(request: Request, md5: str | None) -> dict[str, str]:
    """The sum of what came in, the one that the client said: it was compared."""
    said = request.headers.get(sums.CONTENT)
    if said is not None:
        return {sums.CONTENT: said}
    return {} if md5 is None else {"content-md5": md5}


def with_metadata(response: Response, metadata: Mapping[str, str]) -> Response:
    """The answer with metadata headers, whose names keep their case, unlike those of all other headers."""
    names = ((_AsWritten(f"x-ms-meta-{name}".encode("latin-1")), value) for name, value in metadata.items())
    response.raw_headers.extend((name, value.encode("latin-1")) for name, value in names)
    return response


class _AsWritten(bytes):
    """The name of a header that uvicorn does not turn into lower case."""

    __slots__ = ()

    def lower(self) -> _AsWritten:
        """The same."""
        return self


class BlobResponse(StreamingResponse):
    """A download; the reader is closed however the sending ends."""

    def __init__(self, reader: BlobReader, status: int, headers: Mapping[str, str]) -> None:
        self._reader = reader
        super().__init__(_pieces(reader), status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except OSError as error:
            log.error("download broken off: %s", error)
        finally:
            await asyncio.shield(run_in_threadpool(self._reader.close))


async def _fill(request: Request, write: Callable[[bytes], None], length: int) -> None:
    """Write while the next bytes arrive; at most one write is under way."""
    writing: asyncio.Task[None] | None = None
    try:
        async for chunk in _chunks(request, length):
            if writing is not None:
                await writing
            writing = asyncio.create_task(run_in_threadpool(write, chunk))
    finally:
        if writing is not None:
            await asyncio.shield(writing)


async def _chunks(request: Request, length: int) -> AsyncIterator[bytes]:
    """The body in pieces of about WRITE_BYTES; raises ClientGone unless there are exactly `length` bytes."""
    waiting: list[bytes] = []
    size = total = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        if chunk:
            waiting.append(chunk)
            size += len(chunk)
            total += len(chunk)
        if total > length:
            raise BlobError("RequestBodyTooLarge")
        if size >= WRITE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if total != length:
        raise ClientGone
    if waiting:
        yield b"".join(waiting)


async def _pieces(reader: BlobReader) -> AsyncIterator[bytes]:
    while chunk := await run_in_threadpool(reader.read, READ_BYTES):
        yield chunk
