"""The storage endpoint: small and large blobs beside Azurite on disk, long lists, long blobs, long queues.

storage.py small HOST PORT PATH SAS METHOD N    requests of 1 KiB over 8 connections
storage.py large HOST PORT PATH SAS METHOD N    requests of 64 MiB, one after the other
Both in a process of their own, which prints one line of JSON: requests per second.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

CONNECTIONS = 8
SMALL, LARGE = 1024, 64 << 20
_LARGE_ROUNDS = 4
_PAGE, _PAGES = 5_000, 8
_GETS = 400
_AZURITE = (
    Path(__file__).resolve().parents[1] / ".venv-clients" / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
)
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The public key of every Azurite."""


def small(host: str, port: str, path: str, sas: str, method: str, n: str) -> float:
    """Requests of 1 KiB over some connections, the next one when an answer is there; how many per second."""
    body = os.urandom(SMALL) if method == "PUT" else b""
    waiting = [
        f"{method} {path}/small-{at % 1000}?{sas} HTTP/1.1\r\nHost: {host}\r\nx-ms-version: 2021-12-02\r\nx-ms-blob-type: BlockBlob\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for at in range(int(n))
    ]
    selector = selectors.DefaultSelector()
    begun = time.monotonic()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(waiting.pop())
        selector.register(connection, selectors.EVENT_READ, bytearray())
    done = 0
    while done < int(n):
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            key.data.extend(key.fileobj.recv(65536))
            if not _is_whole(key.data):
                continue
            assert key.data[9:10] == b"2", bytes(key.data[:500])
            key.data.clear()
            done += 1
            if waiting:
                key.fileobj.sendall(waiting.pop())
    return int(n) / (time.monotonic() - begun)


