"""The directory that a task left on an earlier node goes with the task, on real nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.api.conftest import Raw, Yard, pool_body, unique
from tests.conftest import Server, wait_for


def below(server: Server, node_id: str) -> Path:
    return server.directory / "nodes" / node_id / "root" / "workitems"


def delete_task(yard: Yard, job_id: str) -> None:
    assert yard.raw("DELETE", f"/jobs/{job_id}/tasks/moves").status == 200


def delete_job(yard: Yard, job_id: str) -> None:
    assert yard.raw("DELETE", f"/jobs/{job_id}").status == 202


def expire(yard: Yard, job_id: str) -> None:
    sent = {"constraints": {"retentionTime": "PT0S"}}
    assert yard.raw("PUT", f"/jobs/{job_id}/tasks/moves", sent).status == 200
    assert yard.raw("POST", f"/jobs/{job_id}/tasks/moves/terminate").status == 204


@pytest.mark.parametrize("end", [delete_task, delete_job, expire], ids=lambda end: end.__name__)
def test_a_task_that_moved_leaves_nothing_on_either_node(server: Server, raw: Raw, end: Callable[[Yard, str], None]) -> None:
    pool_id = unique("moves")
    assert raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=2)).status == 201
    yard = Yard(raw, pool_id)
    try:
        job_id = yard.job({"id": "moves", "commandLine": "sleep 1000"})

        def runs_on(other_than: str = "") -> str | None:
            found = yard.task(job_id, "moves")
            node_id: str = found.get("nodeInfo", {}).get("nodeId", "")
            there = found["state"] == "running" and node_id != other_than
            return node_id if there and (below(server, node_id) / job_id / "job-1" / "moves" / "stdout.txt").exists() else None

        first = wait_for(runs_on, "the task to run")
        assert yard.raw("POST", f"/pools/{pool_id}/nodes/{first}/disablescheduling", {}).status == 200
        second = wait_for(lambda: runs_on(first), "the task to run on the other node")
        assert (below(server, first) / job_id / "job-1" / "moves").exists()
        end(yard, job_id)
        for node_id in (first, second):
            gone = below(server, node_id) / job_id / "job-1" / "moves"
            wait_for(lambda gone=gone: not gone.exists(), f"{gone} to be removed")  # type: ignore[misc]
    finally:
        raw("DELETE", f"/jobs/{job_id}")
        raw("DELETE", f"/pools/{pool_id}")
        yard.gone(f"/pools/{pool_id}")
