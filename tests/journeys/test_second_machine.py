"""A second machine, as somebody would go about it: two homes that share nothing but the line that one prints and the other runs."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.conftest import wait_for

from batchyard.cli import daemon, processes

COMMAND = [sys.executable, "-P", "-m", "batchyard.cli.main"]


class Machine:
    """A home of its own, whose commands know of no server but their own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o711)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "BATCHYARD_", "SSL_", "REQUESTS_"))}
        self.home, self.environment = home, {**kept, "HOME": str(home), "BATCHYARD_DIR": str(home / "state")}

    def __call__(self, *words: str, code: int = 0, talk: str = "") -> str:
        """What a command prints; it ends with this code and says this on stderr, in one sentence when it fails."""
        done = subprocess.run(
            [*COMMAND, *words], env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=90, check=False
        )
        assert (done.returncode, talk in done.stderr) == (code, True), done.stderr
        assert not code or done.stderr.count("\n") == 1, done.stderr
        return done.stdout

    def entries(self, *words: str) -> list[dict[str, Any]]:
        """A list that a command prints."""
        return [msgspec.json.decode(line) for line in self(*words, "-o", "jsonl").splitlines()]

    @contextlib.contextmanager
    def running(self, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on, its output in NAME.log."""
        with (self.home / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                [*COMMAND, *words], env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield started
        finally:
            started.send_signal(signal.SIGCONT)
            started.terminate()
            started.wait(60)

    def said(self, name: str, what: str) -> bool:
        """Whether what goes on has said something."""
        return what in (self.home / f"{name}.log").read_text()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can enter; what runs below it is ended."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as made:
        Path(made).chmod(0o711)
        yield Path(made)
        daemon.stop(Path(made) / "here/state")
        for pid, started in list(processes.agents_below(Path(made))):
            processes.end(pid, started, 5)


def idle(here: Machine, count: int) -> list[str] | None:
    found = [node["id"] for node in here.entries("nodes", "mixed") if node["state"] == "idle"]
    return found if len(found) == count else None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [[], ["--tls", "auto", "--name", "localhost"]], ids=["plain", "tls"])
def test_local_and_joined_nodes_in_one_pool(place: Path, options: list[str]) -> None:
    here, there = Machine(place / "here"), Machine(place / "there")
    here("up", "--port", "0", "--nodes", "1", "--test-clock", "--node-silence", "600", *options)
    here("pool", "create", "mixed", "--nodes", "1", "--slots", "1")
    [line] = here("pool", "join-token", "mixed").splitlines()
    assert line.startswith(f"batchyard join http{'s' if options else ''}://")
    words = [*shlex.split(line)[1:], "--home", "node"]
    parts = words[3].split(".")
    parts[3] = parts[3][::-1]
    wrong = [*words[:3], ".".join(parts), *words[4:]]
    there(*wrong, code=1, talk="(AuthenticationFailed)")
    assert not idle(here, 2), "a token that is not known makes no node"
    with there.running("agent", *words) as agent:
        first, second = wait_for(lambda: idle(here, 2), "both nodes")
        joined = next(node for node in (first, second) if there.said("agent", f"as node {node}"))
        meet = f"{place}/here/meet"
        Path(meet).mkdir()
        Path(meet).chmod(0o777)
        met = f"[ -e {meet}/m-1 -a -e {meet}/m-2 ]"
        both = f'touch {meet}/$AZ_BATCH_TASK_ID; until {met}; do sleep 0.1; done; echo "$AZ_BATCH_NODE_ID" > node.txt'
        here("submit", "--pool", "mixed", "--id", "m", "--array", "1-2", "--wait", "--out", "node.txt", "--", "sh", "-c", both)
        assert {(here.home / f"m-{number}/node.txt").read_text().strip() for number in (1, 2)} == {first, second}
        assert {task["nodeInfo"]["nodeId"] for task in here.entries("tasks", "mixed")} == {first, second}
        with there.running("again", "join", "--home", "node"):
            wait_for(lambda: there.said("again", "another agent uses the root"), "the second agent to say so")
        agent.send_signal(signal.SIGSTOP)
        here_clock(here, "PT50S")
        assert f"{joined} of pool mixed has said nothing for" in wait_for(
            lambda: (told := here("explain", "node", f"mixed/{joined}")).count("has said nothing") and told, "explain to say so"
        )
        agent.send_signal(signal.SIGCONT)
        assert wait_for(lambda: "nothing for" not in here("explain", "node", f"mixed/{joined}"), "the node to be heard")
        here("node", "delete", joined, "--yes")
        assert agent.wait(60) == 0, "an agent that is no longer wanted ends by itself"
    wait_for(lambda: idle(here, 1), "the local node alone")
    here("down")


def here_clock(here: Machine, by: str) -> None:
    """Let time pass for the server."""
    from batchyard.cli.client import Client

    server, account = daemon.running(here.home / "state"), daemon.account(here.home / "state")
    assert server is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(here.home / "state/tls/bundle.pem"))
        if not (here.home / "state/tls/bundle.pem").exists():
            patch.delenv("SSL_CERT_FILE")
        with Client(server.url, account.name, account.keys[0]) as batch:
            batch.post("batchyard", "clock", body={"advance": by})
