"""A server through the command line, from nothing to nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.cli import daemon, processes


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose server is ended whatever happens."""
    yield tmp_path / "state"
    daemon.stop(tmp_path / "state")


def up(directory: Path, *more: str) -> daemon.Server:
    done = batchyard("up", "--dir", directory, "--port", "0", *more)
    assert done.returncode == 0, done.stderr
    server = daemon.running(directory)
    assert server is not None
    assert server.url in done.stdout
    assert f'eval "$(batchyard env --dir {directory})"' in done.stdout
    return server


def test_up_env_status_down(directory: Path) -> None:
    began = time.monotonic()
    server = up(directory)
    assert time.monotonic() - began < 2 * slowness()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
    assert f"export AZURE_BATCH_ENDPOINT={server.url}" in batchyard("env", "--dir", directory).stdout
    assert "0 pools, 0 nodes, 0 open jobs" in batchyard("status", "--dir", directory).stdout
    for name in ("account.json", "server.json", "server.log"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name

    second = batchyard("up", "--dir", directory, "--port", "0")
    assert second.returncode == 1
    assert f"already runs at {server.url}" in second.stderr

    assert batchyard("down", "--dir", directory).returncode == 0
    assert processes.start_time(server.pid) is None
    assert not (directory / "server.json").exists()
    assert batchyard("down", "--dir", directory).returncode == 1


def test_the_account_outlives_the_server(directory: Path) -> None:
    up(directory)
    account = daemon.account(directory)
    daemon.stop(directory)
    up(directory)
    assert daemon.account(directory) == account


def test_up_after_a_crash(directory: Path) -> None:
    server = up(directory)
    os.kill(server.pid, signal.SIGKILL)
    while processes.start_time(server.pid):
        time.sleep(0.01)
    assert json.loads((directory / "server.json").read_bytes())["pid"] == server.pid
    assert up(directory).pid != server.pid


def test_down_finishes_within_seconds_and_without_force(directory: Path) -> None:
    up(directory)
    began = time.monotonic()
    stopped = daemon.stop(directory)
    assert stopped.willing
    assert stopped.agents == 0
    assert time.monotonic() - began < 5 * slowness()


def slowness() -> float:
    """How much longer than alone things may take when the tests share the machine."""
    return 5.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
