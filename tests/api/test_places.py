"""Which node takes what, on real nodes: affinity, job managers and dedicated nodes, shrinking, pushing off; release tasks in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, sh, task, unique
from tests.conftest import wait_for

MANAGER = {"id": "boss", "commandLine": sh("sleep 300"), "killJobOnCompletion": False}
Make = Callable[..., Yard]


@pytest.fixture
def make(raw: Raw) -> Iterator[Make]:
    """Makes a pool of the test's own and waits for its nodes."""
    made: list[Yard] = []

    def pool(dedicated: int = 0, low_priority: int = 0, **more: object) -> Yard:
        pool_id = unique("places")
        body = pool_body(pool_id, targetDedicatedNodes=dedicated, targetLowPriorityNodes=low_priority, **more)
        assert raw("POST", "/pools", body).status == 201
        made.append(Yard(raw, pool_id))
        wait_for(lambda: [node["state"] for node in nodes(made[-1])] == ["idle"] * (dedicated + low_priority), "the nodes")
        return made[-1]

    yield pool
    for yard in made:
        for job_id in yard.jobs:
            raw("DELETE", f"/jobs/{job_id}", query="force=true")
        raw("DELETE", f"/pools/{yard.pool_id}")
        yard.gone(f"/pools/{yard.pool_id}")


def nodes(yard: Yard) -> list[Json]:
    found: list[Json] = yard.get(f"/pools/{yard.pool_id}/nodes")["value"]
    return found


def node_of(yard: Yard, job_id: str, task_id: str, state: str = "running") -> str:
    return str(yard.reached(job_id, task_id, state)["nodeInfo"]["nodeId"])


def test_a_task_goes_to_the_node_that_it_names_and_elsewhere_when_that_is_full(make: Make) -> None:
    yard = make(2)
    second = nodes(yard)[1]
    job_id = yard.job(task("there", "sleep 300", affinityInfo={"affinityId": second["affinityId"]}))
    assert node_of(yard, job_id, "there") == second["id"]
    yard.add(job_id, task("elsewhere", affinityInfo={"affinityId": second["affinityId"]}))
    assert node_of(yard, job_id, "elsewhere", "completed") == nodes(yard)[0]["id"]


def test_a_manager_that_takes_no_spot_node_waits_for_a_dedicated_one(make: Make) -> None:
    yard = make(0, 1)
    job_id = yard.job(jobManagerTask=MANAGER | {"allowLowPriorityNode": False})
    explained = yard.get(f"/batchyard/explain/jobs/{job_id}/tasks/boss")["reasons"][0]["code"]
    assert (explained, yard.task(job_id, "boss")["state"]) == ("WantsDedicatedNode", "active")
    assert yard.raw("POST", f"/pools/{yard.pool_id}/resize", {"targetDedicatedNodes": 1}).status == 202
    dedicated = {node["id"]: node["isDedicated"] for node in nodes(yard)}
    name = node_of(yard, job_id, "boss")
    assert {node["id"]: node["isDedicated"] for node in nodes(yard)}[name], dedicated


def test_the_node_of_a_manager_goes_last(make: Make) -> None:
    """Both nodes are busy, the manager's is the younger: without a manager that one would go."""
    yard = make(2)
    first, second = (node["id"] for node in nodes(yard))
    job_id = yard.job()
    yard.add(job_id, task("holder", "sleep 300", affinityInfo={"affinityId": f"TVM:{first}"}))
    assert node_of(yard, job_id, "holder") == first
    managed = yard.job(jobManagerTask=MANAGER)
    assert node_of(yard, managed, "boss") == second
    assert yard.raw("POST", f"/pools/{yard.pool_id}/resize", {"targetDedicatedNodes": 1}).status == 202
    yard.steady(yard.pool_id)
    assert [node["id"] for node in nodes(yard)] == [second]
    assert (yard.task(managed, "boss")["state"], yard.task(job_id, "holder")["state"]) == ("running", "active")


def test_a_restarted_manager_pushes_others_off(make: Make) -> None:
    yard = make(2)
    managed = yard.job(jobManagerTask=MANAGER)
    home = node_of(yard, managed, "boss")
    job_id = yard.job(task("holder", "sleep 300"))
    away = node_of(yard, job_id, "holder")
    assert (
        yard.raw("POST", f"/pools/{yard.pool_id}/nodes/{home}/disablescheduling", {"nodeDisableSchedulingOption": "requeue"}).status == 200
    )
    wait_for(lambda: yard.task(managed, "boss")["executionInfo"]["requeueCount"] == 1 or None, "the manager to be taken off")
    assert node_of(yard, managed, "boss") == away
    pushed = yard.reached(job_id, "holder", "active")
    assert pushed["executionInfo"]["requeueCount"] == 1


def test_a_release_task_ends_at_its_own_wall_clock(make: Make) -> None:
    yard = make(1)
    release = {"commandLine": sh("sleep 300"), "maxWallClockTime": "PT1S"}
    job_id = yard.job(task("a"), jobPreparationTask={"commandLine": sh("true")}, jobReleaseTask=release)
    yard.reached(job_id, "a")
    assert yard.raw("POST", f"/jobs/{job_id}/terminate").status == 202
    yard.job_reached(job_id, "completed")
    [item] = yard.get(f"/jobs/{job_id}/jobpreparationandreleasetaskstatus")["value"]
    info = item["jobReleaseTaskExecutionInfo"]
    assert (info["state"], info["result"], info["failureInfo"]["code"]) == ("completed", "failure", "TaskEnded")
