"""Nodes whose agents somebody else starts, and what the operator tells agents: `up --provider external`, `serve --probes`."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Server, wait_for

from batchyard.cli import daemon, processes
from batchyard.cli.client import Client

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"id": "pool", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "targetDedicatedNodes": 1}
COMMAND = [sys.executable, "-P", "-m", "batchyard.cli.main"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can enter; what runs below it is ended."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o711)
        yield Path(place)
        daemon.stop(Path(place))
        for pid, started in list(processes.agents_below(Path(place))):
            processes.end(pid, started, 5)


def chaos(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "chaos", *words, "--dir", str(directory)], capture_output=True, text=True, timeout=60, check=False)


def test_an_agent_that_somebody_starts_with_the_token_becomes_the_node(directory: Path) -> None:
    up = [*COMMAND, "up", "--dir", str(directory), "--port", "0", "--provider", "external", "--chaos"]
    subprocess.run(up, check=True, capture_output=True, timeout=60)
    server, account = daemon.running(directory), daemon.account(directory)
    assert server is not None
    with Client(server.url, account.name, account.keys[0]) as batch:
        batch.post("pools", body=POOL)
        token = wait_for(lambda: next(directory.glob("nodes/*/token"), None), "the token")
        root = directory / "elsewhere"
        start = [*COMMAND, "agent", "--server", server.url, "--root", str(root), "--token-file", str(token)]
        with (directory / "agent.log").open("wb") as log:
            agent = subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready() -> Any:
            return next((node for node in batch.listed("pools", "pool", "nodes") if node["state"] == "idle"), None)

        try:
            node = wait_for(ready, "the node")
            assert node["id"] == token.parent.name
            assert not list(processes.agents_below(directory / "nodes"))  # the server started none
            refused = chaos(directory, "kill", node["id"])
            assert "The node's agent was started without --chaos" in refused.stderr
            batch.delete("pools", "pool")
            assert agent.wait(60) == 0
        finally:
            agent.kill()
            agent.wait()


def test_a_second_agent_with_the_same_token_stays_away_and_one_that_was_killed_is_back_at_once(directory: Path) -> None:
    up = [*COMMAND, "up", "--dir", str(directory), "--port", "0", "--provider", "external"]
    subprocess.run(up, check=True, capture_output=True, timeout=60)
    server, account = daemon.running(directory), daemon.account(directory)
    assert server is not None
    with contextlib.ExitStack() as stack:
        batch = stack.enter_context(Client(server.url, account.name, account.keys[0]))
        batch.post("pools", body=POOL)
        token = wait_for(lambda: next(directory.glob("nodes/*/token"), None), "the token")

        def agent(name: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((directory / f"{name}.log").open("ab"))
            start = [*COMMAND, "agent", "--server", server.url, "--root", str(directory / name), "--token-file", str(token)]
            started = subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(started.wait)
            stack.callback(started.kill)
            return started

        def told(name: str, what: str, times: int = 1) -> Any:
            return wait_for(lambda: (directory / f"{name}.log").read_text().count(what) >= times, f"{name} to say {what}")

        first = agent("first")
        told("first", "'joined'")
        batch.post("jobs", body={"id": "j", "poolInfo": {"poolId": "pool"}})
        batch.post("jobs", "j", "tasks", body={"id": "t", "commandLine": f"sh -c 'until [ -e {directory}/go ]; do sleep 0.1; done'"})
        wait_for(lambda: batch.get("jobs", "j", "tasks", "t")["state"] == "running", "the task")
        agent("second")
        told("second", "409 another agent with this token is the node", 3)
        (directory / "go").touch()
        wait_for(lambda: batch.get("jobs", "j", "tasks", "t")["state"] == "completed", "its end")
        first.kill()
        first.wait()
        agent("first")
        told("first", "'joined'", 2)
        assert "'joined'" not in (directory / "second.log").read_text()
    with contextlib.closing(sqlite3.connect(f"file:{directory}/batchyard.db?mode=ro", uri=True)) as rows:
        assert rows.execute("SELECT run, losses, result FROM task").fetchall() == [(1, 0, "success")]


def test_an_agent_that_is_stopped_says_goodbye_and_its_node_works_again_with_the_next(directory: Path) -> None:
    server = Server("--provider", "external", nodes=1)
    agents: list[subprocess.Popen[bytes]] = []
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body=POOL)
            token = wait_for(lambda: next(server.directory.glob("nodes/*/token"), None), "the token")

            def start() -> None:
                words = ["agent", "--server", server.endpoint, "--root", str(directory / "root"), "--token-file", str(token)]
                with (directory / "agent.log").open("ab") as log:
                    agents.append(subprocess.Popen([*COMMAND, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log))

            def reached(state: str) -> Any:
                return wait_for(lambda: next((n for n in batch.listed("pools", "pool", "nodes") if n["state"] == state), None), state, 20)

            start()
            reached("idle")
            batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
            batch.post("jobs", "job", "tasks", body={"id": "task", "commandLine": "sleep 1000"})
            reached("running")
            agents[0].terminate()
            reached("unknown")  # long before it would count as silent
            task = batch.get("jobs", "job", "tasks", "task")
            info = task["executionInfo"]
            assert (task["state"], info["retryCount"], info["requeueCount"]) == ("active", 0, 0)
            assert agents[0].wait(20) == 0
            start()
            node = reached("running")
            batch.post("pools", "pool", "nodes", node["id"], "disablescheduling", body={"nodeDisableSchedulingOption": "requeue"})
            reached("offline")
            agents[1].terminate()
            reached("unknown")
            start()
            reached("offline")
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        server.stop()


def test_local_agents_run_the_probes_of_their_server(directory: Path) -> None:
    (directory / "probes").mkdir()
    (directory / "probes" / "gpu").write_text("#!/bin/sh\necho no device\nexit 3\n")
    (directory / "probes" / "gpu").chmod(0o755)
    server = Server("--probes", str(directory / "probes"), nodes=1)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body=POOL)

            def unusable() -> Any:
                return next((node for node in batch.listed("pools", "pool", "nodes") if node["state"] == "unusable"), None)

            node = wait_for(unusable, "the node to be unusable")
        [failed] = [error for error in node["errors"] if error["code"] == "ProbeFailed"]
        assert failed["message"] == "The probe gpu ended with 3: no device"
    finally:
        server.stop()


def test_up_says_the_lines_that_make_a_machine_a_node_and_a_second_agent_on_its_root_says_so_at_once(directory: Path) -> None:
    up = [*COMMAND, "up", "--dir", str(directory), "--port", "0", "--provider", "external"]
    said = subprocess.run(up, check=True, capture_output=True, text=True, timeout=60).stdout
    create, token = (
        next(line.split("   ")[0].split()[1:] for line in map(str.strip, said.splitlines()) if line.startswith(f"batchyard {words} "))
        for words in ("pool create", "pool join-token")
    )
    subprocess.run([*COMMAND, *create], check=True, capture_output=True, timeout=60)
    line = subprocess.run([*COMMAND, *token], check=True, capture_output=True, text=True, timeout=60).stdout
    assert line.split(" --token ")[0] in said, "up names the line that the token completes"
    with contextlib.ExitStack() as stack:

        def agent(name: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((directory / f"{name}.log").open("ab"))
            words = [*shlex.split(line)[1:], "--home", str(directory / "node")]
            started = subprocess.Popen([*COMMAND, *words], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(started.wait)
            stack.callback(started.kill)
            return started

        def told(name: str, what: str) -> Any:
            return wait_for(lambda: what in (directory / f"{name}.log").read_text(), f"{name} to say {what}")

        first = agent("first")
        told("first", "'joined'")
        second = agent("second")
        told("second", "another agent uses the root, which may just be leaving")
        assert second.poll() is None
        first.terminate()
        told("second", "'joined'")  # it waited for the first to leave


def test_a_wrong_token_is_a_sentence_and_an_exit_code(directory: Path) -> None:
    up = [*COMMAND, "up", "--dir", str(directory), "--port", "0", "--provider", "external"]
    subprocess.run(up, check=True, capture_output=True, timeout=60)
    server = daemon.running(directory)
    assert server is not None
    (directory / "token").write_text(f"1.{'0' * 64}")
    words = ["agent", "--server", server.url, "--root", str(directory / "root"), "--token-file", str(directory / "token")]
    agent = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False)
    assert agent.returncode == 1
    assert f"the server at {server.url} knows no node with the token of {directory / 'token'}" in agent.stderr + agent.stdout
