"""`batchyard explain` as a process, against a live server."""

from __future__ import annotations

import json
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


@pytest.fixture
def job(server: Server) -> Iterator[str]:
    """A job on a pool that does not exist, with a task and one that waits for it."""
    name = f"why-{secrets.token_hex(4)}"
    with Client(server.endpoint, server.account, server.key) as batch:
        batch.post("jobs", body={"id": name, "poolInfo": {"poolId": name}, "usesTaskDependencies": True})
        batch.post("jobs", name, "tasks", body={"id": "first", "commandLine": "true"})
        batch.post("jobs", name, "tasks", body={"id": "second", "commandLine": "true", "dependsOn": {"taskIds": ["first"]}})
        yield name
        batch.delete("jobs", name)


def explain(server: Server, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", "explain", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=server.environment, cwd=folder)


def test_a_task_as_a_tree(server: Server, job: str, tmp_path: Path) -> None:
    shown = explain(server, tmp_path, "task", f"{job}/second")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line.lstrip("│├└─ ").rstrip() for line in shown.stdout.splitlines()]
    assert lines == [
        "task second is active",
        "WaitsForTask  Task second waits for task first, which is active.",
        "→ Wait for first; what follows says why it is not done.",
        f"look: batchyard explain task {job}/first",
        f"PoolNotFound  Pool {job} does not exist.",
        "→ Create the pool, or disable the job and move it to another pool.",
        f"run: batchyard pool create {job} --nodes 1",
    ]


def test_a_job_as_a_tree_and_as_json(server: Server, job: str, tmp_path: Path) -> None:
    shown = explain(server, tmp_path, "job", job)
    assert shown.returncode == 0
    assert "of 2 waiting tasks that were looked at (2 wait in all)" in shown.stdout
    assert f"1 WaitsForTask, as {job}/second: Task second waits for task first" in shown.stdout
    found = json.loads(explain(server, tmp_path, "job", job, "-o", "json").stdout)
    assert [group["code"] for group in found["groups"]] == ["PoolNotFound", "WaitsForTask"]


def test_what_is_not_there(server: Server, job: str, tmp_path: Path) -> None:
    shown = explain(server, tmp_path, "pool", job)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "PoolNotFound" in shown.stderr


def test_job_option(server: Server, job: str, tmp_path: Path) -> None:
    shown = explain(server, tmp_path, "task", "first", "--job", job, "-o", "json")
    assert json.loads(shown.stdout)["reasons"][0]["code"] == "PoolNotFound"
