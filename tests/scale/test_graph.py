"""A large graph of dependencies: order, completeness, CPU and memory of the server's side (`make bench` runs ten times as many)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GRAPH = Path(__file__).parents[2] / "bench" / "graph.py"


@pytest.mark.slow
def test_a_graph_of_10000_tasks_runs_in_order_within_its_cpu_and_memory() -> None:
    done = subprocess.run([sys.executable, "-B", str(GRAPH), "10000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]  # it checks order and counts itself
    seen = json.loads(done.stdout)
    assert seen["tasks"] == 10_000
    assert seen["edges"] >= seen["tasks"]
    assert seen["add_cpu"] + seen["run_cpu"] < 15
    assert seen["after_mb"] - seen["early_mb"] < 16
