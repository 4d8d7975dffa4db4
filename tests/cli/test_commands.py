"""The command line without a server: what it says when something is in the way, and whom it may end."""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.blobs.store.local import LocalBlobStore
from batchyard.cli import daemon, processes


def batchyard(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that failed as it should."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("batchyard: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def record(directory: Path, pid: int, started: int, url: str = "http://127.0.0.1:1") -> None:
    directory.mkdir(exist_ok=True)
    (directory / "server.json").write_text(json.dumps({"pid": pid, "started": started, "url": url}))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a server and ends at SIGTERM."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def started(process: subprocess.Popen[bytes]) -> int:
    found = processes.start_time(process.pid)
    assert found is not None
    return found


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_directory_that_cannot_be_written_is_said(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = sentence(batchyard(command, "--dir", tmp_path / "file" / "state", "--port", "0"))
    assert f"cannot write to {tmp_path}/file/state" in text
    assert "--dir" in text


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_taken_port_is_said(command: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = sentence(batchyard(command, "--dir", tmp_path, "--port", str(port)))
    assert f"port {port} of 127.0.0.1 is taken" in text
    assert "--port" in text


def test_up_says_where_a_server_already_runs(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, started(sleeper), "http://127.0.0.1:4711")
    assert "already runs at http://127.0.0.1:4711" in sentence(batchyard("up", "--dir", tmp_path, "--port", "0"))


def test_serve_leaves_the_directory_to_the_server_that_holds_its_lock(tmp_path: Path) -> None:
    daemon.prepare(tmp_path)
    with daemon.sole_server(tmp_path):
        assert "already runs" in sentence(batchyard("serve", "--dir", tmp_path, "--port", "0"))


@pytest.mark.parametrize("command", ["down", "status"])
def test_without_a_server_down_and_status_fail(command: str, tmp_path: Path) -> None:
    assert f"no server of {tmp_path} is running" in sentence(batchyard(command, "--dir", tmp_path))


def test_env_needs_an_account(tmp_path: Path) -> None:
    assert "no account" in sentence(batchyard("env", "--dir", tmp_path))


def test_down_ends_the_recorded_server(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, started(sleeper))
    done = batchyard("down", "--dir", tmp_path)
    assert done.returncode == 0
    assert sleeper.wait(5) == -15
    assert not (tmp_path / "server.json").exists()


def test_down_never_signals_who_got_the_pid_later(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, started(sleeper) - 1)
    assert "no server" in sentence(batchyard("down", "--dir", tmp_path))
    assert sleeper.poll() is None


def test_a_zombie_does_not_run(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(sleeper.pid) is None


def test_down_kills_a_server_that_will_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "PATIENCE_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        record(tmp_path, stubborn.pid, started(stubborn))
        assert not daemon.stop(tmp_path).willing
        assert stubborn.wait() == -9


def test_down_ends_agents_that_lost_their_server(tmp_path: Path) -> None:
    code = "import time; print('up', flush=True); time.sleep(100)"
    words = ["batchyard.agent.main", "--root", str(tmp_path / "mine" / "nodes" / "n1" / "root")]
    (tmp_path / "mine").mkdir()
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"up\n"  # before that /proc may not have its words yet
        assert daemon.stop(tmp_path / "other").agents == 0
        assert daemon.stop(tmp_path / "min").agents == 0
        assert agent.poll() is None
        assert daemon.stop(tmp_path / "mine").agents == 1
        assert agent.wait() == -15


def test_env_prints_exports_that_a_shell_takes_as_they_are(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    record(tmp_path, sleeper.pid, started(sleeper), "http://127.0.0.1:4711")
    given = {"name": "acc't", "keys": ["a+b/c==", "second"], "storageName": "store", "storageKey": "$(id)=="}
    (tmp_path / "account.json").write_text(json.dumps(given))
    exports = batchyard("env", BATCHYARD_DIR=str(tmp_path)).stdout
    names = ("ACCOUNT", "ACCESS_KEY", "ENDPOINT")
    wanted = " ".join([*(f'"$AZURE_BATCH_{name}"' for name in names), '"$AZURE_STORAGE_CONNECTION_STRING"'])
    script = f"eval \"$1\"; printf '%s\\n' {wanted}"
    told = subprocess.run(["sh", "-c", script, "sh", exports], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == [
        "acc't",
        "a+b/c==",
        "http://127.0.0.1:4711",
        "DefaultEndpointsProtocol=http;AccountName=store;AccountKey=$(id)==;"
        "BlobEndpoint=http://127.0.0.1:4711/store;QueueEndpoint=http://127.0.0.1:4711/queue/store;"
        "TableEndpoint=http://127.0.0.1:4711/table/store;FileEndpoint=http://127.0.0.1:4711/store;",
    ]


def test_the_state_directory_lets_tasks_of_other_users_through(tmp_path: Path) -> None:
    daemon.prepare(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "state" / "server.lock").stat().st_mode & 0o777 == 0o600


def test_the_agents_own_options_are_passed_on() -> None:
    assert "--token-file" in batchyard("agent", "--help").stdout


def test_help_loads_nothing_heavy() -> None:
    heavy = "httpx azure uvicorn sqlalchemy sqlite3 asyncio batchyard.app batchyard.api batchyard.agent".split()
    code = f"import sys, batchyard.cli.main; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_server_that_others_can_reach_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = batchyard("serve", "--dir", tmp_path / "state", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert "--insecure" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["account", "schema"])
def test_a_state_directory_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    with sqlite3.connect(tmp_path / "batchyard.db") as database:
        database.execute("PRAGMA user_version = 9999")
    if what == "schema":
        key = base64.b64encode(bytes(range(32))).decode()
        account = {"name": "a", "keys": [key, key], "storageName": "s", "storageKey": key, "nodeKey": key}
        (tmp_path / "account.json").write_text(json.dumps(account))
        LocalBlobStore(tmp_path / "blobs").close()
    done = batchyard("serve", "--dir", tmp_path, "--port", "0")
    assert done.returncode == 1
    assert ("newer release" if what == "schema" else "account.json is missing") in done.stderr
    assert "Traceback" not in done.stderr
