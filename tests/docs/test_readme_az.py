"""The README's session with the Azure CLI, run as it is printed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Protocol

import pytest
from tests.conftest import wait_for
from tests.docs.pages import ROOT, all_steps


class Server(Protocol):
    """What this test needs of the fixture `server`."""

    endpoint: str
    account: str
    key: str


def commands() -> list[list[str]]:
    """The `az` commands of the README, split as a shell does."""
    return [shlex.split(step.command.replace("\\\n", " ")) for step in all_steps(ROOT / "README.md") if step.command.startswith("az ")]


@pytest.mark.az
@pytest.mark.timeout(300)
def test_session_runs_as_it_is_printed(server: Server, tmp_path: Path) -> None:
    program = os.environ.get("BATCHYARD_AZ")
    if not program:
        pytest.skip("BATCHYARD_AZ is not set (make test-az sets it)")
    environment = {
        **os.environ,
        "AZURE_BATCH_ACCOUNT": server.account,
        "AZURE_BATCH_ACCESS_KEY": server.key,
        "AZURE_BATCH_ENDPOINT": server.endpoint,
        "AZURE_CONFIG_DIR": str(tmp_path / "config"),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
    }

    def az(words: list[str]) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False)
        assert done.returncode == 0, f"az {shlex.join(words)}\n{done.stderr}"
        return done.stdout

    shown = ["batch", "task", "show", "--job-id", "greetings", "--task-id", "hello", "--query", "state"]
    session = commands()
    assert ["az", *shown] in session
    for _, *words in session:
        if words[1:4] == ["task", "file", "download"]:
            wait_for(lambda: json.loads(az(shown)) == "completed", "the task to complete")
        az(words)
    assert (tmp_path / "hello.txt").read_text() == "hello from az\n"
