"""Twenty and more causes of "why does it not run?": each is named right, with a command that then mends it, run as it was printed."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.cli.conftest import MACHINE
from tests.conftest import Server, wait_for

from batchyard.cli.client import Client

QUOTAS = "[quotas]\nlow_priority_cores = 2\n"
FLAKY = "sh -c 'test -e {0} || {{ touch {0}; exit {1}; }}'"
"""A command that fails the first time only."""


class World:
    """A server, a shell that knows `batchyard`, and what a cause is made of."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.batch = Client(server.endpoint, server.account, server.key)
        program = directory / "batchyard"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m batchyard.cli.main "$@"\n')
        program.chmod(0o755)
        self.environment = {**server.environment, "PATH": f"{directory}:{os.environ['PATH']}"}
        self.flags = directory / "flags"
        self.flags.mkdir(mode=0o777)
        self.flags.chmod(0o777)
        self.pools: list[str] = []

    def shell(self, line: str) -> str:
        """What a line of a shell prints; it has to succeed."""
        done = subprocess.run(["sh", "-c", line], env=self.environment, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    def flag(self) -> str:
        """A file that is not there yet."""
        return str(self.flags / secrets.token_hex(4))

    def pool(self, nodes: int = 1, slots: int = 1, **more: Any) -> str:
        """A pool; waits for its nodes."""
        name = f"p{secrets.token_hex(3)}"
        body = {"id": name, "virtualMachineConfiguration": MACHINE, "vmSize": "standard_d2s_v3", "taskSlotsPerNode": slots}
        self.batch.post("pools", body={**body, "targetDedicatedNodes": nodes, **more})
        self.pools.append(name)
        if "startTask" not in more:
            wait_for(lambda: len(self.nodes(name, "idle")) == nodes + more.get("targetLowPriorityNodes", 0), "its nodes")
        return name

    def nodes(self, pool: str, *states: str) -> list[str]:
        """Ids of the nodes of a pool that are in one of the states."""
        return [node["id"] for node in self.batch.listed("pools", pool, "nodes") if node["state"] in states]

    def job(self, pool: str, *tasks: dict[str, Any], **more: Any) -> str:
        """A job with tasks of an id and, unless it is `true`, a command."""
        name = f"j{secrets.token_hex(3)}"
        self.batch.post("jobs", body={"id": name, "poolInfo": {"poolId": pool}, "usesTaskDependencies": True, **more})
        for task in tasks:
            self.batch.post("jobs", name, "tasks", body={"commandLine": "true", **task})
        return name

    def reached(self, job: str, task: str, *states: str) -> dict[str, Any]:
        """A task once it is in one of the states."""

        def look() -> dict[str, Any] | None:
            found = self.batch.get("jobs", job, "tasks", task)
            return found if found["state"] in states else None

        return wait_for(look, f"{job}/{task} to be {' or '.join(states)}")

    def blocker(self, id_: str, go: str, **more: Any) -> dict[str, Any]:
        """A task that runs until the file `go` is there."""
        return {"id": id_, "commandLine": f"sh -c 'until [ -e {go} ]; do sleep 0.1; done'", **more}


class Set(NamedTuple):
    """A cause that was set up: what is asked, the task that has to run once it is mended, and what is still to be done before."""

    asked: str
    job: str
    task: str
    first: Callable[[], object] = lambda: None
    """What the action asks for, beside the command."""
    then: Callable[[], object] = lambda: None
    """What lets the task end that the test holds up."""


CAUSES: dict[str, Callable[[World], Set]] = {}


def cause(code: str) -> Callable[[Callable[[World], Set]], Callable[[World], Set]]:
    def note(make: Callable[[World], Set]) -> Callable[[World], Set]:
        CAUSES[f"{code} {make.__name__}"] = make
        return make

    return note


def ask(job: str, task: str, **more: Any) -> Set:
    return Set(f"task {job}/{task}", job, task, **more)


@cause("JobDisabled")
def disabled(world: World) -> Set:
    job = world.job(world.pool(0), {"id": "t"})
    world.shell(f"batchyard job disable {job} && batchyard pool resize {world.pools[-1]} --nodes 1")
    wait_for(lambda: world.batch.get("jobs", job)["state"] == "disabled", "the job")
    return Set(f"job {job}", job, "t")


@cause("Failed")
def killed(world: World) -> Set:
    job = world.job(world.pool(), {"id": "t", "commandLine": FLAKY.format(world.flag(), 137)})
    world.reached(job, "t", "completed")
    told = world.shell(f"batchyard explain task {job}/t")
    assert "exit code 137 (killed, often for its memory" in told
    return ask(job, "t")


@cause("Failed")
def not_found(world: World) -> Set:
    program = world.flag()
    job = world.job(world.pool(), {"id": "t", "commandLine": program})
    world.reached(job, "t", "completed")
    told = world.shell(f"batchyard explain task {job}/t")
    assert f"CommandProgramNotFound: The specified command program is not found [CommandLine: {program}" in told

    def put() -> None:
        Path(program).write_text("#!/bin/sh\n")
        Path(program).chmod(0o755)

    return ask(job, "t", first=put)


@cause("BlockedByFailure")
def blocked(world: World) -> Set:
    tasks = {"id": "a", "commandLine": FLAKY.format(world.flag(), 3)}, {"id": "b", "dependsOn": {"taskIds": ["a"]}}
    job = world.job(world.pool(), *tasks)
    world.reached(job, "a", "completed")
    return ask(job, "b")


@cause("BlockedByFailure")
def blocked_far_away(world: World) -> Set:
    tasks = [
        {"id": "a", "commandLine": FLAKY.format(world.flag(), 3)},
        *({"id": b, "dependsOn": {"taskIds": [a]}} for a, b in ("ab", "bc")),
    ]
    job = world.job(world.pool(), *tasks)
    world.reached(job, "a", "completed")
    return ask(job, "c")


@cause("DependencyCycle")
def cycle(world: World) -> Set:
    tasks = {"id": "a", "dependsOn": {"taskIds": ["b"]}}, {"id": "b", "dependsOn": {"taskIds": ["a"]}}
    job = world.job(world.pool(), *tasks)

    def again() -> None:
        world.batch.post("jobs", job, "tasks", body={"id": "a", "commandLine": "true"})

    return Set(f"task {job}/a", job, "b", then=again)


@cause("WaitsForMissingTask")
def missing(world: World) -> Set:
    return ask(world.job(world.pool(), {"id": "b", "dependsOn": {"taskIds": ["a"]}}), "b")


@cause("WaitsForMissingTask")
def missing_of_a_range(world: World) -> Set:
    ranged = {"id": "sum", "dependsOn": {"taskIdRanges": [{"start": 1, "end": 2}]}}
    job = world.job(world.pool(), {"id": "1"}, ranged)
    world.reached(job, "1", "completed")
    return ask(job, "sum")


@cause("MaxParallelTasks")
def too_parallel(world: World) -> Set:
    go = world.flag()
    job = world.job(world.pool(slots=4), world.blocker("a", go), {"id": "b"}, maxParallelTasks=1)
    world.reached(job, "a", "running")
    return ask(job, "b", then=Path(go).touch)


@cause("PoolNotFound")
def no_pool(world: World) -> Set:
    world.pools.append(f"p{secrets.token_hex(3)}")
    return ask(world.job(world.pools[-1], {"id": "t"}), "t")


@cause("PoolEmpty")
def empty_pool(world: World) -> Set:
    return ask(world.job(world.pool(0), {"id": "t"}), "t")


@cause("PoolEmpty")
def empty_by_its_formula(world: World) -> Set:
    pool = f"p{secrets.token_hex(3)}"
    world.shell(f"batchyard pool create {pool} --autoscale '$TargetDedicatedNodes = 0;'")
    world.pools.append(pool)
    return ask(world.job(pool, {"id": "t"}), "t")


@cause("AllocationFailed")
def over_quota(world: World) -> Set:
    hog = world.pool(0, targetLowPriorityNodes=1)
    pool = f"p{secrets.token_hex(3)}"
    body = {"id": pool, "virtualMachineConfiguration": MACHINE, "vmSize": "standard_d2s_v3", "targetLowPriorityNodes": 1}
    world.batch.post("pools", body=body)
    world.pools.append(pool)
    job = world.job(pool, {"id": "t"})
    wait_for(lambda: world.batch.get("pools", pool).get("resizeErrors"), "the resize to fail")
    told = world.shell(f"batchyard explain task {job}/t")
    assert "core quota of the account has been reached (Quota: 2 cores, Used: 2 cores, Wanted: 2 cores)" in told
    assert f"1 node of pool {hog}" in told

    def make_room() -> None:
        world.shell(f"batchyard pool delete --yes {hog}")
        wait_for(lambda: all(one["id"] != hog for one in world.batch.listed("pools")), "the other pool to go")

    return ask(job, "t", first=make_room)


@cause("StartTaskFailed")
def start_task(world: World) -> Set:
    pool = world.pool(startTask={"commandLine": FLAKY.format(world.flag(), 5), "waitForSuccess": True})
    wait_for(lambda: world.nodes(pool, "starttaskfailed"), "the start task to fail")
    return ask(world.job(pool, {"id": "t"}), "t")


@cause("SchedulingDisabled")
def drained(world: World) -> Set:
    pool = world.pool()
    world.shell(f"batchyard node drain '{pool}/*'")
    wait_for(lambda: world.nodes(pool, "offline"), "the node to be offline")
    return ask(world.job(pool, {"id": "t"}), "t")


@cause("NodesDeallocated")
def stopped(world: World) -> Set:
    pool = world.pool()
    world.shell(f"batchyard node stop --yes '{pool}/*'")
    wait_for(lambda: world.nodes(pool, "deallocated"), "the node to be deallocated")
    job = world.job(pool, {"id": "t"})
    return Set(f"node {pool}/{world.nodes(pool, 'deallocated')[0]}", job, "t")


@cause("NodesUnusable")
def full_disk(world: World) -> Set:
    pool = world.pool()
    world.shell(f"batchyard chaos disk-full {world.nodes(pool, 'idle')[0]}")
    wait_for(lambda: world.nodes(pool, "unusable"), "the node to be unusable")
    return ask(world.job(pool, {"id": "t"}), "t")


@cause("TooBig")
def too_big(world: World) -> Set:
    job = world.job(world.pool(0, slots=2), {"id": "t", "requiredSlots": 2})
    small = world.pool(0)
    world.shell(f"batchyard job disable {job} && batchyard job update {job} --pool {small} && batchyard job enable {job}")
    world.pools.append(f"{small}-2")
    return ask(job, "t")


@cause("WantsDedicatedNode")
def dedicated_only(world: World) -> Set:
    manager = {"id": "m", "commandLine": "true", "allowLowPriorityNode": False, "runExclusive": False}
    return ask(world.job(world.pool(0, targetLowPriorityNodes=1), jobManagerTask=manager), "m")


@cause("WantsEmptyNode")
def exclusive(world: World) -> Set:
    go, pool = world.flag(), world.pool(slots=2)
    world.reached(world.job(pool, world.blocker("a", go)), "a", "running")
    return ask(world.job(pool, jobManagerTask={"id": "m", "commandLine": "true"}), "m", then=Path(go).touch)


@cause("NodesBusy")
def busy(world: World) -> Set:
    go, pool = world.flag(), world.pool()
    job = world.job(pool, world.blocker("a", go), {"id": "b"})
    world.reached(job, "a", "running")
    return ask(job, "b", then=Path(go).touch)


@cause("NotEnoughFree|NodeHeld")
def too_little_room(world: World) -> Set:
    go, pool = world.flag(), world.pool(slots=3)
    job = world.job(pool, world.blocker("a", go), {"id": "b", "requiredSlots": 3})
    world.reached(job, "a", "running")
    return ask(job, "b", then=Path(go).touch)


@cause("HigherPriority")
def behind(world: World) -> Set:
    go, never, pool = world.flag(), world.flag(), world.pool()
    world.reached(world.job(pool, world.blocker("a", go)), "a", "running")
    world.job(pool, world.blocker("a", never), priority=5)
    return ask(world.job(pool, {"id": "t"}), "t", then=Path(go).touch)


@cause("PreparationFailed")
def preparation(world: World) -> Set:
    failing = {"commandLine": FLAKY.format(world.flag(), 4)}
    job = world.job(world.pool(), {"id": "t"}, jobPreparationTask=failing)

    def failed() -> bool:
        return "PreparationFailed" in world.shell(f"batchyard explain task {job}/t")

    wait_for(failed, "the preparation task to fail")
    return ask(job, "t")


@cause("NoTasks")
def no_tasks(world: World) -> Set:
    job = world.job(world.pool())
    return Set(f"job {job}", job, "")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        directory = Path(place)
        directory.chmod(0o711)
        (directory / "server.toml").write_text(QUOTAS)
        server = Server("--config", str(directory / "server.toml"), "--chaos", nodes=16)
        try:
            yield World(server, directory)
        finally:
            server.stop()


@pytest.fixture
def made(world: World) -> Iterator[World]:
    """The world; the pools that a test made go with it."""
    yield world
    for pool in world.pools:
        if any(one["id"] == pool and one["state"] == "active" for one in world.batch.listed("pools")):
            world.batch.delete("pools", pool)
    world.pools.clear()


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_is_named_with_a_command_that_mends_it(made: World, name: str) -> None:
    found = CAUSES[name](made)
    codes = name.split()[0].split("|")
    told = made.shell(f"batchyard explain {found.asked}")
    lines = [line.lstrip("│├└─ ").rstrip() for line in told.splitlines()]
    at = next((number for number, line in enumerate(lines) if line.split("  ")[0] in codes), None)
    assert at is not None, told
    assert all(line.split("  ")[0] not in ("Ready", "Running") for line in lines[:at]), told
    command = next((line.removeprefix("run: ") for line in lines[at:] if line.startswith("run: ")), None)
    assert command is not None, told
    found.first()
    printed = made.shell(command.replace("COMMAND", "true"))
    found.then()
    task = found.task or re.findall(r"\S+", printed)[-1]
    ended = made.reached(found.job, task, "completed")
    assert ended["executionInfo"]["result"] == "success"


def test_there_are_twenty() -> None:
    assert len({name.split()[0] for name in CAUSES}) >= 20
