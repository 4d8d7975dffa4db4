"""Many small Put Blobs to a container in one request and one commit, each with its own signature and its own answer.

Every part is answered as if it had come alone: who may send it, conditions, leases and all. Only that its content is brought to the
disk waits until all parts have come so far. An extension of ours; for its shape see model/together.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from batchyard.blobs.base import Blob, BlobError, BlobStore, Upload
from batchyard.blobs.edge import transfers
from batchyard.blobs.edge.request import METADATA_NAMES, Request, query_of
from batchyard.model.together import LARGEST, MOST, MOST_BYTES, Put

_MOST_BODY = MOST_BYTES + MOST * (48 << 10)
"""With targets and headers, which are bounded like those of single ones."""
_META = "x-ms-meta-"
_TARGET = re.compile(r"/[!-~]*")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_NOT_GIVEN = frozenset({"host", "content-length", "transfer-encoding", "x-ms-copy-source"})
"""The first are those of the request; content from elsewhere comes alone."""
_DECODER = msgspec.msgpack.Decoder(list[Put])

Filled: TypeAlias = Callable[[], Upload[Blob]]
Answer: TypeAlias = Callable[[Scope, Receive, "Place"], Awaitable[Response]]


async def run(store: BlobStore, request: Request, scope: Scope, answer: Answer) -> Response:
    """Answer each part on its own; raises InvalidInput when the body cannot be read, and nothing was done then."""
    body = await transfers.body(request, _MOST_BODY)
    try:
        parts = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BlobError("InvalidInput", f"The body is no list of blobs: {error}") from None
    if not 0 < len(parts) <= MOST:
        raise BlobError("InvalidInput", f"There are between 1 and {MOST} blobs.")
    if max(len(part.content) for part in parts) > LARGEST or sum(len(part.content) for part in parts) > MOST_BYTES:
        raise BlobError("InvalidInput", f"A blob has {LARGEST} bytes at most, all together {MOST_BYTES}.")
    scopes = [_scope(request, scope, part, number) for number, part in enumerate(parts)]
    together = _Together(store, len(parts), request.now_us)

    async def one(number: int) -> Response:
        place = Place(together, number)
        try:
            return await answer(scopes[number], partial(_receive, parts[number].content), place)
        finally:
            place.leave()

    answers = await asyncio.gather(*map(one, range(len(parts))))
    return Response(msgspec.msgpack.encode([each.status_code for each in answers]), media_type="application/x-msgpack")


def _scope(request: Request, scope: Scope, part: Put, number: int) -> Scope:
    """The part as a request of its own. Raises unless it is a Put Blob into what the whole was sent to."""
    path, _, query = part.target.partition("?")
    headers = {name.lower(): value for name, value in part.headers.items()}
    if not _TARGET.fullmatch(part.target) or not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers.items()):
        raise BlobError("InvalidInput", f"Part {number} has characters that no request has.")
    account, container, blob = request.names_in(path)
    if len(headers) < len(part.headers) or not _NOT_GIVEN.isdisjoint(headers):
        raise BlobError("InvalidInput", f"Part {number} has a header that none may have, or one twice.")
    if not {"comp", "restype"}.isdisjoint(query_of(query)) or blob is None:
        raise BlobError("InvalidInput", f"Part {number} is no Put Blob.")
    if (account, container) != (request.account, request.container):
        raise BlobError("InvalidInput", f"Part {number} is not for the container that the request was sent to.")
    host, length = request.headers.get("host", "").encode("latin-1"), str(len(part.content)).encode()
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {
        **scope,
        "method": "PUT",
        "raw_path": path.encode(),
        "path": path,
        "query_string": query.encode(),
        "headers": [*pairs, (b"host", host), (b"content-length", length)],
        "extensions": {METADATA_NAMES: {name.lower(): name for name in part.headers if name.lower().startswith(_META)}},
    }


async def _receive(content: bytes) -> Message:
    return {"type": "http.request", "body": content, "more_body": False}


class _Together:
    """Uploads of one request: begun and committed in one turn of a thread, once every part is one of them or has its answer."""

    def __init__(self, store: BlobStore, parts: int, now_us: int) -> None:
        self._store, self._missing, self._now_us = store, parts, now_us
        self._due: dict[int, tuple[Filled, asyncio.Future[tuple[Upload[Blob], Blob]]]] = {}
        self._turn: asyncio.Task[None] | None = None

    async def put(self, number: int, filled: Filled) -> tuple[Upload[Blob], Blob]:
        """Commit an upload with the others'. Raises what is wrong with it."""
        waiting: asyncio.Future[tuple[Upload[Blob], Blob]] = asyncio.get_running_loop().create_future()
        self._due[number] = filled, waiting
        self.arrived()
        return await waiting

    def arrived(self) -> None:
        """One part less to wait for."""
        self._missing -= 1
        if not self._missing and self._due:
            self._turn = asyncio.create_task(self._run())

    async def _run(self) -> None:
        due = [self._due[number] for number in sorted(self._due)]
        try:
            outcomes = await asyncio.to_thread(self._at_once, [filled for filled, _ in due])
        except BaseException as error:
            outcomes = [error] * len(due)
        for (_, waiting), outcome in zip(due, outcomes, strict=True):
            if waiting.done():  # nobody waits any more
                continue
            if isinstance(outcome, BaseException):
                waiting.set_exception(outcome)
            else:
                waiting.set_result(outcome)

    def _at_once(self, due: Sequence[Filled]) -> list[tuple[Upload[Blob], Blob] | BaseException]:
        """Goes on to its end whoever waits for it; nothing is left of what fails."""
        begun = [_begun(filled) for filled in due]
        committed = iter(self._store.commit_all([upload for upload in begun if not isinstance(upload, Exception)], self._now_us))
        return [upload if isinstance(upload, Exception) else _paired(upload, next(committed)) for upload in begun]


def _paired(upload: Upload[Blob], outcome: Blob | BaseException) -> tuple[Upload[Blob], Blob] | BaseException:
    return outcome if isinstance(outcome, BaseException) else (upload, outcome)


def _begun(filled: Filled) -> Upload[Blob] | Exception:
    try:
        return filled()
    except Exception as error:
        return error


class Place:
    """The place of a part in its request."""

    def __init__(self, together: _Together, number: int) -> None:
        self._together, self._number = together, number
        self._taken = False

    async def put(self, filled: Filled) -> tuple[Upload[Blob], Blob]:
        """Commit an upload with those of the other parts. Raises what is wrong with it."""
        self._taken = True
        return await self._together.put(self._number, filled)

    def leave(self) -> None:
        """The part has its answer."""
        if not self._taken:
            self._taken = True
            self._together.arrived()
