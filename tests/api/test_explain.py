"""The explain reads over raw signed HTTP."""

from __future__ import annotations

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, task, unique
from tests.conftest import wait_for

EXPLAIN = "/batchyard/explain"


def test_a_chain_of_tasks(yard: Yard) -> None:
    job_id = yard.job(
        task("a", "exit 3"), task("b", dependsOn={"taskIds": ["a"]}), task("c", dependsOn={"taskIds": ["b"]}), usesTaskDependencies=True
    )
    yard.reached(job_id, "a")
    found = yard.get(f"{EXPLAIN}/jobs/{job_id}/tasks/c")
    assert found["odata.metadata"].endswith("/$metadata#explanations/@Element")
    assert (found["kind"], found["id"], found["state"], found["jobId"]) == ("task", "c", "active", job_id)
    [reason] = found["reasons"]
    assert (reason["code"], reason["taskId"]) == ("WaitsForTask", "b")
    [blocked] = reason["because"]
    assert (blocked["code"], blocked["taskId"]) == ("BlockedByFailure", "a")
    assert "task a, which failed with exit code 3" in blocked["sentence"]
    assert blocked["action"].endswith(".")
    assert yard.get(f"{EXPLAIN}/jobs/{job_id}/tasks/a")["reasons"][0]["code"] == "Failed"


def test_a_job_and_the_pool_that_it_lacks(raw: Raw, yard: Yard) -> None:
    job_id, pool_id = unique("job"), unique("pool")
    yard.jobs.append(job_id)
    assert raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}}).status == 201
    yard.add(job_id, task("a"), task("b"))
    found = yard.get(f"{EXPLAIN}/jobs/{job_id}")
    assert [reason["code"] for reason in found["reasons"]] == ["PoolNotFound"]
    assert [(group["code"], group["tasks"], group["example"]) for group in found["groups"]] == [("PoolNotFound", 2, "a")]
    assert raw("POST", "/pools", pool_body(pool_id)).status == 201

    def empty() -> Json | None:
        pool = yard.get(f"{EXPLAIN}/pools/{pool_id}")
        return pool if pool["reasons"][0]["code"] == "PoolEmpty" else None

    assert wait_for(empty, "the pool to be empty")["waiting"] == 2
    assert yard.get(f"{EXPLAIN}/jobs/{job_id}/tasks/A")["reasons"][0]["code"] == "PoolEmpty"
    raw("DELETE", f"/pools/{pool_id}")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("jobs/none", "JobNotFound"),
        ("jobs/none/tasks/a", "JobNotFound"),
        ("pools/none", "PoolNotFound"),
        ("pools/none/nodes/none", "PoolNotFound"),
    ],
)
def test_what_is_not_there(raw: Raw, path: str, error: str) -> None:
    raw("GET", f"{EXPLAIN}/{path}").assert_error(404, error)


def test_a_task_that_is_not_there(raw: Raw, yard: Yard) -> None:
    raw("GET", f"{EXPLAIN}/jobs/{yard.job()}/tasks/none").assert_error(404, "TaskNotFound")


def test_a_node(yard: Yard, raw: Raw) -> None:
    pool_id = yard.pool_id
    node = yard.get(f"/pools/{pool_id}/nodes")["value"][0]["id"]
    found = yard.get(f"{EXPLAIN}/pools/{pool_id}/nodes/{node.upper()}")
    assert (found["kind"], found["id"], found["poolId"]) == ("node", node, pool_id)
    [reason] = found["reasons"]
    assert (reason["code"], reason["nodeId"]) == ("NodeWorks", node)
    assert reason["look"] == f"batchyard node show {pool_id}/{node}"
    raw("GET", f"{EXPLAIN}/pools/{pool_id}/nodes/none").assert_error(404, "NodeNotFound")


def test_nobody_asks_without_a_signature(raw: Raw) -> None:
    raw("GET", f"{EXPLAIN}/pools/x", headers={"authorization": "SharedKey x:y"}).assert_error(403, "AuthenticationFailed")
