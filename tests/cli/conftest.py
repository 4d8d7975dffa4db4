"""Commands as processes against the shared server."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from batchyard.cli.client import Client

IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
MACHINE = {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}


class Server(Protocol):
    """What these fixtures need of the fixture `server`."""

    endpoint: str
    account: str
    key: str
    environment: dict[str, str]
    storage_connection_string: str
    directory: Path


Cli = Callable[..., subprocess.CompletedProcess[str]]


def command(*words: str | Path) -> list[str]:
    """A command line of batchyard."""
    return [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    """A command that runs to its end, in the test's own directory."""

    def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        given = {"env": server.environment, "cwd": tmp_path, "capture_output": True, "text": True, **more}
        return subprocess.run(command(*words), timeout=90, check=False, **given)

    return run


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    """The commands' own client, to look behind them."""
    with Client(server.endpoint, server.account, server.key, server.storage_connection_string) as client:
        yield client


@pytest.fixture(scope="module")
def shared_pool(client: Client) -> Iterator[str]:
    """A pool of one node with four slots."""
    name = f"shared-{secrets.token_hex(4)}"
    size = {"vmSize": "standard_d2s_v3", "targetDedicatedNodes": 1, "taskSlotsPerNode": 4}
    client.post("pools", body={"id": name, "virtualMachineConfiguration": MACHINE, **size})
    yield name
    client.delete("pools", name)


@pytest.fixture
def own_job(client: Client, shared_pool: str) -> Iterator[str]:
    """A job of the test's own, which ends with it."""
    name = f"own-{secrets.token_hex(4)}"
    client.post("jobs", body={"id": name, "poolInfo": {"poolId": shared_pool}, "usesTaskDependencies": True})
    yield name
    client.delete("jobs", name)


@contextmanager
def a_job_without_nodes(client: Client) -> Iterator[str]:
    """A job on a pool of its name without nodes: its tasks stay as they are."""
    name = f"idle-{secrets.token_hex(4)}"
    client.post("pools", body={"id": name, "virtualMachineConfiguration": MACHINE, "vmSize": "standard_d2s_v3", "targetDedicatedNodes": 0})
    client.post("jobs", body={"id": name, "poolInfo": {"poolId": name}})
    yield name
    client.delete("jobs", name)
    client.delete("pools", name)


@pytest.fixture
def idle_job(client: Client) -> Iterator[str]:
    """A job of the test's own, whose tasks stay as they are."""
    with a_job_without_nodes(client) as name:
        yield name
