"""`batchyard chaos` as a process, against a live server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.conftest import Server as LiveServer
from tests.conftest import wait_for

from batchyard.cli.client import Client


class Server(Protocol):
    """What these tests need of a server."""

    environment: dict[str, str]


@pytest.fixture(scope="module")
def wild() -> Iterator[LiveServer]:
    """A server that lets its nodes be disturbed."""
    running = LiveServer("--chaos", nodes=1)
    yield running
    running.stop()


def chaos(server: Server, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", "chaos", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=server.environment, cwd=folder)


def test_a_node_is_disturbed_and_healed(wild: LiveServer, tmp_path: Path) -> None:
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
    machine = {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
    with Client(wild.endpoint, wild.account, wild.key) as batch:
        batch.post(
            "pools", body={"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": machine, "targetDedicatedNodes": 1}
        )

        def idle() -> str:
            return next((str(node["id"]) for node in batch.listed("pools", "pool", "nodes") if node["state"] == "idle"), "")

        node = wait_for(idle, "the node")
    for words, said in (
        (["slow", node, "--seconds", "1"], "starts its tasks late from now on"),
        (["heal", node[:10].upper()], "is left alone again"),
        (["kill", node], "lost its agent"),
    ):
        shown = chaos(wild, tmp_path, *words)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{node} of pool {said}\n", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["slow", "x"], 2, "--seconds"),
        (["kill", "x", "--seconds", "1"], 2, "kill takes no --seconds"),
        (["kill", "x"], 1, "NodeNotFound"),
        (["melt", "x"], 2, "melt"),
    ],
)
def test_words_that_make_no_sense(wild: LiveServer, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    shown = chaos(wild, tmp_path, *words)
    assert (shown.returncode, shown.stdout) == (code, "")
    assert said in shown.stderr


def test_a_server_that_was_not_started_for_it(server: Server, tmp_path: Path) -> None:
    shown = chaos(server, tmp_path, "kill", "x")
    assert shown.returncode == 1
    assert "The server was started without --chaos" in shown.stderr
