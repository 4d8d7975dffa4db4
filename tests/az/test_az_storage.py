"""The `az storage` commands for blobs and messages, unmodified, with the connection string of a live server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = pytest.mark.az


class Server(Protocol):
    """What this test needs of the fixture `server`."""

    storage_connection_string: str


@pytest.mark.timeout(300)
def test_blobs_and_messages(server: Server, tmp_path: Path) -> None:
    program = os.environ.get("BATCHYARD_AZ")
    if not program:
        pytest.skip("BATCHYARD_AZ is not set (make test-az sets it)")
    told = {
        "AZURE_STORAGE_CONNECTION_STRING": server.storage_connection_string,
        "AZURE_CONFIG_DIR": str(tmp_path),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
    }
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **told}

    def az(*words: str) -> Any:
        command = [str(program), "storage", *words, "-o", "json", "--only-show-errors"]
        done = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    (tmp_path / "file").write_bytes(b"content")
    az("container", "create", "-n", "azbox")
    az("blob", "upload", "-c", "azbox", "-f", "file", "-n", "a/b", "--metadata", "k=v")
    assert [found["name"] for found in az("blob", "list", "-c", "azbox")] == ["a/b"]
    az("blob", "download", "-c", "azbox", "-n", "a/b", "-f", "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    az("blob", "delete", "-c", "azbox", "-n", "a/b")
    az("queue", "create", "-n", "azqueue")
    az("message", "put", "-q", "azqueue", "--content", "hello")
    [message] = az("message", "get", "-q", "azqueue")
    assert message["content"] == "hello"
    az("message", "delete", "-q", "azqueue", "--id", message["id"], "--pop-receipt", message["popReceipt"])
    assert az("message", "peek", "-q", "azqueue") == []
