"""Requests over kept connections, from several threads at once; nothing but the standard library, so that a command starts at once."""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ssl import SSLContext

CONNECT_S, ANSWER_S = 10.0, 60.0
"""How long a server may take until it accepts a connection, and between two parts of an answer, in seconds."""

_PIECE = 1 << 16


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Unreachable(Exception):
    """No whole answer came."""


class Http:
    """A host as one client sees it; connections that are idle are used again."""

    def __init__(self, url: str, trust: SSLContext | None = None) -> None:
        """`trust` is for https; without, the authorities that the machine knows. Raises Unreachable when the URL is none."""
        try:
            parts = urlsplit(url)
            self.host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise Unreachable(f"{url} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not self.host:
            raise Unreachable(f"{url} is no URL of a server")
        self._encrypted, self._trust = parts.scheme == "https", trust
        self._port = port or (443 if self._encrypted else 80)
        self.name = parts.netloc.rpartition("@")[2]
        self._proxy = _proxy(parts.scheme, self.name)
        self._idle: deque[HTTPConnection] = deque()

    def send(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Answer:
        """Send a request and read the whole answer. Raises Unreachable."""
        if self._proxy and not self._encrypted:
            target = f"http://{self.name}{target}"
        connection = self._connection()
        if method in ("GET", "HEAD") and connection.sock is not None:
            with contextlib.suppress(Unreachable):  # the other side may be closing it this moment
                return self._exchange(connection, method, target, headers, body)
            connection = self._new()
        return self._exchange(connection, method, target, headers, body)

    def _exchange(self, connection: HTTPConnection, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Answer:
        try:
            if connection.sock is None:
                connection.connect()
                connection.sock.settimeout(ANSWER_S)  # type: ignore[attr-defined]
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException, UnicodeError, ValueError) as error:
            connection.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        if not answer.will_close:
            self._idle.append(connection)
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    @contextlib.contextmanager
    def stream(
        self, method: str, target: str, headers: dict[str, str], body: bytes | IO[bytes] | None
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Send a request on a connection of its own; the head of the answer, and its body as it comes. Raises Unreachable."""
        connection = self._new()
        if self._proxy and not self._encrypted:
            target = f"http://{self.name}{target}"
        try:
            try:
                connection.connect()
                connection.sock.settimeout(ANSWER_S)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have been refused before it was all sent
                    connection.request(method, target, body, headers)
                answer = connection.getresponse()
            except (OSError, HTTPException, UnicodeError, ValueError) as error:
                raise Unreachable(str(error) or type(error).__name__) from error
            head = {name.lower(): value for name, value in answer.getheaders()}
            yield Answer(answer.status, head, b""), _pieces(answer)
        finally:
            connection.close()

    def close(self) -> None:
        """Give up all connections."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> HTTPConnection:
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                return self._new()
            if not _ended(kept):
                return kept
            kept.close()

    def _new(self) -> HTTPConnection:
        host, port = self._proxy or (self.host, self._port)
        if not self._encrypted:
            return HTTPConnection(host, port, timeout=CONNECT_S)
        made = HTTPSConnection(host, port, timeout=CONNECT_S, context=self._trust)
        if self._proxy:
            made.set_tunnel(self.host, self._port)
        return made


def _pieces(answer: HTTPResponse) -> Iterator[bytes]:
    """The body in pieces. Raises Unreachable when it is cut off."""
    try:
        while piece := answer.read1(_PIECE):
            yield piece
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error


def _ended(connection: HTTPConnection) -> bool:
    """The other side closed it while it was idle: it has something to read, namely the end."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _proxy(scheme: str, host: str) -> tuple[str, int] | None:
    """The proxy that the environment names for a host, as curl reads it; none for this machine itself."""
    if host.startswith(("127.", "localhost", "[::1]")):
        return None
    given = os.environ.get(f"{scheme}_proxy") or os.environ.get("HTTPS_PROXY" if scheme == "https" else "http_proxy")
    if not given:
        return None
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    parts = urlsplit(given if "://" in given else f"http://{given}")
    if proxy_bypass_environment(host) or not parts.hostname:
        return None
    return parts.hostname, parts.port or 80
