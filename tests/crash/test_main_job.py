"""The main job survives what machines do: agents and servers that are killed in its middle.

"The middle" is seen in the rows, never waited for. Afterwards the result is the one that the example counts itself, every
task has exactly one end in the event log, and every output is there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

MAIN_JOB = Path(__file__).parents[2] / "examples" / "main_job.py"
TASKS = 41
SECONDS = 100


class Server(Protocol):
    """What these tests need of the fixture `own_server`."""

    directory: Path
    environment: dict[str, str]

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def agents(self) -> dict[str, int]: ...
    def kill_agent(self, node_id: str) -> None: ...
    def log(self) -> str: ...


class Rows:
    """The server's rows, read beside it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "batchyard.db"

    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    def completed(self) -> int:
        return int(self("SELECT coalesce(sum(completed), 0) FROM job_counts")[0][0])

    def busy_nodes(self) -> list[str]:
        """Ids of nodes that run something, the busiest first."""
        return [name for (name,) in self("SELECT id FROM node WHERE tasks_running > 0 ORDER BY tasks_running DESC, pk")]


@pytest.fixture
def rows(own_server: Server) -> Rows:
    return Rows(own_server.directory)


@pytest.fixture
def main_job(own_server: Server) -> Iterator[subprocess.Popen[str]]:
    """The example as a user runs it; it leaves job and storage there to be looked at."""
    command = [sys.executable, str(MAIN_JOB), "--keep", "--timeout", str(SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=own_server.environment) as job:
        yield job
        job.kill()


def until(main_job: subprocess.Popen[str], look: Callable[[], Any]) -> Any:
    """The first thing that `look` sees while the job goes on."""
    while main_job.poll() is None:
        with contextlib.suppress(sqlite3.Error):
            if seen := look():
                return seen
        os.sched_yield()
    pytest.fail(f"the job ended before its middle was seen\n{main_job.stdout.read() if main_job.stdout else ''}")


def ends_well(main_job: subprocess.Popen[str], server: Server, rows: Rows) -> None:
    said, _ = main_job.communicate(timeout=SECONDS)
    assert main_job.returncode == 0, said + server.log()[-6000:]
    assert f"{TASKS}/{TASKS} tasks" in said
    assert "the same as counted on this machine" in said
    assert rows("SELECT active, running, completed, succeeded, failed FROM job_counts") == [(0, 0, TASKS, TASKS, 0)]
    ends = rows("SELECT subject, count(*), group_concat(happened) FROM event WHERE what = 'task' AND new = 'completed' GROUP BY subject")
    assert len(ends) == TASKS
    assert {(count, happened) for _, count, happened in ends} == {(1, "ended")}
    assert rows("SELECT count(*), count(DISTINCT id), sum(retries), sum(requeues) FROM task") == [(TASKS, TASKS, 0, 0)]
    starts = "SELECT count(*) FROM event WHERE what = 'task' AND happened = 'started' AND subject = task.pk"
    assert rows(f"SELECT id FROM task WHERE run <> ({starts}) OR run <> losses + 1") == []
    assert rows("PRAGMA integrity_check") == [("ok",)]


def losses(rows: Rows) -> int:
    return int(rows("SELECT sum(losses) FROM task")[0][0])


@pytest.mark.slow
def test_an_agent_is_killed(own_server: Server, rows: Rows, main_job: subprocess.Popen[str]) -> None:
    until(main_job, lambda: rows.completed() >= 5)
    (node, *_) = until(main_job, rows.busy_nodes)
    own_server.kill_agent(node)
    ends_well(main_job, own_server, rows)
    assert losses(rows) >= 1


@pytest.mark.slow
def test_the_server_is_killed_and_started_again(own_server: Server, rows: Rows, main_job: subprocess.Popen[str]) -> None:
    until(main_job, lambda: rows.completed() >= 5)
    before = own_server.agents()
    own_server.kill()
    own_server.start()
    ends_well(main_job, own_server, rows)
    assert losses(rows) == 0, "agents and what they run live on"
    assert own_server.agents() == before


@pytest.mark.slow
def test_server_and_agent_are_killed(own_server: Server, rows: Rows, main_job: subprocess.Popen[str]) -> None:
    until(main_job, lambda: rows.completed() >= 5)
    (node, *_) = until(main_job, rows.busy_nodes)
    own_server.kill()
    own_server.kill_agent(node)
    own_server.start()
    ends_well(main_job, own_server, rows)
    assert losses(rows) >= 1


@pytest.mark.slow
def test_an_agent_is_killed_while_it_uploads(own_server: Server, rows: Rows, main_job: subprocess.Popen[str]) -> None:
    """The agent stands still while its tasks end by themselves: their outputs are written and not handed up, or only in part."""
    until(main_job, lambda: rows.completed() >= 3)
    (node, *_) = until(main_job, rows.busy_nodes)
    root = own_server.directory / "nodes" / node / "root"
    seen = until(main_job, lambda: unreported_output(root, rows))
    own_server.kill_agent(node)
    ends_well(main_job, own_server, rows)
    assert seen


def unreported_output(root: Path, rows: Rows) -> bool:
    """True when a task of the node has written its output and has not been reported."""
    running = {name for (name,) in rows("SELECT id FROM task WHERE state = 'running'")}
    outputs = root.glob("workitems/*/job-1/*/wd/*.json")
    return any(path.stem in running and path.parents[1].name == path.stem and path.stat().st_size for path in outputs)
