"""Refused requests leave nothing behind in the server, however large they are and however many."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient, generate_container_sas
from tests.api.conftest import Raw
from tests.conftest import Server

from batchyard.cli import daemon

WARM, REQUESTS = 50, 1_000
MOST_GROWTH = 48 << 20
ENTRY = f"<Latest>{base64.b64encode(bytes(8)).decode()}</Latest>"
LARGE = 1_000_000
"""Just below the largest body that the Batch operations take."""

METADATA = [{"name": f"n{n}", "value": "x" * 1_000} for n in range(900)]
THERE = {"id": "there", "poolInfo": {"poolId": "x"}, "metadata": METADATA}
TASKS = json.dumps({"value": [{"id": f"t{n}", "commandLine": "x" * 9_000, "nope": 1} for n in range(100)]}).encode()
BODIES: dict[str, tuple[str, bytes, int]] = {
    "block list too long": ("blocks", f"<BlockList>{ENTRY * 60_000}</BlockList>".encode(), 400),
    "block list with an odd entry": ("blocks", f"<BlockList>{ENTRY * 18_000}<Oldest>AAAA</Oldest></BlockList>".encode(), 400),
    "block list of unknown blocks": ("blocks", f"<BlockList>{ENTRY * 18_000}</BlockList>".encode(), 400),
    "block list cut short": ("blocks", f"<BlockList>{ENTRY * 18_000}".encode(), 400),
    "pool with an odd property": ("/pools", json.dumps({"id": "p", "nope": "x" * LARGE}).encode(), 400),
    "pool of an unknown size": ("/pools", json.dumps({"id": "p", "vmSize": "x" * LARGE}).encode(), 400),
    "tasks for no job": ("/jobs/none/addtaskcollection", TASKS, 404),
    "job that is there": ("/jobs", json.dumps(THERE).encode(), 409),
    "body that is no JSON": ("/jobs", b"[" * LARGE, 400),
}


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def of_storage(server: Server, body: bytes) -> Callable[[http.client.HTTPConnection], int]:
    """Sends a block list."""
    with contextlib.suppress(ResourceExistsError):
        BlobServiceClient.from_connection_string(server.storage_connection_string).create_container("box")
    expiry = datetime.now(UTC) + timedelta(hours=1)
    sas = generate_container_sas(server.storage_account, "box", server.storage_key, permission="rcw", expiry=expiry)

    def send(connection: http.client.HTTPConnection) -> int:
        connection.request("PUT", f"/{server.storage_account}/box/blob?comp=blocklist&{sas}", body)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return send


def of_batch(server: Server, path: str, body: bytes) -> Callable[[http.client.HTTPConnection], int]:
    """Sends a body to a Batch operation."""
    raw = Raw(server.endpoint, server.account, server.key)
    raw("POST", "/jobs", {"id": "there", "poolInfo": {"poolId": "x"}})

    def send(connection: http.client.HTTPConnection) -> int:
        return raw("POST", path, body).status

    return send


@pytest.mark.slow
def test_a_thousand_refused_large_requests_leave_nothing_behind(own_server: Server) -> None:
    assert min(len(body) for _, body, _ in BODIES.values()) > LARGE // 2
    kinds = [
        (of_storage(own_server, body) if where == "blocks" else of_batch(own_server, where, body), status)
        for where, body, status in BODIES.values()
    ]
    running = daemon.running(own_server.directory)
    assert running is not None
    connection = http.client.HTTPConnection(urlsplit(own_server.endpoint).netloc, timeout=60)
    before = 0
    for number, (send, status) in zip(range(WARM + REQUESTS), itertools.cycle(kinds), strict=False):
        if number == WARM:
            before = resident(running.pid)
        assert send(connection) == status
    assert resident(running.pid) - before < MOST_GROWTH
    connection.close()
