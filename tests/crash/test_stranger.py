"""Another server takes the port of one that has crashed: the agents of that one wait, and what they run goes on."""

from __future__ import annotations

import http.client
import os
from pathlib import Path
from typing import Any

from tests.conftest import Server, wait_for

from batchyard.cli.client import Client
from batchyard.model.sync import SYNC_PATH, gone

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "targetDedicatedNodes": 1}


def answer(server: Server, token: str) -> tuple[int, bytes]:
    """What a server says to an agent with this token."""
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"))
    try:
        connection.request("POST", SYNC_PATH, b'{"session": 99, "number": 1}', {"authorization": f"Bearer {token}"})
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


def test_agents_wait_for_their_own_server_while_a_stranger_has_its_port() -> None:
    server = Server(nodes=1)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body=POOL)
            batch.post("jobs", body={"id": "j", "poolInfo": {"poolId": "pool"}})
            place = Path(server.directory, "place")
            place.mkdir()
            place.chmod(0o777)
            go = place / "go"
            os.mkfifo(go)
            go.chmod(0o666)
            batch.post("jobs", "j", "tasks", body={"id": "t", "commandLine": f"sh -c 'echo x >> {place}/runs; read line < {go}'"})
            wait_for((place / "runs").exists, "the task")
            agents = server.agents()
            [log] = server.directory.glob("nodes/*/agent.log")
            [token] = server.directory.glob("nodes/*/token")
            server.kill()
            stranger = Server("--port", server.endpoint.rpartition(":")[2])
            try:
                assert answer(stranger, token.read_text()) == (403, b"")
                wait_for(lambda: "another server answers there" in log.read_text(), "the agent to meet the stranger")
            finally:
                stranger.stop()
            server.start()
            assert server.agents() == agents
            go.write_text("\n")

            def done() -> Any:
                found = batch.get("jobs", "j", "tasks", "t")
                return found["state"] == "completed" and found["executionInfo"]

            ended = wait_for(done, "the task to end")
            assert (ended["exitCode"], ended["requeueCount"], (place / "runs").read_text()) == (0, 0, "x\n")
    finally:
        server.stop()


def test_only_the_server_that_knows_the_token_says_that_the_node_is_gone() -> None:
    server = Server(nodes=1)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body=POOL)
            [file] = wait_for(lambda: [*server.directory.glob("nodes/*/token")], "the node")
            token = wait_for(file.read_text, "its token")
            assert answer(server, token)[0] == 200
            batch.delete("pools", "pool")
            wait_for(lambda: answer(server, token) == (403, gone(token)), "the node to go")
            assert answer(server, token[:-1] + "!") == (403, b"")
    finally:
        server.stop()
