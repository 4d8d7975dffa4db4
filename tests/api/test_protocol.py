"""What a client may hold before it has said who it is: bytes, time, connections; and what a connection that closes leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from tests.conftest import Server, wait_for

from batchyard.api.app import HEALTH_PATH
from batchyard.api.wire.protocol import LARGEST_HEAD, BoundedHttp
from batchyard.cli import daemon


class Hasty(BoundedHttp):
    """Has less patience."""

    head_s = 0.2
    refused_body_s = 0.2


class App:
    """Answers `/wait` once the client is gone, everything else at once and without reading."""

    def __init__(self) -> None:
        self.waits, self.gone = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            self.waits.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})


class Running:
    """A server in this process."""

    def __init__(self, http: type[BoundedHttp]) -> None:
        self.app = App()
        self.listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self.app, http=http, ws="none", lifespan="off", log_config=None, timeout_keep_alive=75, loop="uvloop")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), 30)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


@pytest.fixture
def hasty() -> Iterator[Running]:
    running = Running(Hasty)
    yield running
    running.stop()


@pytest.fixture
def patient() -> Iterator[Running]:
    running = Running(BoundedHttp)
    yield running
    running.stop()


def rest(connection: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


HEADS = {
    "one header": b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * LARGEST_HEAD + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 100) for n in range(1000)) + b"\r\n",
    "the request line": b"GET /?" + b"a" * LARGEST_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "trailers": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: " + b"a" * LARGEST_HEAD + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_over_the_limit_that_comes_at_once_is_refused(patient: Running, what: str) -> None:
    with patient.connect() as connection:
        connection.sendall(HEADS[what])
        answer = rest(connection)
    if what == "trailers":  # the answer to the request is out before they are there
        assert b"HTTP/1.1 431 " in answer or answer.startswith(b"HTTP/1.1 401 ") or answer == b""
    else:
        assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
        assert not patient.app.waits.is_set()


def test_a_head_just_below_the_limit_is_served(patient: Running) -> None:
    with patient.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"a" * (LARGEST_HEAD - 200) + b"\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 401 ")


HALVES = {
    "nothing": b"",
    "blank lines": b"\r\n\r\n",
    "half a head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half of a second head": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHo",
    "half a body after its refusal": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    "half a chunk after its refusal": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
}


@pytest.mark.parametrize("what", HALVES)
@pytest.mark.parametrize("trickle", [False, True], ids=["then silence", "then a trickle"])
def test_what_is_sent_half_has_a_deadline(hasty: Running, what: str, trickle: bool) -> None:
    with hasty.connect() as connection:
        connection.sendall(HALVES[what])
        connection.settimeout(0.05)
        closed = False
        while not closed:  # the timeout of the test says when this takes too long
            try:
                closed = connection.recv(65536) == b""
            except TimeoutError:
                if trickle and HALVES[what]:
                    with contextlib.suppress(OSError):
                        connection.sendall(b"\r\n" if what == "blank lines" else b"a")
            except ConnectionResetError:
                closed = True


def test_whole_requests_have_no_deadline(hasty: Running) -> None:
    def ask() -> bytes:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")  # in one piece
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        return answer.read()

    with hasty.connect() as connection:
        for _ in range(2):
            with hasty.connect() as other:  # is closed for its silence, which tells that as much time went by
                assert ask() == b"no"
                assert rest(other) == b""
        assert ask() == b"no"


def test_a_connection_that_closes_under_a_response_is_told_to_the_request_and_leaves_no_traceback(
    patient: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), patient.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert patient.app.waits.wait(30)
        connection.close()
        assert patient.app.gone.wait(30)
    patient.server.should_exit = True
    patient.thread.join()
    assert [record.message for record in caplog.records] == []


def test_far_beyond_the_bound_every_connection_is_told_why(own_server: Server) -> None:
    """Many more at once than get the time to hang up; nobody is left without the 503, and the first are served."""
    found = daemon.running(own_server.directory)
    assert found is not None
    host, port = str(urlsplit(own_server.endpoint).hostname), urlsplit(own_server.endpoint).port
    assert port is not None
    _, hard = resource.prlimit(found.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(found.pid, resource.RLIMIT_NOFILE, (200, hard))
    with contextlib.ExitStack() as opened:
        held = [opened.enter_context(socket.create_connection((host, port), timeout=30)) for _ in range(300)]
        told = [connection.recv(200) for connection in held[-200:]]
        assert [answer[:12] for answer in told] == [b"HTTP/1.1 503"] * len(told)
        held[0].sendall(f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert held[0].recv(200).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in own_server.log()


def test_at_the_bound_of_descriptors_new_connections_get_503_and_the_others_are_served(own_server: Server) -> None:
    found = daemon.running(own_server.directory)
    assert found is not None
    pid = found.pid
    host, port = str(urlsplit(own_server.endpoint).hostname), urlsplit(own_server.endpoint).port
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def status(connection: http.client.HTTPConnection) -> int:
        connection.request("GET", HEALTH_PATH)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (200, hard))
    most = 200 - 128
    held = [http.client.HTTPConnection(host, port, timeout=30) for _ in range(most + 20)]
    first = [status(connection) for connection in held]
    assert first[: most // 2] == [200] * (most // 2)
    assert set(first) == {200, 503}
    refused = first.index(503)
    assert [status(connection) for connection in held[:refused]] == [200] * refused
    for connection in held:
        connection.close()
    wait_for(lambda: status(http.client.HTTPConnection(host, port, timeout=30)) == 200, "the server to take connections again")
    assert "Traceback" not in own_server.log()
