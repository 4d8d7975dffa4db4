"""Job schedules and auto pools over HTTP, through the newer SDK where it can ask: every field that may be set comes back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from azure.batch import models
from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError
from tests.api.conftest import Json, Later, Raw, Sdk, Still, Yard, machine, pages, pool_body, unique
from tests.conftest import Server, wait_for

HOUR = timedelta(hours=1)
MANAGER = {
    "id": "boss",
    "displayName": "The boss",
    "commandLine": "true",
    "environmentSettings": [{"name": "A", "value": "1"}],
    "constraints": {"maxWallClockTime": "PT1H", "retentionTime": "P1D", "maxTaskRetryCount": 2},
    "requiredSlots": 2,
    "killJobOnCompletion": False,
    "userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}},
    "runExclusive": False,
    "allowLowPriorityNode": False,
    "resourceFiles": [{"httpUrl": "http://127.0.0.1:1/x", "filePath": "x"}],
    "outputFiles": [
        {
            "filePattern": "*.txt",
            "destination": {"container": {"containerUrl": "http://127.0.0.1:1/c", "path": "p"}},
            "uploadOptions": {"uploadCondition": "tasksuccess"},
        }
    ],
}
EXTRA = {
    "environmentSettings": [{"name": "B", "value": "2"}],
    "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
}
SPECIFICATION: Json = {
    "priority": 7,
    "allowTaskPreemption": True,
    "maxParallelTasks": 3,
    "displayName": "Each job",
    "usesTaskDependencies": True,
    "onAllTasksComplete": "noaction",
    "onTaskFailure": "performexitoptionsjobaction",
    "constraints": {"maxWallClockTime": "PT2H", "maxTaskRetryCount": 1},
    "networkConfiguration": {"subnetId": "/subscriptions/x", "skipWithdrawFromVNet": True},
    "jobManagerTask": MANAGER,
    "jobPreparationTask": {
        "id": "before",
        "commandLine": "true",
        "constraints": {"maxWallClockTime": "PT1H", "retentionTime": "P1D", "maxTaskRetryCount": 2},
        "waitForSuccess": False,
        "rerunOnNodeRebootAfterSuccess": False,
        **EXTRA,
    },
    "jobReleaseTask": {"id": "after", "commandLine": "true", "maxWallClockTime": "PT5M", "retentionTime": "P2D", **EXTRA},
    "commonEnvironmentSettings": [{"name": "C", "value": "3"}],
    "metadata": [{"name": "of", "value": "a job"}],
    "poolInfo": {
        "autoPoolSpecification": {
            "autoPoolIdPrefix": "nightly",
            "poolLifetimeOption": "jobschedule",
            "keepAlive": False,
            "pool": {
                "displayName": "A pool",
                "virtualMachineConfiguration": {
                    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"},
                    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
                },
                "vmSize": "standard_d2s_v3",
                "taskSlotsPerNode": 2,
                "taskSchedulingPolicy": {"nodeFillType": "pack", "jobDefaultOrder": "creationtime"},
                "resizeTimeout": "PT20M",
                "enableAutoScale": True,
                "autoScaleFormula": "$TargetDedicatedNodes = 0;",
                "autoScaleEvaluationInterval": "PT10M",
                "enableInterNodeCommunication": True,
                "startTask": {
                    "commandLine": "true",
                    "maxTaskRetryCount": 1,
                    "waitForSuccess": False,
                    "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
                },
                "metadata": [{"name": "of", "value": "a pool"}],
            },
        }
    },
}


def wire(model: Any) -> Json:
    """A model of the SDK as it goes over the wire."""
    found: Json = model.as_dict()
    return found


@pytest.fixture(scope="module")
def moved() -> Iterator[Server]:
    """A server whose clock tests may move."""
    running = Server("--test-clock", nodes=1)
    try:
        yield running
    finally:
        running.stop()


def test_every_field_comes_back_through_the_newer_sdk(sdk: Sdk, raw: Raw) -> None:
    batch, name = sdk.client, unique("all")
    until = datetime(2090, 1, 1, 2, 3, 4, tzinfo=UTC)
    schedule = models.BatchJobScheduleConfiguration(
        do_not_run_until=until, do_not_run_after=until + 1000 * HOUR, start_window=timedelta(minutes=30), recurrence_interval=HOUR
    )
    spec = models.BatchJobSpecification(SPECIFICATION)
    note = [models.BatchMetadataItem(name="of", value="a schedule")]
    batch.create_job_schedule(
        models.BatchJobScheduleCreateOptions(id=name, display_name="Nightly", schedule=schedule, job_specification=spec, metadata=note)
    )
    read = batch.get_job_schedule(name)
    assert (read.id, read.display_name, read.state) == (name, "Nightly", "active")
    assert wire(read.job_specification) == SPECIFICATION
    assert [wire(item) for item in read.metadata or []] == [{"name": "of", "value": "a schedule"}]
    assert read.schedule is not None
    assert (read.schedule.do_not_run_until, read.schedule.do_not_run_after) == (until, until + 1000 * HOUR)
    assert (read.schedule.start_window, read.schedule.recurrence_interval) == (timedelta(minutes=30), HOUR)
    assert read.execution_info is not None
    assert (read.execution_info.next_run_time, read.execution_info.recent_job) == (until, None)
    assert read.url == f"{raw.endpoint}/jobschedules/{name}"
    assert (read.previous_state, read.creation_time) == (None, read.last_modified)
    batch.replace_job_schedule(name, read)  # as it was read, with durations as the SDK spells them
    again = batch.get_job_schedule(name)
    assert wire(again.job_specification) == SPECIFICATION
    assert again.etag != read.etag
    with pytest.raises(ResourceModifiedError):
        batch.disable_job_schedule(name, etag=read.etag, match_condition=MatchConditions.IfNotModified)
    batch.disable_job_schedule(name, etag=again.etag, match_condition=MatchConditions.IfNotModified)
    disabled = batch.get_job_schedule(name)
    assert disabled.last_modified == disabled.state_transition_time
    assert disabled.previous_state == "active"
    batch.begin_delete_job_schedule(name, polling_interval=0).wait()


def test_the_jobs_of_a_schedule_carry_all_of_the_specification(raw: Raw, yard: Yard) -> None:
    name = unique("carry")
    body = {"id": name, "schedule": {"recurrenceInterval": "PT1H"}, "jobSpecification": SPECIFICATION}
    assert raw("POST", "/jobschedules", body).status == 201
    job = yard.get(f"/jobs/{name}:job-1")
    assert job.items() >= SPECIFICATION.items()
    assert job["executionInfo"]["poolId"].startswith("nightly_")
    assert raw("GET", f"/jobs/{name}%3Ajob-1").json["id"] == f"{name}:job-1"
    assert yard.get(f"/pools/{job['executionInfo']['poolId']}").items() >= {"taskSlotsPerNode": 2, "enableAutoScale": True}.items()
    schedule = yard.get(f"/jobschedules/{name}")
    recent = schedule["executionInfo"]["recentJob"]
    assert recent == {"id": f"{name}:job-1", "url": f"{raw.endpoint}/jobs/{name}:job-1"}
    raw("DELETE", f"/jobschedules/{name}")
    yard.gone(f"/jobschedules/{name}")
    yard.gone(f"/jobs/{name}:job-1")
    yard.gone(f"/pools/{job['executionInfo']['poolId']}")


def test_lists_filters_selections_and_statistics(raw: Raw, yard: Yard) -> None:
    names = [unique("list") for _ in range(3)]
    spec = {
        "poolInfo": {"poolId": yard.pool_id},
        "onAllTasksComplete": "terminatejob",
        "jobManagerTask": {"id": "m", "commandLine": "true"},
    }
    for name in names:
        assert raw("POST", "/jobschedules", {"id": name, "schedule": {}, "jobSpecification": spec}).status == 201
    wait_for(lambda: yard.get(f"/jobschedules/{names[0]}")["state"] == "completed", "the schedule to be completed")
    seen = [item["id"] for page in pages(raw, "/jobschedules") for item in page]
    assert [name for name in seen if name in names] == names
    query = "$filter=startswith(id,'list-')%20and%20state%20eq%20'completed'&$select=id,state&$expand=stats"
    assert {"id": names[0], "state": "completed"} in raw("GET", "/jobschedules", query=query).json["value"]
    moment = "DateTime'2020-01-01T00:00:00Z'"
    ended = f"$filter=executionInfo/endTime%20gt%20{moment}%20and%20schedule/doNotRunUntil%20ne%20{moment}"
    assert names[0] in [item["id"] for item in raw("GET", "/jobschedules", query=ended).json["value"]]
    whole = raw("GET", f"/jobschedules/{names[0]}", query="$expand=stats").json
    assert (whole["stats"]["numSucceededTasks"], whole["stats"]["url"]) == ("1", whole["url"])
    assert whole["odata.metadata"].endswith("$metadata#jobschedules/@Element")
    jobs = raw("GET", f"/jobschedules/{names[0]}/jobs", query="$expand=stats&$filter=state%20eq%20'completed'").json
    [job] = jobs["value"]
    assert (job["id"], job["stats"]["numSucceededTasks"]) == (f"{names[0]}:job-1", "1")
    raw("GET", f"/jobschedules/{names[0]}/jobs", query="$filter=id%20eq%20'x'").assert_error(400, "InvalidQueryParameterValue")
    raw("GET", "/jobschedules", query="$select=nothing").assert_error(400, "InvalidQueryParameterValue")
    raw("GET", "/jobschedules/none-such/jobs").assert_error(404, "JobScheduleNotFound")
    for name in names:
        assert raw("DELETE", f"/jobschedules/{name}", query="force=true").status == 202


def test_bad_input_names_property_and_reason_and_changes_nothing(raw: Raw) -> None:
    name = unique("bad")
    spec = {"poolInfo": {"poolId": "none"}}
    for body, code, prop in (
        ({"id": name, "jobSpecification": spec}, "MissingRequiredProperty", "schedule"),
        ({"id": name, "schedule": {}}, "MissingRequiredProperty", "jobSpecification"),
        ({"id": name, "schedule": {"startWindow": "PT1S"}, "jobSpecification": spec}, "InvalidPropertyValue", "startWindow"),
        ({"id": name, "schedule": {"doNotRunUntil": "soon"}, "jobSpecification": spec}, "InvalidPropertyValue", "schedule.doNotRunUntil"),
        ({"id": f"{name}:job-1", "schedule": {}, "jobSpecification": spec}, "InvalidPropertyValue", "id"),
        ({"id": name, "schedule": {}, "jobSpecification": {}}, "MissingRequiredProperty", "jobSpecification.poolInfo"),
    ):
        raw("POST", "/jobschedules", body).assert_error(400, code, PropertyName=prop)
    raw("GET", f"/jobschedules/{name}").assert_error(404, "JobScheduleNotFound")
    raw("POST", "/jobs", {"id": f"{name}:job-1", **spec}).assert_error(400, "InvalidPropertyValue", PropertyName="id")


async def test_a_schedule_says_why_it_makes_no_job(still: Still) -> None:
    spec = {"poolInfo": {"poolId": "p"}}
    for name, schedule in (("now", {"recurrenceInterval": "PT1H"}), ("later", {"doNotRunUntil": "2090-01-01T00:00:00Z"})):
        assert (await still("POST", "/jobschedules", {"id": name, "schedule": schedule, "jobSpecification": spec})).status_code == 201

    async def codes(name: str) -> list[str]:
        found = (await still("GET", f"/batchyard/explain/jobschedules/{name}")).json()
        return [reason["code"] for reason in found["reasons"]]

    assert await codes("now") == ["ScheduleWaits"]
    assert await codes("later") == ["ScheduleWaits"]
    await still("POST", "/jobschedules/later/disable")
    assert await codes("later") == ["ScheduleDisabled"]
    await still("POST", "/jobschedules/now/terminate")
    assert await codes("now") == ["ScheduleTerminating"]
    assert (await still("GET", "/batchyard/explain/jobschedules/none")).status_code == 404


def test_a_job_that_is_due_at_once_exists_at_once_and_recurrences_are_exact_over_restarts(moved: Server) -> None:
    clock, name = Later(moved.endpoint, moved.account, moved.key), unique("exact")
    spec = {"poolInfo": {"poolId": "none"}, "onAllTasksComplete": "terminatejob"}
    assert clock("POST", "/jobschedules", {"id": name, "schedule": {"recurrenceInterval": "PT1H"}, "jobSpecification": spec}).status == 201
    first = clock("GET", f"/jobschedules/{name}").json
    assert first["executionInfo"]["recentJob"]["id"] == f"{name}:job-1"
    start = datetime.fromisoformat(first["creationTime"])
    for number in range(2, 101):
        _wait(clock, f"/jobs/{name}:job-{number - 1}", "state", "completed")
        if number % 20 == 0:  # a server that was killed forgets how far its clock was moved
            moved.kill()
            moved.start()
            clock = Later(moved.endpoint, moved.account, moved.key)
            clock.advance(f"PT{number - 2}H")
        clock.advance("PT1H")
        found = _wait(clock, f"/jobschedules/{name}", "recent", f"{name}:job-{number}")
        assert datetime.fromisoformat(found["executionInfo"]["nextRunTime"]) == start + number * HOUR
    jobs = clock("GET", f"/jobschedules/{name}/jobs").json["value"]
    assert [job["id"] for job in jobs] == [f"{name}:job-{n}" for n in range(1, 101)]
    assert all(timedelta() <= datetime.fromisoformat(job["creationTime"]) - start - n * HOUR < HOUR for n, job in enumerate(jobs))


def _wait(raw: Raw, path: str, name: str, value: str) -> Json:
    """The resource once a property of it, or the id of its recent job, is that."""

    def look() -> Json | None:
        found = raw("GET", path).json
        return found if (found["executionInfo"].get("recentJob", {}).get("id") if name == "recent" else found[name]) == value else None

    return wait_for(look, f"{path} to have {name} {value}")


def test_an_auto_pool_runs_its_job_and_is_gone_with_it(raw: Raw, yard: Yard) -> None:
    job_id = unique("own")
    pool = {**{name: value for name, value in pool_body("x").items() if name != "id"}, "targetDedicatedNodes": 1}
    spec = {"autoPoolSpecification": {"autoPoolIdPrefix": "mine", "poolLifetimeOption": "job", "pool": pool}}
    manager = {"id": "m", "commandLine": "/bin/sh -c 'echo $AZ_BATCH_POOL_ID'", "runExclusive": False}
    added = raw("POST", "/jobs", {"id": job_id, "poolInfo": spec, "jobManagerTask": manager})
    assert added.status == 201, added.body
    pool_id = yard.get(f"/jobs/{job_id}")["executionInfo"]["poolId"]
    assert yard.get(f"/pools/{pool_id}")["state"] == "active"
    job = yard.job_reached(job_id, "completed")
    assert job["executionInfo"]["terminateReason"] == "JMComplete"
    yard.gone(f"/pools/{pool_id}")
    raw("DELETE", f"/jobs/{job_id}")


def test_an_auto_pool_of_the_newer_sdk(sdk: Sdk) -> None:
    batch, job_id = sdk.client, unique("sdk")
    pool = models.BatchPoolSpecification(vm_size="standard_d2s_v3", virtual_machine_configuration=machine(), target_dedicated_nodes=0)
    own = models.BatchAutoPoolSpecification(pool_lifetime_option="job", pool=pool, keep_alive=False)
    batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(auto_pool_specification=own)))
    read = batch.get_job(job_id)
    read.priority = 5
    batch.replace_job(job_id, read)
    own.keep_alive = True
    batch.update_job(job_id, models.BatchJobUpdateOptions(pool_info=models.BatchPoolInfo(auto_pool_specification=own)))
    read = batch.get_job(job_id)
    assert read.pool_info.auto_pool_specification is not None
    assert (read.priority, read.pool_info.auto_pool_specification.keep_alive) == (5, True)
    assert read.execution_info is not None
    pool_id = read.execution_info.pool_id or ""
    batch.begin_delete_job(job_id, polling_interval=0).wait()
    assert batch.get_pool(pool_id).state == "active"
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()


def test_nothing_of_a_schedule_is_shown_that_was_a_secret(raw: Raw) -> None:
    name = unique("secret")
    spec: Json = msgspec.json.decode(msgspec.json.encode(SPECIFICATION))
    spec["poolInfo"]["autoPoolSpecification"]["pool"]["userAccounts"] = [{"name": "ann", "password": "hunter2hunter2"}]
    body = {"id": name, "schedule": {"doNotRunUntil": "2090-01-01T00:00:00Z"}, "jobSpecification": spec}
    assert raw("POST", "/jobschedules", body).status == 201
    assert b"hunter2" not in raw("GET", f"/jobschedules/{name}").body
    raw("DELETE", f"/jobschedules/{name}")
