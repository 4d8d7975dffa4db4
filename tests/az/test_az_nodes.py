"""`az batch node`, unmodified: what changes a node, its users, its start task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = [pytest.mark.az, pytest.mark.timeout(180)]

POOL = "az-nodes"
MACHINE = ("--vm-size", "standard_d2s_v3", "--image", "canonical:ubuntu-24_04-lts:server", "--node-agent-sku-id", "batch.node.ubuntu 24.04")


class Az(Protocol):
    """What these tests need of the fixture `az`."""

    def __call__(self, *words: str | Path) -> Any: ...
    def run(self, *words: str | Path) -> Any: ...
    def until(self, wanted: object, *words: str) -> None: ...


@pytest.fixture(scope="module")
def node(az: Az) -> Iterator[tuple[str, ...]]:
    """A node with a start task, named as commands name it."""
    start = ("--start-task-command-line", "/bin/sh -c 'echo began'", "--start-task-wait-for-success")
    az("pool", "create", "--id", POOL, *MACHINE, "--target-dedicated-nodes", "1", *start)
    az.until(["idle"], "node", "list", "--pool-id", POOL, "--query", "[].state")
    [found] = az("node", "list", "--pool-id", POOL)
    yield "--pool-id", POOL, "--node-id", found["id"]
    az("pool", "delete", "--pool-id", POOL, "--yes")


def test_the_start_task(az: Az, node: tuple[str, ...], tmp_path: Path) -> None:
    shown = az("node", "show", *node)
    assert (shown["startTaskInfo"]["result"], shown["startTaskInfo"]["exitCode"]) == ("success", 0)
    az("node", "file", "download", *node, "--file-path", "startup/stdout.txt", "--destination", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "began\n"


def test_scheduling(az: Az, node: tuple[str, ...]) -> None:
    az("node", "scheduling", "disable", *node, "--node-disable-scheduling-option", "requeue")
    shown = az("node", "show", *node)
    assert (shown["state"], shown["schedulingState"]) == ("offline", "disabled")
    refused = az.run("node", "scheduling", "disable", *node)
    assert refused.code != 0
    assert "NodeAlreadyInTargetSchedulingState" in refused.err
    az("node", "scheduling", "enable", *node)
    assert az("node", "show", *node)["state"] == "idle"


def test_login(az: Az, node: tuple[str, ...]) -> None:
    settings = az("node", "remote-login-settings", "show", *node)
    assert settings["remoteLoginPort"] == 22
    if os.geteuid() == 0:
        name = f"az{os.getpid()}"
        az("node", "user", "create", *node, "--name", name, "--password", "A long secret 1")
        az("node", "user", "reset", *node, "--user-name", name, "--password", "Another secret 2")
        az("node", "user", "delete", *node, "--user-name", name, "--yes")


def test_reboot(az: Az, node: tuple[str, ...]) -> None:
    """`az` has no command for the other changes."""
    boots = az("node", "show", *node)["lastBootTime"]
    az("node", "reboot", *node, "--node-reboot-option", "requeue")
    az.until([True, "idle"], "node", "show", *node, "--query", f"[lastBootTime != '{boots}', state]")


def test_removal(az: Az, node: tuple[str, ...]) -> None:
    az("node", "delete", "--pool-id", POOL, "--node-list", node[-1], "--node-deallocation-option", "terminate")
    az.until([], "node", "list", "--pool-id", POOL, "--query", "[].id")
    assert az("pool", "show", "--pool-id", POOL)["targetDedicatedNodes"] == 0
