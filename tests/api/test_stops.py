"""Stops that the service itself begins are no task's failure, whatever its program makes of SIGTERM (contract 2.4, 3.4)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, sh, task, unique
from tests.conftest import Server, wait_for

from batchyard.agent.process import control

CHAOS = "/batchyard/chaos/nodes"
ADMIN = {"autoUser": {"elevationLevel": "admin"}}
PROGRAMS = {
    "sleep": "sleep 1000",
    "sh": sh("sleep 1000; exit 3"),
    "python": f"{sys.executable} -c 'import time; time.sleep(1000)'",
}
FATAL = {"default": {"jobAction": "terminate"}}


@pytest.fixture(scope="module")
def wild() -> Iterator[Server]:
    """A server that lets its nodes be disturbed."""
    running = Server("--chaos", nodes=2)
    yield running
    running.stop()


@pytest.fixture
def spot(wild: Server) -> Iterator[Yard]:
    """A pool with one spot node of four slots."""
    raw, pool_id = Raw(wild.endpoint, wild.account, wild.key), unique("spot")
    assert raw("POST", "/pools", pool_body(pool_id, targetLowPriorityNodes=1, taskSlotsPerNode=4)).status == 201
    made = Yard(raw, pool_id)
    yield made
    for job_id in made.jobs:
        raw("DELETE", f"/jobs/{job_id}")
    raw("DELETE", f"/pools/{pool_id}")
    made.gone(f"/pools/{pool_id}")


def node_of(yard: Yard) -> str:
    """Id of the pool's node."""

    def look() -> str | None:
        nodes = yard.get(f"/pools/{yard.pool_id}/nodes")["value"]
        return nodes[0]["id"] if nodes and nodes[0]["state"] in ("idle", "running") else None

    return wait_for(look, "the node to be ready")


def programs(yard: Yard) -> str:
    """Job whose first failure would be its end, with a task of every program, all of which run."""
    tasks = [
        {"id": name, "commandLine": line, "userIdentity": ADMIN, "exitConditions": FATAL, "constraints": {"maxTaskRetryCount": 0}}
        for name, line in PROGRAMS.items()
    ]
    job_id = yard.job(*tasks, onTaskFailure="performexitoptionsjobaction")
    for name in PROGRAMS:
        yard.reached(job_id, name, "running")
    return job_id


def processes_of(node_id: str) -> list[int]:
    """Pids of the programs that run on a node."""
    own = f"/{node_id}/root/workitems/".encode()
    found = []
    for pid in control.processes():
        variables = [each for each in control._environment(pid) if each.startswith(control.MARK.encode())]
        if any(own in each for each in variables):
            found.append(pid)
    return found


def reboot(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"/pools/{yard.pool_id}/nodes/{node_id}/reboot", {"nodeRebootOption": "requeue"}).status == 202


def reimage(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"/pools/{yard.pool_id}/nodes/{node_id}/reimage", {"nodeReimageOption": "requeue"}).status == 202


def deallocate(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"/pools/{yard.pool_id}/nodes/{node_id}/deallocate", {"nodeDeallocateOption": "requeue"}).status == 202


def drain(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    sent = {"nodeDisableSchedulingOption": "requeue"}
    assert yard.raw("POST", f"/pools/{yard.pool_id}/nodes/{node_id}/disablescheduling", sent).status == 200


def shrink(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    sent = {"targetLowPriorityNodes": 0, "targetDedicatedNodes": 0, "nodeDeallocationOption": "requeue"}
    assert yard.raw("POST", f"/pools/{yard.pool_id}/resize", sent).status == 202


def remove(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"/pools/{yard.pool_id}/removenodes", {"nodeList": [node_id]}).status == 202


def disable_job(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"/jobs/{job_id}/disable", {"disableTasks": "requeue"}).status == 202


def preempt(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"{CHAOS}/{node_id}", {"kind": "preempt", "seconds": 60}).status == 200


def preempt_at_once(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    assert yard.raw("POST", f"{CHAOS}/{node_id}", {"kind": "preempt", "seconds": 0}).status == 200


def stop_agent(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    os.kill(wild.agents()[node_id], signal.SIGTERM)


def shut_down(wild: Server, yard: Yard, node_id: str, job_id: str) -> None:
    """A machine that goes lets everything know, the agent first."""
    wait_for(lambda: len(processes_of(node_id)) >= len(PROGRAMS), "the programs")
    os.kill(wild.agents()[node_id], signal.SIGTERM)
    for pid in processes_of(node_id):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue


Stop = Callable[[Server, Yard, str, str], None]
UNCOUNTED: list[Stop] = [preempt, preempt_at_once, stop_agent, shut_down]
COUNTED: list[Stop] = [drain, shrink, remove, reboot, reimage, deallocate, disable_job]
"""What a client asked for with requeue counts as a requeue (contract 3.4), and as nothing else."""


@pytest.mark.parametrize("stop", [*UNCOUNTED, *COUNTED], ids=lambda stop: stop.__name__)
def test_a_stop_of_the_service_is_no_failure_of_a_task(wild: Server, spot: Yard, stop: Stop) -> None:
    node_id, job_id = node_of(spot), programs(spot)
    started = {name: spot.task(job_id, name)["executionInfo"]["startTime"] for name in PROGRAMS}
    stop(wild, spot, node_id, job_id)

    def stopped(name: str) -> Json | None:
        found = spot.task(job_id, name)
        again = found["executionInfo"].get("startTime") != started[name]
        return found if again or found["state"] != "running" else None

    for name in PROGRAMS:
        found = wait_for(lambda name=name: stopped(name), f"{name} to be stopped")  # type: ignore[misc]
        info = found["executionInfo"]
        assert found["state"] in ("active", "running"), (name, info)
        assert (info["retryCount"], info["requeueCount"]) == (0, int(stop in COUNTED)), name
        assert info.keys().isdisjoint({"failureInfo", "result", "lastRetryTime"}), name
    assert spot.get(f"/jobs/{job_id}")["state"] in ("active", "disabling", "disabled")


def test_a_task_that_exits_with_0_behind_the_notice_is_done(wild: Server, spot: Yard) -> None:
    node_id = node_of(spot)
    job_id = spot.job(task("saves", 'trap "echo saved; exit 0" TERM; echo ready; while :; do sleep 0.05; done'))
    path = f"/jobs/{job_id}/tasks/saves/files/stdout.txt"
    wait_for(lambda: spot.raw("GET", path).body == b"ready\n", "the task to be ready")
    preempt(wild, spot, node_id, job_id)
    info = spot.reached(job_id, "saves")["executionInfo"]
    assert (info["result"], info["exitCode"], info["retryCount"], info["requeueCount"]) == ("success", 0, 0, 0)


def test_a_preparation_task_that_gets_the_notice_has_not_failed(wild: Server, spot: Yard) -> None:
    node_id = node_of(spot)
    job_id = spot.job(task("waits"), jobPreparationTask={"commandLine": "sleep 1000"})
    spot.reached(job_id, "waits", "preparing")
    preempt(wild, spot, node_id, job_id)
    info = spot.reached(job_id, "waits", "active")["executionInfo"]
    assert (info["retryCount"], info["requeueCount"]) == (0, 0)
    assert spot.get(f"/jobs/{job_id}/jobpreparationandreleasetaskstatus")["value"] == []
    wait_for(lambda: spot.get(f"/pools/{spot.pool_id}/nodes/{node_id}")["state"] == "preempted", "the node to go")
