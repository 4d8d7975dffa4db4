"""What stands between an agent and its sources: a wire that is cut, and a web server that tells as much as a test wants."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MB = 1 << 20


@dataclass
class Wire:
    """Stands before a server and cuts what it sends: each connection after the next number of bytes in `cuts`, then none any more."""

    behind: tuple[str, int]
    port: int = 0
    cuts: list[int] = field(default_factory=list)
    on_cut: Callable[[], object] = lambda: None
    heads: list[str] = field(default_factory=list)
    """What was asked, headers in lower case."""
    open: list[socket.socket] = field(default_factory=list)

    def url(self, url: str) -> str:
        return url.replace(urlsplit(url).netloc, f"127.0.0.1:{self.port}", 1)

    def asked(self, header: str) -> list[str]:
        return re.findall(rf"^{header}: (.*?)\r?$", "\n".join(self.heads), re.MULTILINE)

    def carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.behind) as server:
            self.open.append(client)
            back = threading.Thread(target=self.answer, args=(client, server))
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(MB):
                    self.heads.append(data.decode("latin-1").lower())
                    server.sendall(data)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join()

    def answer(self, client: socket.socket, server: socket.socket) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(OSError):
            while data := server.recv(64 << 10):
                client.sendall(data if left is None else data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    self.on_cut()
                    break
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire_to(url: str) -> Iterator[Wire]:
    parts = urlsplit(url)
    made = Wire((parts.hostname or "", parts.port or 0))
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]
    carriers: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                carriers.append(threading.Thread(target=made.carry, args=(listener.accept()[0],)))
                carriers[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield made
    finally:
        for client in made.open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for carrier in carriers:
            carrier.join()


@dataclass
class Site:
    """A web server with one file, of which it tells as much as a test wants."""

    url: str = ""
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    parts: bool = True
    asked: list[str | None] = field(default_factory=list)
    """The range of each request."""
    cookies: list[str | None] = field(default_factory=list)
    """What each brought along."""


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """A site that is there."""
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["range"]
            found.asked.append(wanted)
            found.cookies.append(self.headers["cookie"])
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and found.parts else 0
            if start and self.headers["if-match"] != found.headers.get("ETag"):
                self.send_response(412)
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(found.content) - 1}/{len(found.content)}")
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.content) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(found.content[start:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/file?sig=SECRET"
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
