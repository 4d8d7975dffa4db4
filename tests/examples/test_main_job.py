"""The main job as a user runs it, against a live server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

MAIN_JOB = Path(__file__).parents[2] / "examples" / "main_job.py"


class Server(Protocol):
    """What this test needs of the fixture `server`."""

    endpoint: str
    account: str
    key: str
    storage_connection_string: str


@pytest.mark.slow
def test_main_job_ends_with_the_same_count_as_here(server: Server) -> None:
    environment = {
        **os.environ,
        "AZURE_BATCH_ACCOUNT": server.account,
        "AZURE_BATCH_ACCESS_KEY": server.key,
        "AZURE_BATCH_ENDPOINT": server.endpoint,
        "AZURE_STORAGE_CONNECTION_STRING": server.storage_connection_string,
    }
    done = subprocess.run([sys.executable, MAIN_JOB], capture_output=True, text=True, env=environment, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "41/41 tasks" in done.stdout
    assert "the same as counted on this machine" in done.stdout
