"""The agent's line to its server: POST over HTTP/1.1, on connections that stay open.

It does what a sync needs and no more: no redirects, no compression, no proxies; an answer has a length or comes in
chunks. A general client takes ten times the CPU for it, which was half of all that a busy agent used.
A request may reach the server twice, when it closes an idle connection at that very moment: send only what may be
repeated.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

LARGEST = 256 << 20
"""Bytes that an answer may have, head included."""
_CONNECT_S = 15.0
_PIECE = 64 << 10
_REASON = 1_000
"""Bytes of a refusal that are told."""


class Broken(OSError):
    """The connection ended before its answer did, or what came is no answer."""


class Refusal(Broken):
    """The server refuses, and would again."""


@dataclass(slots=True, frozen=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, with one request under way at most."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser = HttpResponseParser(self)
        self._body = bytearray()
        self.heard = 0
        """Bytes that came since the last request."""

    @property
    def is_open(self) -> bool:
        """True while a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer, or Broken, comes in the future."""
        assert self._transport is not None
        self._parser, self._body, self.heard = HttpResponseParser(self), bytearray(), 0
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Close at once; nothing is waited for."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            return self.close()  # nothing was asked
        self.heard += len(data)
        if self.heard > LARGEST:
            return self._fail("the answer is too large")
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(f"that is no HTTP answer: {error}")

    def on_message_begin(self) -> None:
        if self._waiting is None:
            self.close()  # more than one answer

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._waiting is None:
            return  # not the final answer
        if not self._parser.should_keep_alive():
            self.close()
        waiting, self._waiting = self._waiting, None
        if not waiting.done():  # else nobody waits any more
            waiting.set_result(Answer(status, bytes(self._body)))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(str(error) if error else "the server closed the connection")

    def _fail(self, reason: str) -> None:
        self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken(reason))


class _Drawn:
    """An answer whose body is taken in pieces."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self.whole = False

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.whole = self._parser.get_status_code() >= 200

    def feed(self, data: bytes) -> list[bytes]:
        """What came of the body with these bytes. Raises Broken for an answer that is none, is cut off or is a refusal."""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise Broken(f"that is no HTTP answer: {error}") from None
        status = self._parser.get_status_code()
        if self.whole and status != 200:
            raise (Refusal if status < 500 else Broken)(
                b"".join(self._pieces)[:_REASON].decode(errors="replace") or f"the server answered {status}"
            )
        if not data and not self.whole:
            raise Broken("the server closed the connection")
        if status != 200:
            return []
        found, self._pieces = self._pieces, []
        return found


async def _send(writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes]) -> None:
    """Send the pieces as chunks, no faster than they are taken. Raises OSError."""
    async for piece in pieces:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


class Link:
    """Connections to one server, opened as needed; a context that closes them. `trust` is for https."""

    def __init__(self, server: str, token: str, trust: ssl.SSLContext | None) -> None:
        if not token.isascii() or not token.isprintable():
            raise OSError("the token has characters that cannot be sent")
        self._token, self._given_trust = token, trust
        self._idle: list[_Connection] = []
        self.turn_to(server)

    def turn_to(self, server: str) -> None:
        """Speak to the server at this URL from now on; what is under way goes on. Raises OSError for what is none."""
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OSError(f"not the URL of a server: {server}")
        self._host, self._trust = parts.hostname, self._given_trust if parts.scheme == "https" else None
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        fields = f"host: {parts.netloc.rpartition('@')[2]}\r\nauthorization: Bearer {self._token}\r\ncontent-type: application/json\r\n"
        self._fields = fields.encode("ascii")
        self._close_idle()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close_idle()

    def _close_idle(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def post(self, path: str, content: bytes, timeout_s: float, more: bytes = b"") -> Answer:
        """Send content, with `more` header lines; the answer. Raises OSError: Broken, TimeoutError, or what connecting raises."""
        fields = self._fields + more
        head = b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % ((self._prefix + path).encode("ascii"), fields, len(content))
        async with asyncio.timeout(timeout_s):
            while self._idle:
                connection = self._idle.pop()
                if connection.is_open:
                    try:
                        return await self._ask(connection, head + content)
                    except Broken:
                        if connection.heard:
                            raise
                    break  # it was closed while idle; once more, on a new one
            return await self._ask(await self._connect(), head + content)

    async def pour(self, path: str, pieces: AsyncIterator[bytes], more: bytes) -> None:
        """Send pieces as they come, with `more` header lines, on a connection of their own, until the server answers.

        Raises OSError: Broken when it hangs up without an answer, or answers that it fails.
        """
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._trust)
        answered = asyncio.ensure_future(reader.readline())
        head = b"POST %b HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n"
        writer.write(head % ((self._prefix + path).encode("ascii"), self._fields + more))
        sending = asyncio.ensure_future(_send(writer, pieces))
        try:
            await asyncio.wait((sending, answered), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                await asyncio.wait({answered}, timeout=_CONNECT_S)
            if not answered.done() or answered.result()[9:10] in (b"", b"5"):
                raise Broken("the server did not take all of it")
        finally:
            for task in (sending, answered):
                task.cancel()
            await asyncio.wait((sending, answered))
            writer.transport.abort()

    async def draw(self, path: str, content: bytes, patience_s: float) -> AsyncGenerator[bytes, None]:
        """Post content on a connection of its own; pieces of the answer as they come. Raises OSError: Broken, also for a refusal."""
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._trust)
        try:
            head = b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % ((self._prefix + path).encode("ascii"), self._fields, len(content))
            writer.write(head + content)
            answer = _Drawn()
            while not answer.whole:
                async with asyncio.timeout(patience_s):
                    data = await reader.read(_PIECE)
                for piece in answer.feed(data):
                    yield piece
        finally:
            writer.transport.abort()

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(_CONNECT_S):
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._trust)
            except ssl.SSLCertVerificationError as error:
                raise Broken(
                    f"the certificate of {self._host} is not one of the authority that this node trusts ({error.verify_message})"
                ) from None
            return connection

    async def _ask(self, connection: _Connection, request: bytes) -> Answer:
        to = self._fields
        try:
            answer = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if self._fields is not to:
            connection.close()
        elif connection.is_open:
            self._idle.append(connection)
        return answer
