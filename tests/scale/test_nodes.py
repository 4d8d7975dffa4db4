"""Many nodes against one server, some of which fall silent at once (`make bench ARGS="--only nodes"` has five times as many)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NODES = Path(__file__).parents[2] / "bench" / "nodes.py"


@pytest.mark.slow
def test_of_40_nodes_10_fall_silent_and_every_task_still_runs() -> None:
    done = subprocess.run([sys.executable, "-B", str(NODES), "run", "40", "10", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]  # it waits for exactly the lost tasks, and for the success of all
    seen = json.loads(done.stdout)
    assert (seen["nodes"], seen["slots"], seen["lost"]) == (40, 160, 10)
    assert seen["unknown"] == 10  # those, and no other
