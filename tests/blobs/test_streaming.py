"""Memory stays the same however large the blob: a server process of its own, 256 MiB through it both ways."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchyard.blobs.edge.sas import container_sas

MIB = 1024 * 1024
SIZE = 256 * MIB
MOST_GROWTH = 48 * MIB

SERVER = """
import socket, sys
from datetime import UTC, datetime
from pathlib import Path
import uvicorn
from batchyard.blobs.base import ContainerRef
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.edge.server import application
store = LocalBlobStore(Path(sys.argv[1]))
store.create_container(ContainerRef("account", "box"), {}, 1)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
app = application(store, {"account": ["a2V5"]}, lambda: datetime.now(UTC))
uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).run(sockets=[listener])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """(process id, port)"""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_256_mib_in_constant_memory(server: tuple[int, int]) -> None:
    pid, port = server
    token = container_sas("account", "a2V5", "box", "rw", datetime.now(UTC) + timedelta(hours=1))
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def put(size: int) -> None:
        chunk = b"x" * MIB
        headers = {"x-ms-blob-type": "BlockBlob", "content-length": str(size)}
        connection.request("PUT", f"/account/box/big?{token}", (chunk for _ in range(size // MIB)), headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b"")

    def get(size: int) -> None:
        connection.request("GET", f"/account/box/big?{token}")
        answer = connection.getresponse()
        found, total = hashlib.md5(), 0
        while chunk := answer.read(MIB):
            found.update(chunk)
            total += len(chunk)
        assert total == size

    put(8 * MIB)
    get(8 * MIB)
    before = peak(pid)
    put(SIZE)
    get(SIZE)
    assert peak(pid) - before < MOST_GROWTH
    connection.close()
