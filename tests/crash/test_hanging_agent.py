"""An agent that hangs while its process lives is ended and started anew, and what it ran is done elsewhere or there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import Server, wait_for

from batchyard.cli import daemon
from batchyard.cli.client import Client

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "targetDedicatedNodes": 1}
SCRIPT = """
import sys
from pathlib import Path
from batchyard.app import serve
from batchyard.cli import daemon
from batchyard.config import Config
directory = Path(sys.argv[1])
daemon.prepare(directory)
serve(Config(directory=directory, port=0, max_nodes=1, node_silence_s=3.0))
"""


class Impatient(Server):
    """Waits three seconds for its nodes to speak, instead of a minute."""

    def start(self) -> None:
        with (self.directory / "server.log").open("ab") as log:
            command = [sys.executable, "-P", "-c", SCRIPT, str(self.directory)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running = wait_for(self._announced, "the server to answer")


def test_a_local_agent_that_is_stopped_in_its_tracks_is_replaced() -> None:
    server = Impatient()
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body=POOL)
            batch.post("jobs", body={"id": "j", "poolInfo": {"poolId": "pool"}})
            once = f"{server.directory}/once"
            Path(once).mkdir(mode=0o777)
            Path(once).chmod(0o777)
            batch.post("jobs", "j", "tasks", body={"id": "t", "commandLine": f"sh -c 'mkdir {once}/x && exec sleep 1000; exit 0'"})
            wait_for(lambda: Path(once, "x").exists(), "the task")
            [(node, pid)] = server.agents().items()
            os.kill(pid, signal.SIGSTOP)

            def done() -> Any:
                found = batch.get("jobs", "j", "tasks", "t")
                return found["state"] == "completed" and found["executionInfo"]

            assert wait_for(done, "the task to run again")["exitCode"] == 0
            assert server.agents().keys() == {node}
            assert server.agents()[node] != pid
            assert "silent agent ended" in server.log()
    finally:
        server.stop()
        assert daemon.running(server.directory) is None
