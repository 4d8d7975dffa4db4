"""What is in flight while the server stops is answered as the service answers: come again."""

from __future__ import annotations

import os
import signal
import socket
from email.utils import formatdate
from http.client import HTTPResponse

import pytest
from tests.api.conftest import Answer, Raw, Yard, escaped, pool_body, task
from tests.conftest import Server, wait_for

from batchyard.api.wire import auth
from batchyard.api.wire.auth import Signed


def begin(raw: Raw, path: str) -> socket.socket:
    """Send a signed GET without waiting for its answer."""
    query = "api-version=2025-06-01"
    headers = {"host": f"{raw.address[0]}:{raw.address[1]}", "ocp-date": formatdate(usegmt=True)}
    headers["authorization"] = auth.sign(raw.account, raw.key, Signed("GET", path, query, headers))
    lines = [f"GET {path}?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection = socket.create_connection(raw.address, 60)
    connection.sendall("\r\n".join(lines).encode())
    return connection


def end(connection: socket.socket) -> Answer:
    """The answer to a request that was begun."""
    with connection:
        answer = HTTPResponse(connection)
        answer.begin()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


@pytest.fixture
def pool(own_server: Server) -> Yard:
    """A pool of one node on a server that a test may stop."""
    raw = Raw(own_server.endpoint, own_server.account, own_server.key)
    assert raw("POST", "/pools", pool_body("p", targetDedicatedNodes=1)).status == 201
    return Yard(raw, "p")


def test_a_file_that_is_being_read_when_the_server_stops_is_answered_503(own_server: Server, pool: Yard) -> None:
    job_id = pool.job(task("t"))
    pool.reached(job_id, "t")
    [agent] = own_server.agents().values()
    os.kill(agent, signal.SIGSTOP)  # it never answers
    files = f"/jobs/{job_id}/tasks/t/files"
    begun = [begin(pool.raw, path) for path in (files, f"{files}/stdout.txt", f"{files}/{escaped('wd')}")]
    assert pool.raw("GET", f"/jobs/{job_id}").status == 200  # what was sent before this has been taken up
    own_server.process.terminate()
    for answer in map(end, begun):
        answer.assert_error(503, "ServerBusy")
    os.kill(agent, signal.SIGCONT)
    wait_for(lambda: own_server.process.poll() is not None, "the server to end")


def test_a_request_that_the_end_cuts_off_is_answered_503(own_server: Server) -> None:
    """A body that never comes holds a request beyond the server's patience."""
    raw = Raw(own_server.endpoint, own_server.account, own_server.key)
    headers = {"host": f"{raw.address[0]}:{raw.address[1]}", "ocp-date": formatdate(usegmt=True), "content-length": "100"}
    query = "api-version=2025-06-01"
    headers["authorization"] = auth.sign(raw.account, raw.key, Signed("POST", "/jobs", query, headers))
    lines = [f"POST /jobs?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", "{"]
    with socket.create_connection(raw.address, 60) as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert raw("GET", "/jobs").status == 200
        own_server.process.terminate()
        end(connection).assert_error(503, "ServerBusy")
    wait_for(lambda: own_server.process.poll() is not None, "the server to end")
