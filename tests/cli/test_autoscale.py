"""`batchyard autoscale` as a process: a pool's trace from a live server, formulas over recorded samples without one."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from batchyard.cli.client import Client


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    endpoint: str
    account: str
    key: str
    environment: dict[str, str]


FORMULA = "$waiting = $PendingTasks.GetSample(1);\n$TargetDedicatedNodes = min(1, $waiting) - 1;"
HISTORY = "".join(
    json.dumps({"timestamp": f"2026-01-01T00:{half // 2:02}:{half % 2 * 30:02}Z", "activeTasks": half}) + "\n" for half in range(24)
)
LARGE = f'{{"timestamp": "2026-01-01T00:00:00Z", "activeTasks": {"9" * 400}}}\n'


@pytest.fixture
def pool(server: Server) -> Iterator[str]:
    """A pool with autoscale and no nodes."""
    name = f"scaled-{secrets.token_hex(4)}"
    image = {"imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}}
    body = {
        "id": name,
        "vmSize": "standard_d2s_v3",
        "enableAutoScale": True,
        "autoScaleFormula": FORMULA,
        "virtualMachineConfiguration": {**image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
    }
    with Client(server.endpoint, server.account, server.key) as batch:
        batch.post("pools", body=body)
        yield name
        batch.delete("pools", name)


def autoscale(folder: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", "autoscale", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment or {**os.environ}, cwd=folder)


def test_trace(server: Server, pool: str, tmp_path: Path) -> None:
    shown = autoscale(tmp_path, "trace", pool, environment=server.environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line.lstrip("│├└─ ").rstrip() for line in shown.stdout.splitlines()]
    assert lines[0].startswith(f"pool {pool}: 0 dedicated and 0 low-priority nodes wanted; evaluated every PT15M, next at 20")
    assert lines[1].endswith("(added): 0 dedicated, 0 low-priority, no resize")
    assert lines[2] == "$waiting = [0]"
    assert lines[3] == "saw 1 samples, the newest:"
    found = json.loads(autoscale(tmp_path, "trace", pool, "-o", "json", environment=server.environment).stdout)
    assert found["runs"][0]["variables"] == {"$waiting": "[0]"}


def test_what_was_recorded_can_be_run_again(server: Server, pool: str, tmp_path: Path) -> None:
    recorded = autoscale(tmp_path, "trace", pool, "--samples", environment=server.environment)
    (tmp_path / "history").write_text(recorded.stdout)
    (tmp_path / "formula").write_text(FORMULA)
    shown = autoscale(tmp_path, "test", "formula", "--history", "history", "--dedicated", "3")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.strip().endswith(
        "Z  $TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;$waiting=[0]"
    )


def test_unknown_pool(server: Server, tmp_path: Path) -> None:
    shown = autoscale(tmp_path, "trace", "never", environment=server.environment)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "PoolNotFound" in shown.stderr


def test_a_formula_over_time(tmp_path: Path) -> None:
    (tmp_path / "history").write_text(HISTORY)
    (tmp_path / "formula").write_text("$TargetDedicatedNodes=$TargetDedicatedNodes+1;$TargetLowPriorityNodes=$ActiveTasks;")
    shown = autoscale(tmp_path, "test", "formula", "--history", "history", "--every", "PT5M", "--dedicated", "1")
    assert shown.stdout.splitlines() == [
        f"2026-01-01T00:{minute:02}:00Z  $TargetDedicatedNodes={nodes};$TargetLowPriorityNodes={tasks};$NodeDeallocationOption=requeue"
        for minute, nodes, tasks in ((0, 2, 0), (5, 3, 10), (10, 4, 20))
    ]
    shown = autoscale(tmp_path, "test", "formula", "--history", "history", "--at", "2026-01-01T00:01:00Z")
    assert "$TargetLowPriorityNodes=2;" in shown.stdout


@pytest.mark.parametrize(
    ("formula", "history", "words", "sentence"),
    [
        ("$a=", HISTORY, [], "formula is no formula. Line 1, Col 4: Unexpected end of the formula"),
        ("$a=b", HISTORY, [], "AutoScalingFormulaEvaluationError: Line 1, Col 4: Undefined symbol: b"),
        ("$a=1", "", [], "the history is empty"),
        ("$a=1", "{}\n", [], "line 1 of history is no sample"),
        ("$a=1", HISTORY, ["--every", "often"], "not an ISO 8601 duration"),
        ("$a=1", HISTORY, ["--every", "PT0S"], "longer than zero"),
        ("$a=1", HISTORY, ["--every", f"P{'9' * 400}D"], "--every wants a finite duration"),
        ("$a=1", HISTORY, ["--at", "0001-01-01T00:00:00+23:00"], "not within the years 1 to 9999"),
        ("$a=1", HISTORY, ["--at", "9999-12-31T23:59:59-23:00"], "not within the years 1 to 9999"),
        ("$a=$ActiveTasks", LARGE, [], "Line 1, Col 4: A sample of $ActiveTasks is out of bounds"),
        ("a" * 9000, HISTORY, [], "more than 8192 characters"),
    ],
)
def test_what_goes_wrong(tmp_path: Path, formula: str, history: str, words: list[str], sentence: str) -> None:
    (tmp_path / "formula").write_text(formula)
    (tmp_path / "history").write_text(history)
    shown = autoscale(tmp_path, "test", "formula", "--history", "history", *words)
    assert shown.returncode == 1
    assert sentence in shown.stderr
    assert "Traceback" not in shown.stderr


def test_files_that_are_not_there(tmp_path: Path) -> None:
    shown = autoscale(tmp_path, "test", "formula", "--history", "history")
    assert (shown.returncode, "cannot read formula" in shown.stderr) == (1, True)
