"""Answers to file requests, each one POST (D6): what is small goes over the agent's own line, lists and what is large streams from disk.

A lost one is asked for again, and one that arrives twice counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from batchyard.agent.places import beneath, files
from batchyard.agent.talk.link import Link
from batchyard.model.sync import FILE_HEADER, FILES_PATH, FileHead, FileRequest

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")
log = structlog.get_logger()

_AT_ONCE = 8
_REMEMBERED = 1_000
_SMALL = 64 << 10
"""Bytes up to which a file is read at once; most of what is asked for is what a task wrote."""
_SMALL_S = 30.0
_ENTRIES = 500
"""Entries of a list that are read and sent at a time."""


Service = Callable[[FileRequest], Awaitable[files.Found]]
"""Does what a request asks that is not about files; may raise Refused, OSError or msgspec.ValidationError."""


class Streams(Protocol):
    """What takes as long as it takes and is done once at most."""

    async def stream(self, request: FileRequest) -> AsyncGenerator[bytes, None]:
        """Begin. May raise Refused or msgspec.ValidationError."""
        ...

    def let_go(self, request: FileRequest) -> None:
        """The server has all of it, or wants no more; not called when the line to it broke."""
        ...


class Replies:
    """Answers requests, a few at a time; the same request is answered once. `connect` is called for the first that streams.

    `services` by operation do what is not about files; each request is done once, however often its answer gets lost.
    `answered` hears of every request whose answer the server has.
    """

    def __init__(
        self,
        link: Link,
        connect: Callable[[], httpx.AsyncClient],
        root: str,
        threads: Executor,
        services: Mapping[str, Service],
        streams: Mapping[str, Streams],
        answered: Callable[[FileRequest, FileHead], None],
    ) -> None:
        self._link, self._connect, self._root, self._threads = link, connect, root, threads
        self._services, self._streams, self._hear_answered = services, streams, answered
        self._done: dict[str, files.Found] = {}
        self._connecting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()

    def begin(self, request: FileRequest) -> None:
        """Answer in the background, unless that is done or under way."""
        if request.id not in self._tasks and request.id not in self._answered:
            reply = self._stream if request.operation in self._streams else self._reply
            self._tasks[request.id] = asyncio.create_task(reply(request))

    def turn_to(self, server: str) -> None:
        """Answer to the server at this URL from now on."""
        if self._client is not None:
            self._client.base_url = server.rstrip("/")

    async def close(self) -> None:
        """Drop what is under way."""
        for task in self._tasks.values():
            task.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def _reply(self, request: FileRequest) -> None:
        try:
            async with self._room:
                found = await self._do(request)
                try:
                    await self._post(request, found)
                finally:
                    if found.fd >= 0:
                        os.close(found.fd)
            self._hear_answered(request, found.head)
            self._done.pop(request.id, None)
            self._remember(request)
        except OSError as error:
            log.warning("file request not answered", request=request.id, reason=str(error) or type(error).__name__)
        finally:
            del self._tasks[request.id]

    def _remember(self, request: FileRequest) -> None:
        self._answered[request.id] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)

    async def _stream(self, request: FileRequest) -> None:
        """Answer with what a stream gives, until the server lets go of it; once, however it goes."""
        self._remember(request)
        path = FILES_PATH.format(request_id=request.id)
        try:
            try:
                pieces = await self._streams[request.operation].stream(request)
            except files.Refused as refused:
                await self._post(request, files.refusal(refused))
            except msgspec.ValidationError as error:
                await self._post(request, files.refusal(files.Refused("InvalidRequestBody", str(error))))
            else:
                async with contextlib.aclosing(pieces):
                    await self._link.pour(path, pieces, f"{FILE_HEADER}: {_ascii(FileHead())}\r\n".encode("ascii"))
                self._streams[request.operation].let_go(request)
        except OSError as error:
            log.warning("stream broken off", request=request.id, reason=str(error) or type(error).__name__)
        finally:
            del self._tasks[request.id]

    async def _do(self, request: FileRequest) -> files.Found:
        service = self._services.get(request.operation)
        if service is None:
            return await self._in_thread(files.answer, self._root, request)
        found = self._done.get(request.id)
        if found is None:
            found = self._done[request.id] = await _served(service, request)
            if len(self._done) > _REMEMBERED:  # of clients that went away
                self._done.pop(next(iter(self._done)))
        return found

    async def _post(self, request: FileRequest, found: files.Found) -> None:
        path, head = FILES_PATH.format(request_id=request.id), _ascii(found.head)
        wants = request.operation if found.head.error is None else ""
        if wants == "list":
            await self._send(path, self._pieces(_list(files.entries(self._root, request))), {FILE_HEADER: head})
        elif wants == "get" and found.head.length > _SMALL:
            pieces = self._pieces(files.read(found.fd, found.head.offset, found.head.length))
            await self._send(path, pieces, {FILE_HEADER: head, "content-length": str(found.head.length)})
        else:
            body = found.body
            if wants == "get" and found.head.length:
                body = await self._in_thread(_whole, found)
            await self._link.post(path, body, _SMALL_S, f"{FILE_HEADER}: {head}\r\n".encode("ascii"))

    async def _send(self, path: str, body: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        async with self._connecting:
            if self._client is None:
                self._client = await self._in_thread(self._connect)
        import httpx

        try:
            await self._client.post(path, content=body, headers=headers, timeout=httpx.Timeout(30.0, read=60.0))
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise OSError(str(error) or type(error).__name__) from error

    async def _pieces(self, source: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._in_thread(next, source, b"")) != b"":
            yield piece

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))


async def _served(service: Service, request: FileRequest) -> files.Found:
    """What a service answers; whatever goes wrong becomes the answer."""
    try:
        return await service(request)
    except files.Refused as refused:
        return files.refusal(refused)
    except msgspec.ValidationError as error:
        return files.refusal(files.Refused("InvalidRequestBody", str(error)))
    except OSError as error:
        return files.refusal(files.Refused("IOError", error.strerror))
    except Exception:
        log.exception("request failed for a reason inside the agent", operation=request.operation)
        return files.Found(FileHead(error="InternalError"))


def _whole(found: files.Found) -> bytes:
    """All bytes of a small file. Raises OSError when it shrank meanwhile."""
    data = b"".join(files.read(found.fd, found.head.offset, found.head.length))
    if len(data) < found.head.length:
        raise OSError("the file shrank while it was read")
    return data


def _ascii(head: FileHead) -> str:
    """The head as JSON, percent-encoded to fit into an HTTP header."""
    return quote(msgspec.json.encode(head), safe=' {}[]":,/')


def _list(entries: Iterator[object]) -> Iterator[bytes]:
    """A JSON list, some hundred entries at a time; a tree that vanishes or leads elsewhere meanwhile ends it early."""
    separator = b"["
    with contextlib.suppress(OSError, beneath.Outside):
        while batch := list(itertools.islice(entries, _ENTRIES)):
            yield separator + b",".join(msgspec.json.encode(entry) for entry in batch)
            separator = b","
    yield b"]" if separator == b"," else b"[]"
