"""The agent's own HTTP against servers that answer byte by byte as a test says, well or badly."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchyard.agent.talk import link, trust
from batchyard.agent.talk.link import Broken, Link

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Scripted:
    """Answers each request with the next of `says`; None closes the connection, "wait" never answers."""

    port: int = 0
    says: list[bytes | str | None] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    hang_up: bool = False
    """Close the connection behind each answer."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
                self.requests.append(head + await reader.readexactly(size))
                said = self.says.pop(0)
                if said is None:
                    break
                if isinstance(said, str):
                    await reader.read()
                    break
                piece = 7 if len(said) < 1000 else 1 << 16
                for at in range(0, len(said), piece):
                    writer.write(said[at : at + piece])
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


Serve = Callable[..., Awaitable[Scripted]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[asyncio.Server] = []

    async def serve(*says: bytes | str | None, trust: ssl.SSLContext | None = None) -> Scripted:
        scripted = Scripted(says=list(says))
        server = await asyncio.start_server(scripted, "127.0.0.1", 0, ssl=trust)
        scripted.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        return scripted

    yield serve
    for server in servers:
        server.close()
        await server.wait_closed()


def to(scripted: Scripted, path: str = "") -> Link:
    return Link(f"http://127.0.0.1:{scripted.port}{path}", "token", None)


async def test_requests_share_a_connection_and_carry_the_token(serve: Serve) -> None:
    server = await serve(OK, OK)
    async with to(server, "/below/") as line:
        for content in (b"{}", b"[]"):
            assert await line.post("/agent/sync", content, 5) == link.Answer(200, b"ok")
    assert server.connections == 1
    assert server.requests[1].startswith(b"POST /below/agent/sync HTTP/1.1\r\n")
    assert b"\r\nhost: 127.0.0.1:%d\r\n" % server.port in server.requests[0]
    assert b"\r\nauthorization: Bearer token\r\n" in server.requests[0]
    assert server.requests[1].endswith(b"\r\n\r\n[]")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", (200, b"abcde")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"ok")),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", (302, b"")),
        (b"HTTP/1.1 500 Oh\r\nconnection: close\r\ncontent-length: 1\r\n\r\n!", (500, b"!")),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, b"ok")),
    ],
)
async def test_answers(serve: Serve, said: bytes, expected: tuple[int, bytes]) -> None:
    server = await serve(said, OK)
    async with to(server) as line:
        answer = await line.post("/", b"", 5)
        assert (answer.status, answer.body) == expected
        assert (await line.post("/", b"", 5)).body == b"ok"
    assert server.connections == 1 + (b"close" in said or b"/1.0" in said)


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nup to the end",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n...",
        b"\x16\x03\x01 garbage",
        b"SSH-2.0-Nothing\r\n",
        b"\0" * 100,
    ],
)
async def test_half_answers_and_garbage_break_the_exchange_and_not_the_next(serve: Serve, said: bytes | None) -> None:
    server = await serve(said, OK)
    server.hang_up = True
    async with to(server) as line:
        with pytest.raises(Broken):
            await line.post("/", b"", 5)
        assert (await line.post("/", b"", 5)).body == b"ok"


async def test_a_connection_that_was_closed_while_idle_is_replaced_once(serve: Serve) -> None:
    server = await serve(OK, None, OK, OK, None, None)
    async with to(server) as line:
        for _ in range(2):  # the second finds the connection closed behind its request
            assert (await line.post("/", b"", 5)).body == b"ok"
        assert (server.connections, len(server.requests)) == (2, 3)
        await line.post("/", b"", 5)
        with pytest.raises(Broken):
            await line.post("/", b"", 5)
    assert (server.connections, len(server.requests)) == (3, 6)


@pytest.mark.parametrize("times", [1, 1_000])
async def test_an_answer_nobody_asked_for_is_never_taken_for_one(serve: Serve, times: int) -> None:
    server = await serve(OK + b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (5 * times) + b"wrong" * times, OK)
    async with to(server) as line:
        assert (await line.post("/", b"", 5)).body == b"ok"
        await asyncio.wait_for(server.closed.wait(), 5)
        assert (await line.post("/", b"", 5)).body == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 99_999,
        b"HTTP/1.1 200 OK\r\n" + b"x-a: %b\r\n" % (b"y" * 1_000) * 100,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000,
    ],
)
async def test_huge_answers_are_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(link, "LARGEST", 50_000)
    async with to(await serve(said)) as line:
        with pytest.raises(Broken, match="too large"):
            await line.post("/", b"", 5)


async def test_large_answers_arrive_whole(serve: Serve) -> None:
    body = bytes(range(256)) * 20_000
    async with to(await serve(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)) as line:
        assert (await line.post("/", b"", 20)).body == body


async def test_silence_ends_at_the_timeout_and_with_the_caller(serve: Serve) -> None:
    server = await serve("wait", "wait", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", OK)
    async with to(server) as line:
        with pytest.raises(TimeoutError):
            await line.post("/", b"", 0.05)
        task = asyncio.create_task(line.post("/", b"", 60))
        while len(server.requests) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await line.post("/", b"", 0.2)
        assert (await line.post("/", b"", 5)).body == b"ok"
    assert server.connections == 4


async def test_requests_at_once_have_connections_of_their_own(serve: Serve) -> None:
    server = await serve(*[OK] * 6)
    async with to(server) as line:
        for _ in range(2):
            await asyncio.gather(*(line.post("/", b"", 5) for _ in range(3)))
    assert server.connections == 3


async def test_nobody_listening_is_an_error_of_the_system() -> None:
    async with Link("http://127.0.0.1:1", "token", None) as line:
        with pytest.raises(ConnectionRefusedError):
            await line.post("/", b"", 5)


@pytest.mark.parametrize(
    ("server", "token"), [("ftp://a", "t"), ("a:1", "t"), ("http://", "t"), ("http://a", "t\r\nx: y"), ("http://a", "ä")]
)
def test_what_cannot_be_a_server_or_a_token(server: str, token: str) -> None:
    with pytest.raises(OSError, match=r"not the URL|cannot be sent"):
        Link(server, token, None)


async def test_tls_with_a_certificate_of_ones_own(serve: Serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await serve(OK, OK, trust=context)
    url = f"https://127.0.0.1:{server.port}"
    async with Link(url, "token", trust.of_server(url, str(certificate))) as line:
        for _ in range(2):
            assert (await line.post("/", b"", 5)).body == b"ok"
    assert server.connections == 1
    for wrong, ca_file in ((url, None), (url.replace("127.0.0.1", "localhost"), str(certificate))):
        async with Link(wrong, "token", trust.of_server(wrong, ca_file)) as line:
            with pytest.raises(Broken, match="not one of the authority that this node trusts"):
                await line.post("/", b"", 5)
    assert len(server.requests) == 2