def _is_whole(answer: bytearray) -> bool:
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    if not end:
        return False
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return body.endswith(b"0\r\n\r\n")
    at = lower.find(b"content-length: ")
    return len(body) >= (int(lower[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)


def large(host: str, port: str, path: str, sas: str, method: str, n: str) -> float:
    """Requests of 64 MiB one after the other; how many per second."""
    body = os.urandom(LARGE) if method == "PUT" else None
    connection = http.client.HTTPConnection(host, int(port))
    begun = time.monotonic()
    for _ in range(int(n)):
        connection.request(method, f"{path}/large?{sas}", body, {"x-ms-version": "2021-12-02", "x-ms-blob-type": "BlockBlob"})
        answer = connection.getresponse()
        read = sum(len(chunk) for chunk in iter(lambda: answer.read(1 << 20), b""))  # noqa: B023 - it is read at once
        assert answer.status < 300, answer.status
        assert method == "PUT" or read == LARGE
    return int(n) / (time.monotonic() - begun)


@dataclass
class Endpoint:
    """A storage endpoint and the process that serves it."""

    host: str
    port: int
    account: str
    key: str
    pid: int
    sas: str = ""
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

        kinds, until = ResourceTypes(service=True, container=True, object=True), datetime.now(UTC) + timedelta(days=1)
        self.sas = generate_account_sas(self.account, self.key, kinds, AccountSasPermissions.from_string("rwdlacup"), until, services="bq")
        self.ask("PUT", f"/{self.account}/bench?restype=container")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """The body of a good answer."""
        connection = http.client.HTTPConnection(self.host, self.port)
        named = {"x-ms-version": "2021-12-02", **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, f"{path}{'&' if '?' in path else '?'}{self.sas}", body, named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status < 300, content[:500]
        return content

    def round(self, what: str, method: str, n: int) -> None:
        """Have a process of its own send requests, and note their rate and the CPU time of each here."""
        import meter

        command = [sys.executable, __file__, what, self.host, str(self.port), f"/{self.account}/bench", self.sas, method, str(n)]
        before = meter.cpu(self.pid)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr)
        self.rates.append(json.loads(done.stdout))
        self.cpu.append((meter.cpu(self.pid) - before) / n)


class Azurite:
    """Azurite's blob service on disk, a context; None where it is not installed."""

    def __enter__(self) -> Endpoint | None:
        self._process: subprocess.Popen[bytes] | None = None
        node = _AZURITE.parents[6] / "bin" / "node"
        if not _AZURITE.exists():
            return None
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="batchyard-bench-")
        options = ["--location", self._directory.name, "--blobPort", str(port), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        self._process = subprocess.Popen([node, _AZURITE, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        from server import wait_for

        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "Azurite to answer")
        return Endpoint("127.0.0.1", port, "devstoreaccount1", _AZURITE_KEY, self._process.pid)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._directory.cleanup()


def lines(pairs: int, requests: int, blobs: int, gigabytes: int, messages: int) -> Iterator[object]:
    """The figures of a server, and of Azurite where it is installed."""
    from batchyard.cli import daemon
    from server import Server

    with Server() as server, Azurite() as other:
        found = daemon.account(server.directory)
        ours = Endpoint(server.account.host, server.account.port, found.storage_name, found.storage_key, server.pid)
        for what, size, n, goal in (("small", "1 KiB, 8 clients", requests, 3.0), ("large", "64 MiB", _LARGE_ROUNDS, 2.0)):
            for method in ("PUT", "GET"):
                yield _beside(ours, other, (what, method, n), f"{method} {size}", pairs, goal)
        yield _page(ours, blobs)
        yield _memory(ours, gigabytes)
        yield _long_queue(ours, server.directory, messages)


def _beside(ours: Endpoint, other: Endpoint | None, work: tuple[str, str, int], name: str, pairs: int, goal: float) -> object:
    from table import Line

    both = [each for each in (ours, other) if each is not None]
    for each in both:
        each.rates, each.cpu = [], []
    for _ in range(pairs):
        for each in both:
            each.round(*work)
    shown = [f"{statistics.median(each.rates):,.1f}/s" for each in both]
    spent = [f"{statistics.median(each.cpu) * 1e3:.2f} ms" for each in both]
    ratio = statistics.median(a / b for a, b in zip(ours.rates, other.rates, strict=True)) if other is not None else None
    yard = f"Azurite {shown[1]}" if other is not None else ""
    cpu = f"server {spent[0]} a request" + (f", Azurite {spent[1]}" if other is not None else "")
    return Line(name, shown[0], yard, ratio, ratio or 0.0, (goal,) if ratio is not None else (), cpu=cpu)


def _timed(endpoint: Endpoint, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that something takes, and of the server's CPU time."""
    import meter

    begun, cpu = time.monotonic(), meter.cpu(endpoint.pid)
    work()
    return time.monotonic() - begun, meter.cpu(endpoint.pid) - cpu


def _page(ours: Endpoint, blobs: int) -> object:
    import msgspec
    from table import Line

    base = f"/{ours.account}/long"
    ours.ask("PUT", f"{base}?restype=container")
    for first in range(0, blobs, 64):
        parts = [(f"{base}/{at:08}?{ours.sas}", {"x-ms-blob-type": "BlockBlob"}, b"x") for at in range(first, min(blobs, first + 64))]
        ours.ask("POST", f"{base}?restype=container&comp=batchyard-contents", msgspec.msgpack.encode(parts))
    page = f"{base}?restype=container&comp=list&maxresults={_PAGE}&startFrom={blobs // 2:08}"
    seen = [_timed(ours, lambda: ours.ask("GET", page)) for _ in range(_PAGES)]
    took, cpu = (statistics.median(each) for each in zip(*seen, strict=True))
    name = f"page of {_PAGE:,} blobs among {blobs:,}"
    return Line(name, f"{took:.3f} s", value=cpu, goals=(0.25,), unit=" s", floor=False, cpu=f"server {cpu:.3f} s")


def _memory(ours: Endpoint, gigabytes: int) -> object:
    """PSS of the server before and while a large blob goes up in blocks and comes down in one piece; the goal is on what is added."""
    import base64

    import meter
    from table import Line

    block = os.urandom(LARGE)
    count = gigabytes * 10**9 // LARGE
    before = most = meter.memory_mb([ours.pid])
    blob = f"/{ours.account}/bench/huge"
    ids = [base64.b64encode(f"{at:06}".encode()).decode() for at in range(count)]
    for each in ids:
        ours.ask("PUT", f"{blob}?comp=block&blockid={each.replace('=', '%3D')}", block)
        most = max(most, meter.memory_mb([ours.pid]))
    listed = "".join(f"<Latest>{each}</Latest>" for each in ids)
    ours.ask("PUT", f"{blob}?comp=blocklist", f"<BlockList>{listed}</BlockList>".encode())
    connection = http.client.HTTPConnection(ours.host, ours.port)
    connection.request("GET", f"{blob}?{ours.sas}", headers={"x-ms-version": "2021-12-02"})
    answer, read = connection.getresponse(), 0
    while chunk := answer.read(4 << 20):
        read += len(chunk)
        if read % (256 << 20) < len(chunk):
            most = max(most, meter.memory_mb([ours.pid]))
    connection.close()
    assert read == count * LARGE
    ours.ask("DELETE", blob)
    more = most - before
    name = f"memory (PSS), a blob of {gigabytes} GB up and down"
    return Line(name, f"{before:.0f} MB, {more:+.0f} MB meanwhile", value=more, goals=(64.0,), unit=" MB", floor=False)


def _long_queue(ours: Endpoint, directory: Path, messages: int) -> object:
    from table import Line

    def gets(queue: str) -> float:
        path = f"/queue/{ours.account}/{queue}/messages?numofmessages=1&visibilitytimeout=1000"
        _, cpu = _timed(ours, lambda: [ours.ask("GET", path) for _ in range(_GETS)])
        return cpu / _GETS

    (file,) = directory.rglob("queues.db")
    for queue, count in (("short", _GETS * 4), ("long", messages)):
        ours.ask("PUT", f"/queue/{ours.account}/{queue}")
        _fill(file, queue, count)
    costs = [(gets("short"), gets("long")) for _ in range(3)]
    short, long = (statistics.median(each) for each in zip(*costs, strict=True))
    name = f"a get in a queue of {messages:,} messages, by CPU time"
    return Line(name, f"{long * 1e3:.2f} ms", f"of {_GETS * 4:,}: {short * 1e3:.2f} ms", long / short, long / short, (1.2,), floor=False)


def _fill(file: Path, queue: str, count: int) -> None:
    """Messages as the server would have them, in one transaction."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=60)
    (number,) = connection.execute("SELECT id FROM queues WHERE name = ?", (queue,)).fetchone()
    now = time.time_ns() // 1000
    rows = ((number, f"{queue}-{at}", "text", now, now + 10**12, now + at // 1000, 0, "r") for at in range(-count, 0))
    columns = "queue, id, text, inserted, expires, visible, dequeued, receipt"
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute("UPDATE queues SET messages = messages + ? WHERE id = ?", (count, number))
    connection.execute("COMMIT")
    connection.close()


if __name__ == "__main__":
    print(json.dumps({"small": small, "large": large}[sys.argv[1]](*sys.argv[2:])))
