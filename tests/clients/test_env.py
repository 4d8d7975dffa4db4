"""`batchyard env --for javascript` says lines that Node.js takes as they are, with the newest client of npm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

pytestmark = pytest.mark.clients

ENVIRONMENT = Path(os.environ.get("BATCHYARD_CLIENTS") or Path(__file__).parents[2] / ".venv-clients")


class Server(Protocol):
    """What this test needs of the fixture `server`."""

    directory: Path


END = 'console.log("pools:", (await batch.pool.list()).length >= 0);'


def test_the_lines_for_javascript_work(server: Server, tmp_path: Path) -> None:
    (tmp_path / "node_modules" / "@azure").mkdir(parents=True)
    (tmp_path / "node_modules" / "@azure" / "batch").symlink_to(ENVIRONMENT / "clients" / "node_modules" / "batch-10.2.0")
    told = [sys.executable, "-P", "-m", "batchyard.cli.main", "env", "--dir", str(server.directory), "--for", "javascript"]
    paste = 'printf "%s\n" "$told" | sed -n "s/^# //p" | tail -n 2'
    script = f'told=$("$@") && eval "$told" && {paste} > lines.mjs && cat end >> lines.mjs && node lines.mjs'
    (tmp_path / "end").write_text(f"{END}\n")
    bare = {"PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script, "sh", *told], env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "pools: true\n"), done.stderr
