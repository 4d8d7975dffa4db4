"""Which processes are agents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from batchyard.cli import processes

FORKS = """
import os, sys
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""


def test_what_an_agent_has_just_started_is_no_agent(tmp_path: Path) -> None:
    """It has the agent's words until it runs a program of its own."""
    words = ["batchyard.agent.main", "--root", str(tmp_path / "node" / "root")]
    agent = subprocess.Popen([sys.executable, "-c", FORKS, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    try:
        assert int(agent.stdout.readline()) > 0
        assert list(processes.agents_below(tmp_path)) == [(agent.pid, processes.start_time(agent.pid))]
    finally:
        agent.communicate()
    assert list(processes.agents_below(tmp_path)) == []
