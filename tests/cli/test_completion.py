"""Shells complete commands, options and the names that the server knows; without a server nothing, at once and without a word."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, Server

from batchyard.cli import completion, table
from batchyard.cli.client import Client

ENDED_S = 30
Asked = Callable[..., list[str]]


@pytest.fixture
def asked(cli: Cli) -> Asked:
    """What the last of some words may become."""

    def ask(*words: str, **more: object) -> list[str]:
        done = cli(completion.ASK, *words, **more)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return ask


@pytest.fixture
def job(client: Client, idle_job: str) -> str:
    """A job with tasks on a pool of its name."""
    client.post("jobs", idle_job, "addtaskcollection", body={"value": [{"id": f"t{n}", "commandLine": "true"} for n in range(3)]})
    return idle_job


def test_words_of_the_table(asked: Asked) -> None:
    assert asked("ver") == []
    assert {"submit", "status", "storage"} <= set(asked("s"))
    assert asked("pool", "stop") == ["stop-resize"]
    assert asked("pool", "add", "--low") == ["--low-priority"]
    assert asked("task", "list", "j", "-o", "js") == ["json", "jsonl"]
    assert asked("explain", "") == ["job", "node", "pool", "schedule", "task"]
    assert asked("man", "pool") == ["pool", "pools"]
    assert set(asked("")) >= {verb.name for verb in table.COMMANDS}


def test_names_that_the_server_knows(asked: Asked, job: str) -> None:
    assert asked("wait", job[:-1]) == [job]
    assert asked("pool", "show", job[:-1]) == [job]
    assert asked("task", "show", f"{job}/t") == [f"{job}/t0", f"{job}/t1", f"{job}/t2"]
    assert asked("submit", "--pool", job[:-1]) == [job]
    assert asked("task", "show", "--job", job[:-1]) == [job]


def test_nodes(asked: Asked, client: Client, shared_pool: str) -> None:
    known = {node["id"] for node in client.listed("pools", shared_pool, "nodes")}
    assert known <= set(asked("node", "show", ""))


def test_the_server_that_the_words_name_is_asked(asked: Asked, job: str, server: Server, tmp_path: Path) -> None:
    bare = {"PATH": "/usr/bin:/bin", "BATCHYARD_DIR": str(tmp_path)}
    assert asked("wait", job[:-1], env=bare) == []
    named = ["--endpoint", server.endpoint, "--account", server.account, f"--key={server.key}"]
    assert asked("wait", *named, job[:-1], env=bare) == [job]


def test_without_a_server_there_is_silence_at_once(asked: Asked, tmp_path: Path) -> None:
    bare = {"PATH": "/usr/bin:/bin", "BATCHYARD_DIR": str(tmp_path)}
    assert asked("wait", "x", env=bare) == []
    assert asked("pool", "sh", env=bare) == ["show"]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert asked("wait", "--endpoint", f"http://127.0.0.1:{port}", "--account", "a", "--key", "a2V5", "x", env=bare) == []


def test_a_server_that_does_not_answer_is_not_waited_for(asked: Asked) -> None:
    """A connection's own patience is ten times that of whoever holds the key down."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        named = ["--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}", "--account", "a", "--key", "a2V5"]
        before = time.monotonic()
        assert asked("wait", *named, "x") == []
        assert time.monotonic() - before < ENDED_S  # the answer's time is 60 s


LINES = {
    "bash": "source ./script; COMP_WORDS=(batchyard wait {start}); COMP_CWORD=2; _batchyard; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "zsh": "compdef() {{; }}; compadd() {{ print -l -- $found; }}; source ./script; words=(batchyard wait {start}); CURRENT=3; _batchyard",
    "fish": "source ./script; complete -C 'batchyard wait {start}'",
}


@pytest.mark.parametrize("shell", LINES)
def test_the_shell_itself(shell: str, cli: Cli, server: Server, job: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    (tmp_path / "script").write_text(cli("completion", shell).stdout)
    program = tmp_path / "batchyard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m batchyard "$@"\n')
    program.chmod(0o755)
    environment = {**server.environment, "PATH": f"{tmp_path}:{server.environment['PATH']}", "HOME": str(tmp_path)}
    words = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    line = LINES[shell].format(start=job[:-1])
    done = subprocess.run([shell, *words, "-c", line], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [job], done.stderr


def test_zsh_finds_the_file_among_its_own(cli: Cli, tmp_path: Path) -> None:
    if not shutil.which("zsh"):
        pytest.skip("there is no zsh")
    (tmp_path / "_batchyard").write_text(cli("completion", "zsh").stdout)
    line = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[batchyard]"
    done = subprocess.run(["zsh", "-f", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout == "_batchyard\n", done.stderr
