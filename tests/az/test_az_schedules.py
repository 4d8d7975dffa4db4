"""`az batch job-schedule`, unmodified, and a job with a pool of its own from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = [pytest.mark.az, pytest.mark.timeout(120)]

MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}


class Done(Protocol):
    """How a command ended."""

    code: int
    out: str
    err: str


class Az(Protocol):
    """What these tests need of the fixture `az`."""

    def __call__(self, *words: str | Path) -> Any: ...
    def run(self, *words: str | Path) -> Done: ...
    def until(self, wanted: object, *words: str) -> None: ...


def test_every_command_of_job_schedules(az: Az) -> None:
    name = ("--job-schedule-id", "az-plan")
    times = ("--start-window", "PT30M", "--recurrence-interval", "PT1H", "--do-not-run-after", "2090-01-01T00:00:00Z")
    manager = ("--job-manager-task-id", "boss", "--job-manager-task-command-line", "true", "--priority", "5")
    az("job-schedule", "create", "--id", "az-plan", "--pool-id", "none", *times, *manager, "--metadata", "team=az")
    shown = az("job-schedule", "show", *name)
    assert (shown["state"], shown["executionInfo"]["recentJob"]["id"]) == ("active", "az-plan:job-1")
    assert shown["jobSpecification"]["priority"] == 5
    assert shown["jobSpecification"]["jobManagerTask"]["killJobOnCompletion"] is True
    assert shown["metadata"] == [{"name": "team", "value": "az"}]
    assert [job["id"] for job in az("job", "list", "--job-schedule-id", "az-plan")] == ["az-plan:job-1"]
    assert "az-plan" in [item["id"] for item in az("job-schedule", "list", "--filter", "state eq 'active'")]
    az("job-schedule", "set", *name, "--recurrence-interval", "PT2H", "--pool-id", "none", "--priority", "6")
    assert az("job-schedule", "show", *name)["jobSpecification"]["priority"] == 6
    az("job-schedule", "reset", *name, "--pool-id", "none", "--recurrence-interval", "PT3H")
    assert "metadata" not in {key for key, value in az("job-schedule", "show", *name).items() if value}
    az("job-schedule", "disable", *name)
    again = az.run("job-schedule", "disable", *name)
    assert again.code == 1
    assert "JobScheduleDisabled" in again.err
    az("job-schedule", "enable", *name)
    az("job-schedule", "stop", *name)
    az.until("completed", "job-schedule", "show", *name, "--query", "state")
    az("job-schedule", "delete", *name, "--yes")
    assert az.run("job-schedule", "show", *name).code == 3


def test_a_job_with_a_pool_of_its_own(az: Az, tmp_path: Path) -> None:
    pool = {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE, "targetDedicatedNodes": 0}
    own = {"poolLifetimeOption": "job", "autoPoolIdPrefix": "az", "pool": pool}
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"id": "az-own", "poolInfo": {"autoPoolSpecification": own}}))
    az("job", "create", "--json-file", file)
    pool_id = az("job", "show", "--job-id", "az-own")["executionInfo"]["poolId"]
    assert az("pool", "show", "--pool-id", pool_id)["state"] == "active"
    az("job", "delete", "--job-id", "az-own", "--yes")
    az.until(False, "job", "list", "--query", "contains([].id, 'az-own')")
    az.until(False, "pool", "list", "--query", f"contains([].id, '{pool_id}')")
