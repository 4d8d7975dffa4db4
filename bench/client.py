"""A client that costs next to nothing: raw sockets, requests that are signed before the clock runs."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from batchyard.api.wire.auth import Signed, sign

VERSION = "2024-07-01.20.0"
_JSON = "application/json; odata=minimalmetadata"


class Refused(Exception):
    """The server answered with an error."""


@dataclass(frozen=True)
class Account:
    """Where the server is, and how to sign."""

    host: str
    port: int
    name: str
    key: str

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A signed request, ready to be sent; the path may bring options of its own behind a `?`."""
        path, _, options = path.partition("?")
        query = f"{options}&api-version={VERSION}" if options else f"api-version={VERSION}"
        headers = {"ocp-date": formatdate(time.time(), usegmt=True), "host": f"{self.host}:{self.port}"}
        if body:
            headers |= {"content-length": str(len(body)), "content-type": _JSON}
        headers["authorization"] = sign(self.name, self.key, Signed(method, path, query, headers))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {path}?{query} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection:
    """One connection that is kept open."""

    def __init__(self, account: Account) -> None:
        self.socket = socket.create_connection((account.host, account.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._account = account

    def send(self, request: bytes) -> None:
        """Send a prepared request."""
        self.socket.sendall(request)

    def receive(self) -> bytes:
        """Body of the next answer. Raises Refused."""
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = data[:end].lower()
        _, marker, rest = head.partition(b"content-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if marker else 0
        while len(data) < end + 4 + length:
            data += self._more()
        if not head.startswith((b"http/1.1 20", b"http/1.1 404")):
            raise Refused(data[:1000].decode("utf-8", "replace"))
        return bytes(data[end + 4 :])

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 17)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def call(self, method: str, path: str, content: object = None) -> Any:
        """Ask and wait for the answer; a thing that does not exist answers with an object that has a `code`. Raises Refused."""
        self.send(self._account.request(method, path, b"" if content is None else json.dumps(content).encode()))
        answer = self.receive()
        return json.loads(answer) if answer else None

    def close(self) -> None:
        """Close it."""
        self.socket.close()
