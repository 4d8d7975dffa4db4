"""`batchyard env --for az` says lines that `az` takes as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from batchyard.cli import env

pytestmark = pytest.mark.az


class Server(Protocol):
    """What this test needs of the fixture `server`."""

    directory: Path


@pytest.mark.timeout(300)
def test_the_lines_for_az_work(server: Server, tmp_path: Path) -> None:
    program = os.environ.get("BATCHYARD_AZ")
    if not program:
        pytest.skip("BATCHYARD_AZ is not set (make test-az sets it)")
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    bare = {"PATH": path, "HOME": str(tmp_path), "AZURE_CONFIG_DIR": str(tmp_path), "AZURE_CORE_COLLECT_TELEMETRY": "no"}
    told = [sys.executable, "-P", "-m", "batchyard.cli.main", "env", "--dir", str(server.directory), "--for", "az"]
    paste = 'printf "%s\n" "$told" | sed -n "s/^# //p" | tail -n 2'
    script = f'told=$("$@") && eval "$told" && {paste} > lines && sh -ex lines'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *told], env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lines").read_text().splitlines() == list(env.HINTS["az"].lines)
