"""Two servers on one machine know nothing of each other, and their tasks cannot read each other's files."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest
from tests.conftest import Server, wait_for

from batchyard.cli.client import Client

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "targetDedicatedNodes": 1}


def run(batch: Client, task: str, command: str) -> Any:
    """How a task ended."""
    batch.post("jobs", "j", "tasks", body={"id": task, "commandLine": command})
    return wait_for(lambda: (found := batch.get("jobs", "j", "tasks", task))["state"] == "completed" and found, "the task")["executionInfo"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs tasks as other users")
def test_a_task_of_one_cannot_read_what_a_task_of_the_other_keeps_to_itself() -> None:
    with contextlib.ExitStack() as stack:
        batches = []
        for _ in range(2):
            server = Server(nodes=1)
            stack.callback(server.stop)
            batch = stack.enter_context(Client(server.endpoint, server.account, server.key))
            batch.post("pools", body=POOL)
            batch.post("jobs", body={"id": "j", "poolInfo": {"poolId": "pool"}})
            batches.append(batch)
        wrote = run(batches[0], "t", "sh -c 'umask 077; echo s > $AZ_BATCH_NODE_SHARED_DIR/secret; echo $AZ_BATCH_NODE_SHARED_DIR; id -u'")
        assert wrote["exitCode"] == 0
        shared, uid = batches[0].read("jobs", "j", "tasks", "t", "files", "stdout.txt").decode().split()
        assert run(batches[0], "own", f"cat {shared}/secret")["exitCode"] == 0
        assert run(batches[1], "t", f"sh -c 'id -u; cat {shared}/secret'")["exitCode"] == 1
        assert batches[1].read("jobs", "j", "tasks", "t", "files", "stdout.txt").decode().strip() not in ("", uid)
        assert b"Permission denied" in batches[1].read("jobs", "j", "tasks", "t", "files", "stderr.txt")
