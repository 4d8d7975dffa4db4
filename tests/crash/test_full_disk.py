"""A server, its log, its storage and its nodes on a disk that is really full, and afterwards."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient
from tests.conftest import Server, SmallDisk, wait_for

from batchyard.api import auth
from batchyard.api.auth import Signed

MIB = 1 << 20
SECONDS = 20
"""How long any answer may take; a server whose writer is gone gives none."""

MakeDisk = Callable[[int], SmallDisk]


def batchyard(*words: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def ask(server: Server, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a signed request. Raises TimeoutError when no answer comes."""
    content = b"" if body is None else msgspec.json.encode(body)
    query = "api-version=2025-06-01"
    headers = {"ocp-date": formatdate(usegmt=True)}
    if method != "GET":
        headers |= {"content-length": str(len(content)), "content-type": "application/json; odata=minimalmetadata"}
    headers["authorization"] = auth.sign(server.account, server.key, Signed(method, path, query, headers))
    connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=SECONDS)
    try:
        connection.request(method, f"{path}?{query}", content or None, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, msgspec.json.decode(text) if text else {}, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def pool(pool_id: str, nodes: int = 0) -> dict[str, Any]:
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
    machine = {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
    return {"id": pool_id, "vmSize": "STANDARD_D2S_V3", "virtualMachineConfiguration": machine, "targetDedicatedNodes": nodes}


def add_job(server: Server, job_id: str, pool_id: str = "p") -> int:
    return ask(server, "POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}})[0]


@pytest.fixture
def server_on(small_disk: MakeDisk) -> Iterator[Callable[[int], tuple[Server, SmallDisk]]]:
    """Starts a server whose whole directory is on a disk of so many bytes."""
    servers: list[Server] = []

    def start(size: int) -> tuple[Server, SmallDisk]:
        disk = small_disk(size)
        servers.append(Server(nodes=1, below=disk.path))
        return servers[-1], disk

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("size", [48 * MIB, 700 * MIB])
def test_a_full_disk_refuses_what_is_new_and_all_works_once_there_is_room(server_on: Any, size: int) -> None:
    server, disk = server_on(size)
    assert ask(server, "POST", "/pools", pool("p"))[0] == 201
    assert add_job(server, "before") == 201
    disk.fill()
    for n in range(30):
        status, body, headers = ask(server, "POST", "/jobs", {"id": f"full-{n}", "poolInfo": {"poolId": "p"}})
        assert (status, body["code"]) == (503, "ServerBusy")
        assert int(headers["retry-after"]) > 0
    assert ask(server, "GET", "/jobs/before")[0] == 200
    disk.relieve()
    wait_for(lambda: add_job(server, "after") in (201, 409), "the server to take work again", SECONDS)
    assert ask(server, "GET", "/jobs/full-3")[0] == 404, "what was refused is not there"
    down = batchyard("down", "--dir", server.directory)
    assert (down.returncode, "was killed" in down.stdout) == (0, False), down.stdout
