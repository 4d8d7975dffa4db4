"""Server and agents are killed in the middle of a multi-instance task: never a part of it, and one result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Server, wait_for
from tests.crash.test_full_disk import add_job, ask, pool

NODES = 3


@pytest.fixture
def notes() -> Iterator[Path]:
    """A directory that every task may write to."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o777)
        for name in ("instances", "runs", "ends"):  # each node has users of its own
            (Path(place) / name).touch()
            (Path(place) / name).chmod(0o666)
        yield Path(place)


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def begin(server: Server, notes: Path) -> None:
    """A task that notes each start of an instance and of its command, and ends once there is a file `go`."""
    assert ask(server, "POST", "/pools", pool("p", nodes=NODES) | {"enableInterNodeCommunication": True})[0] == 201
    assert add_job(server, "j") == 201
    command = f"echo run >>{notes}/runs; until test -e {notes}/go; do sleep 0.05; done; echo end >>{notes}/ends"
    coordination = f"echo $AZ_BATCH_NODE_ID >>{notes}/instances; until test -e {notes}/coordinate; do sleep 0.05; done"
    settings = {"numberOfInstances": NODES, "coordinationCommandLine": f"/bin/sh -c '{coordination}'"}
    task = {"id": "t", "commandLine": f"/bin/sh -c '{command}'", "multiInstanceSettings": settings}
    assert ask(server, "POST", "/jobs/j/tasks", task)[0] == 201
    wait_for(lambda: len(lines(notes / "instances")) == NODES, "all instances to begin")


def finish(server: Server, notes: Path) -> dict[str, int]:
    """Let it go on to its end; the counts of its job."""
    (notes / "coordinate").touch()
    (notes / "go").touch()
    wait_for(lambda: ask(server, "GET", "/jobs/j/tasks/t")[1]["state"] == "completed", "the task to end")
    assert ask(server, "GET", "/jobs/j/tasks/t")[1]["executionInfo"]["result"] == "success"
    states = {one["state"] for one in ask(server, "GET", "/jobs/j/tasks/t/subtasksinfo")[1]["value"]}
    assert states == {"completed"}
    counts: dict[str, int] = ask(server, "GET", "/jobs/j/taskcounts")[1]["taskCounts"]
    return counts


def test_a_server_that_is_killed_finds_all_instances_again(own_server: Server, notes: Path) -> None:
    begin(own_server, notes)
    own_server.kill()
    (notes / "coordinate").touch()
    own_server.start()
    wait_for(lambda: lines(notes / "runs"), "the command line")
    own_server.kill()
    (notes / "go").touch()
    wait_for(lambda: lines(notes / "ends"), "its end, which nobody hears of yet")
    own_server.start()
    assert finish(own_server, notes) | {"succeeded": 1, "completed": 1} == finish(own_server, notes)
    assert len(lines(notes / "instances")) == NODES, "none was begun a second time"
    assert len(lines(notes / "runs")) == len(lines(notes / "ends")) == 1


@pytest.mark.parametrize("during", ["coordination", "command"])
@pytest.mark.parametrize("whose", ["primary", "other"])
def test_an_agent_that_is_killed_takes_all_instances_with_it_and_all_run_again(
    own_server: Server, notes: Path, during: str, whose: str
) -> None:
    begin(own_server, notes)
    if during == "command":
        (notes / "coordinate").touch()
        wait_for(lambda: lines(notes / "runs"), "the command line")
    primary = ask(own_server, "GET", "/jobs/j/tasks/t")[1]["nodeInfo"]["nodeId"]
    others = [one["nodeInfo"]["nodeId"] for one in ask(own_server, "GET", "/jobs/j/tasks/t/subtasksinfo")[1]["value"]]
    own_server.kill_agent(primary if whose == "primary" else others[0])
    wait_for(lambda: len(lines(notes / "instances")) == 2 * NODES, "all instances to begin again")
    counts = finish(own_server, notes)
    assert (counts["succeeded"], counts["completed"]) == (1, 1)
    assert sorted(lines(notes / "instances")) == sorted(2 * [primary, *others])
    assert len(lines(notes / "ends")) == 1
