"""File requests on their way to agents and back (decision D6): nobody connects to an agent.

A request waits until the node's next sync answer names it; the agent posts the bytes, and they flow to the client as
fast as it takes them, a chunk at a time.

Where there are several servers, nobody knows at which one the node asks next: all are told of the request, again and again until its
answer begins, and whichever the agent answers to passes the answer on to the server where the client waits, which the request's id names.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec

from batchyard.engine import wakes
from batchyard.engine.wakes import Wakes
from batchyard.model.errors import BatchError
from batchyard.model.sync import FileHead, FileRequest

PATIENCE_S = 30.0
"""How long a client waits for the node to begin its answer."""
SPREAD_EVERY_S = 2.0
"""How often other servers are told of a request that is not answered."""
_ELSEWHERE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}", re.ASCII)
"""The id of a request where there are several servers: that of a server and one of its own."""
FOREIGN_KEPT_S = 2.5 * SPREAD_EVERY_S
_CHUNKS_AHEAD = 4


class Others(Protocol):
    """The other servers that have the same account."""

    id: str
    """Of this server."""

    async def spread(self, node_pk: int, request: FileRequest) -> None:
        """Tell all of a request; who does not hear is told again."""
        ...

    async def pass_on(self, node_pk: int, request_id: str, head: str, chunks: AsyncIterator[bytes]) -> bool:
        """Send an answer to the server that its id names; False when that took not all of it. Raises OSError."""
        ...


class _Foreign(msgspec.Struct):
    """A request that another server has of a node."""

    node_pk: int
    request: FileRequest
    until: float
    told: bool = False


class Exchange:
    """One file request: the head, then chunks, then the end."""

    def __init__(self, node_pk: int, request: FileRequest) -> None:
        self.node_pk, self.request = node_pk, request
        self.head: asyncio.Future[FileHead] = asyncio.get_running_loop().create_future()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS_AHEAD)
        self._closed = asyncio.Event()
        self._complete = False

    async def feed(self, chunks: AsyncIterator[bytes]) -> bool:
        """Pass the agent's bytes on until the client has them all, or goes away: then False, also while the agent has nothing to say."""
        closed = asyncio.create_task(self._closed.wait())
        try:
            while (chunk := await _unless(closed, chunks)) is not None:
                if closed.done() or (chunk and not await self._put(chunk, closed)):
                    return False
            self._complete = True
            return True
        finally:
            await self._put(None, closed)
            closed.cancel()

    async def _put(self, chunk: bytes | None, closed: asyncio.Task[Literal[True]]) -> bool:
        put = asyncio.ensure_future(self._chunks.put(chunk))
        await asyncio.wait((put, closed), return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
        return put.done() and not closed.done()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises ConnectionError when the node breaks off."""
        try:
            while (chunk := await self._chunks.get()) is not None:
                yield chunk
            if not self._complete:
                raise ConnectionError("the node broke off while it sent a file")
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed.set()


async def _unless(closed: asyncio.Task[Literal[True]], chunks: AsyncIterator[bytes]) -> bytes | None:
    """The next chunk, None behind the last; nothing in it when `closed` is done first."""
    coming = asyncio.ensure_future(anext(chunks, None))
    try:
        await asyncio.wait((coming, closed), return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else b""
    finally:
        coming.cancel()


class Relay:
    """File requests that wait for a node or are being answered."""

    def __init__(self, wakes_: Wakes, others: Others | None = None) -> None:
        self._wakes, self._others = wakes_, others
        self._open: dict[str, Exchange] = {}
        self._foreign: dict[str, _Foreign] = {}
        self._closing = False

    def close(self) -> None:
        """The server ends: whoever waits for a node, now or from here on, is told to come again."""
        self._closing = True
        for exchange in self._open.values():
            if not exchange.head.done():
                exchange.head.set_exception(BatchError("ServerBusy"))

    async def ask(self, node_pk: int, request: FileRequest) -> Exchange:
        """Have a node do a file operation; returns once the head is there. Raises the node's error or TaskFilesUnavailable, ServerBusy."""
        if self._closing:
            raise BatchError("ServerBusy")
        name = secrets.token_hex(16)
        request = msgspec.structs.replace(request, id=name if self._others is None else f"{self._others.id}-{name}")
        exchange = Exchange(node_pk, request)
        self._open[request.id] = exchange
        self._wakes([wakes.node(node_pk)])
        spreading = asyncio.create_task(self._spread(node_pk, request))
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await exchange.head
        except TimeoutError:
            exchange.close()
            raise BatchError("TaskFilesUnavailable") from None
        except BaseException:
            exchange.close()
            raise
        finally:
            spreading.cancel()
            self._open.pop(request.id, None)
        if head.error is not None:
            exchange.close()
            raise BatchError(head.error, **({} if head.reason is None else {"Reason": head.reason}))
        return exchange

    def waiting(self, node_pk: int) -> list[FileRequest]:
        """Requests that a node has not begun to answer, or that another server has of it and that it was not told."""
        now = asyncio.get_running_loop().time()
        own = [exchange.request for exchange in self._open.values() if exchange.node_pk == node_pk and not exchange.head.done()]
        return own + [each.request for each in self._foreign.values() if each.node_pk == node_pk and not each.told and now < each.until]

    def told(self, requests: Sequence[FileRequest]) -> None:
        """A node hears of these now; it remembers them, so those of other servers are no news to it until they are sent here once more."""
        for request in requests:
            if (foreign := self._foreign.get(request.id)) is not None:
                foreign.told = True

    async def _spread(self, node_pk: int, request: FileRequest) -> None:
        while self._others is not None:
            await self._others.spread(node_pk, request)
            await asyncio.sleep(SPREAD_EVERY_S)

    def hear(self, node_pk: int, request: FileRequest) -> None:
        """Another server has a request of a node that may ask here."""
        now = asyncio.get_running_loop().time()
        self._foreign = {name: each for name, each in self._foreign.items() if now < each.until}
        self._foreign[request.id] = _Foreign(node_pk, request, now + FOREIGN_KEPT_S)
        self._wakes([wakes.node(node_pk)])

    async def pass_on(self, node_pk: int, request_id: str, head: str, chunks: AsyncIterator[bytes]) -> bool | None:
        """Send a node's answer to the server that asked; False when that took not all of it, None when nobody asked. Raises OSError."""
        if self._others is None or not _ELSEWHERE.fullmatch(request_id) or request_id.startswith(self._others.id):
            return None
        self._foreign.pop(request_id, None)
        return await self._others.pass_on(node_pk, request_id, head, chunks)

    def answer(self, node_pk: int, request_id: str, head: FileHead) -> Exchange | None:
        """The exchange that a node answers, once; None when nobody waits for it any more."""
        exchange = self._open.get(request_id)
        if exchange is None or exchange.node_pk != node_pk or exchange.head.done():
            return None
        exchange.head.set_result(head)
        return exchange
