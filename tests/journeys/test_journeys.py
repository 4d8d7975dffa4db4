"""Whole ways of a user: a script that was written for Azure, and five hundred commands with failures, retries and outputs."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

HERE = Path(__file__).parent
SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
MANY = 500


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    environment: dict[str, str]


def script(python: str, name: str, server: Server) -> list[str]:
    done = subprocess.run([python, "-P", HERE / name], env=server.environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(300)
def test_an_azure_script_runs_with_only_endpoint_and_key_changed(server: Server) -> None:
    assert "batchyard" not in (HERE / "azure_script_15.py").read_text().lower()
    shown = script(sys.executable, "azure_script_15.py", server)
    assert sorted(shown[:4]) == ["after 0 success", "pets 0 success", "sea 0 success", "sky 0 success"]
    assert shown[4:] == [
        "all three are counted",
        "out/pets.txt.count 3",
        "out/sea.txt.count 3",
        "out/sky.txt.count 2",
        "nothing is left: True",
    ]


@pytest.mark.timeout(300)
@pytest.mark.skipif(SDK14_PYTHON not in os.environ, reason=f"{SDK14_PYTHON} is not set (make test sets it)")
def test_so_does_one_of_the_older_generation(server: Server) -> None:
    assert "batchyard" not in (HERE / "azure_script_14.py").read_text().lower()
    assert script(os.environ[SDK14_PYTHON], "azure_script_14.py", server) == [
        "['success', 'success', 'success', 'success']",
        "task0 0 success 0 ready",
        "task1 1 failure 1 ready",
        "task2 0 success 0 ready",
        "task3 1 failure 1 ready",
        "TaskNotFound",
    ]


class Box:
    """A shell of somebody with many commands to run."""

    def __init__(self, server: Server, place: Path) -> None:
        self._environment, self._place = server.environment, place

    def __call__(self, *words: str | Path, code: int = 0, talk: str = "") -> list[str]:
        """What a command prints; it ends with this code and says this on stderr."""
        command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
        done = subprocess.run(command, env=self._environment, cwd=self._place, capture_output=True, text=True, timeout=250, check=False)
        assert (done.returncode, "Traceback" in done.stderr, talk in done.stderr) == (code, False, True), done.stderr
        return done.stdout.splitlines()


COMMAND = """
n={}
case $((n % 50)) in
    0) test -e MENDED || exit 3;;
    1) test -e ../seen-$n || { touch ../seen-$n; exit 1; };;
esac
echo "result of $n" > result.txt
"""
"""One in fifty fails until something outside is mended, another one in fifty fails only at its first try."""


@pytest.mark.timeout(300)
def test_five_hundred_commands_with_failures_retries_and_outputs(server: Server, tmp_path: Path) -> None:
    box, pool = Box(server, tmp_path), f"box-{secrets.token_hex(4)}"
    mended = Path("/tmp") / f"batchyard-mended-{pool}"
    box("pool", "create", pool, "--nodes", "2", "--slots", "4")
    words = ("submit", "--pool", pool, "--id", "run", "--array", f"1-{MANY}", "--retries", "1", "--out", "result.txt")
    try:
        assert len(box(*words, "--", "sh", "-c", COMMAND.replace("MENDED", str(mended)))) == MANY
        failed = MANY // 50
        assert box("wait", pool, code=1) == [f"{MANY - failed} tasks succeeded, {failed} failed"]
        broken = box("tasks", pool, "--failed", "-o", "jsonl", "--query", "[id, executionInfo.exitCode, executionInfo.retryCount]")
        assert sorted(broken) == sorted(f'["run-{number}",3,1]' for number in range(50, MANY + 1, 50))
        assert len(box("tasks", pool, "--where", "retries:>0", "-o", "id")) == 2 * failed
        mended.touch()
        assert sorted(box("retry", pool, "--failed")) == sorted(f"run-{number}" for number in range(50, MANY + 1, 50))
        assert box("wait", pool) == [f"{MANY} tasks succeeded, 0 failed"]
        assert len(box("get", pool, "--into", "all")) == MANY
        assert {path.parent.name: path.read_text() for path in (tmp_path / "all").glob("*/result.txt")} == {
            f"run-{number}": f"result of {number}\n" for number in range(1, MANY + 1)
        }
    finally:
        mended.unlink(missing_ok=True)
        box("job", "delete", pool, "--yes")
        box("pool", "delete", pool, "--yes")
