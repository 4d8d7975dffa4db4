"""Jobs: defaults, what is refused, changes, ends and counts (contract 1.7, 2.3, 3.9, 9.2, A.2)."""

from __future__ import annotations

import pytest
from azure.batch import BatchClient, models
from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from tests.api.conftest import Json, Raw, Sdk, Yard, pages, task, unique
from tests.conftest import wait_for

from batchyard.model import times

INFINITE = "P10675199DT2H48M5.4775807S"


def add(raw: Raw, **more: object) -> str:
    """A job whose pool does not exist, so that its tasks stay active."""
    job_id = unique("job")
    answer = raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}, **more})
    assert answer.status == 201, answer.body
    return job_id


def get(raw: Raw, job_id: str) -> Json:
    return raw("GET", f"/jobs/{job_id}").json


def test_a_new_job_has_all_defaults(raw: Raw) -> None:
    job_id = add(raw)
    answer = raw("GET", f"/jobs/{job_id}")
    job = answer.json
    at = job["creationTime"]
    assert job == {
        "odata.metadata": f"{raw.endpoint}/$metadata#jobs/@Element",
        "id": job_id,
        "url": f"{raw.endpoint}/jobs/{job_id}",
        "eTag": answer.headers["etag"],
        "lastModified": at,
        "creationTime": at,
        "state": "active",
        "stateTransitionTime": at,
        "priority": 0,
        "maxParallelTasks": -1,
        "allowTaskPreemption": False,
        "usesTaskDependencies": False,
        "constraints": {"maxWallClockTime": INFINITE, "maxTaskRetryCount": 0},
        "poolInfo": {"poolId": "none"},
        "executionInfo": {"startTime": at, "poolId": "none"},
        "onAllTasksComplete": "noaction",
        "onTaskFailure": "noaction",
    }
    assert answer.headers["last-modified"] == times.http_date(times.from_iso(at))
    assert int(job["eTag"], 16) == times.from_iso(at) * 10 + 621_355_968_000_000_000


def test_numbers_in_quotes_and_durations_as_clients_write_them(raw: Raw) -> None:
    for sent, served in {
        "PT01H00M00S": "PT1H",
        "P": "PT0S",
        "P0D": "PT0S",
        "P1DT01H00M00.5S": "P1DT1H0.5S",
        "P1000000000D": INFINITE,
        "P999999999DT23H59M59.999999S": INFINITE,
        "P10675199DT02H48M05.477539S": INFINITE,
        "P10675199DT2H48M5.477581S": INFINITE,
        "P3Y6M4DT12H30M5S": "P1279DT12H30M5S",
    }.items():
        constraints = {"maxWallClockTime": sent, "maxTaskRetryCount": "2"}
        job = get(raw, add(raw, priority="5", maxParallelTasks="10", constraints=constraints))
        assert (job["priority"], job["maxParallelTasks"]) == (5, 10)
        assert job["constraints"] == {"maxWallClockTime": served, "maxTaskRetryCount": 2}, sent


def test_enumerations_in_any_case(raw: Raw) -> None:
    job = get(raw, add(raw, onTaskFailure="performExitOptionsJobAction", onAllTasksComplete="NoAction"))
    assert (job["onTaskFailure"], job["onAllTasksComplete"]) == ("performexitoptionsjobaction", "noaction")


def test_ids_are_compared_without_case_and_kept_with_it(raw: Raw) -> None:
    job_id = unique("MiXed")
    raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}})
    assert get(raw, job_id.lower())["id"] == job_id
    raw("POST", "/jobs", {"id": job_id.upper(), "poolInfo": {"poolId": "none"}}).assert_error(409, "JobExists")
    raw("POST", f"/jobs/{job_id.upper()}/tasks", task("Tt"))
    assert raw("GET", f"/jobs/{job_id.lower()}/tasks/tT").json["url"] == f"{raw.endpoint}/jobs/{job_id}/tasks/Tt"


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ({"id": "a:b"}, "InvalidPropertyValue", "id"),
        ({"id": None}, "InvalidRequestBody", "id"),
        ({"priority": 1001}, "InvalidPropertyValue", "priority"),
        ({"priority": "-1001"}, "InvalidPropertyValue", "priority"),
        ({"priority": "high"}, "InvalidRequestBody", "priority"),
        ({"maxParallelTasks": 0}, "InvalidPropertyValue", "maxParallelTasks"),
        ({"maxParallelTasks": -2}, "InvalidPropertyValue", "maxParallelTasks"),
        ({"maxParallelTasks": 2**31}, "InvalidPropertyValue", "maxParallelTasks"),
        ({"maxParallelTasks": 10**30}, "InvalidPropertyValue", "maxParallelTasks"),
        ({"constraints": {"maxTaskRetryCount": -2}}, "InvalidPropertyValue", "maxTaskRetryCount"),
        ({"constraints": {"maxWallClockTime": "1:00:00"}}, "InvalidPropertyValue", "constraints.maxWallClockTime"),
        ({"constraints": []}, "InvalidRequestBody", "constraints"),
        ({"poolInfo": {}}, "InvalidPropertyValue", "poolInfo"),
        ({"poolInfo": {"poolId": "no blanks"}}, "InvalidPropertyValue", "poolId"),
        ({"poolInfo": "none"}, "InvalidRequestBody", "poolInfo"),
        ({"onAllTasksComplete": "celebrate"}, "InvalidPropertyValue", "onAllTasksComplete"),
        ({"commonEnvironmentSettings": [{"name": "a=b"}]}, "InvalidPropertyValue", "environmentSettings"),
        ({"colour": "red"}, "InvalidRequestBody", "colour"),
    ],
)
def test_what_is_refused_names_property_and_reason(raw: Raw, change: Json, code: str, name: str) -> None:
    job_id = unique("job")
    values = raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}} | change).assert_error(400, code)
    assert values["PropertyName"] == name
    assert values["Reason"]
    raw("GET", f"/jobs/{job_id}").assert_error(404, "JobNotFound")


class TestPatch:
    """PATCH replaces what it names and keeps the rest."""

    def test_what_is_named_changes_and_the_tag_moves(self, raw: Raw) -> None:
        job_id = add(raw, metadata=[{"name": "a", "value": "1"}], constraints={"maxWallClockTime": "PT1H", "maxTaskRetryCount": 3})
        before = get(raw, job_id)
        answer = raw("PATCH", f"/jobs/{job_id}", {"priority": "-7", "constraints": {"maxWallClockTime": "PT02H00M00S"}})
        assert (answer.status, answer.body) == (200, b"")
        after = get(raw, job_id)
        assert answer.headers["dataserviceid"] == f"{raw.endpoint}/jobs/{job_id}"
        assert after["eTag"] == answer.headers["etag"] != before["eTag"]
        assert after["lastModified"] > before["lastModified"]
        changed = {"eTag", "lastModified", "priority", "constraints"}
        assert {name for name in after if after[name] != before.get(name)} == changed
        assert (after["priority"], after["constraints"]) == (-7, {"maxWallClockTime": "PT2H", "maxTaskRetryCount": 0})

    @pytest.mark.parametrize(
        ("change", "code", "name"),
        [
            ({"priority": 5000}, "InvalidPropertyValue", "priority"),
            ({"maxParallelTasks": 0}, "InvalidPropertyValue", "maxParallelTasks"),
            ({"usesTaskDependencies": True}, "InvalidRequestBody", "usesTaskDependencies"),
            ({"displayName": "x"}, "InvalidRequestBody", "displayName"),
            ({"metadata": "x"}, "InvalidRequestBody", "metadata"),
        ],
    )
    def test_what_is_refused_changes_nothing(self, raw: Raw, change: Json, code: str, name: str) -> None:
        job_id = add(raw)
        before = get(raw, job_id)
        raw("PATCH", f"/jobs/{job_id}", change).assert_error(400, code, PropertyName=name)
        assert get(raw, job_id) == before

    def test_the_pool_of_an_active_job(self, raw: Raw) -> None:
        job_id = add(raw)
        assert raw("PATCH", f"/jobs/{job_id}", {"poolInfo": {"poolId": "NONE"}}).status == 200
        raw("PATCH", f"/jobs/{job_id}", {"poolInfo": {"poolId": "other"}}).assert_error(409, "OperationInvalidForCurrentState")

    def test_conditions(self, raw: Raw, batch: BatchClient) -> None:
        job_id = add(raw)
        tag = get(raw, job_id)["eTag"]
        raw("PATCH", f"/jobs/{job_id}", {"priority": 1}, headers={"If-Match": "0x1"}).assert_error(412, "ConditionNotMet")
        assert raw("PATCH", f"/jobs/{job_id}", {"priority": 2}, headers={"If-Match": f'"{tag}"'}).status == 200
        change = models.BatchJobUpdateOptions(priority=3)
        with pytest.raises(ResourceModifiedError):
            batch.update_job(job_id, change, etag=tag, match_condition=MatchConditions.IfNotModified)
        raw("POST", f"/jobs/{job_id}/terminate", headers={"If-Match": tag}).assert_error(412, "ConditionNotMet")
        raw("DELETE", f"/jobs/{job_id}", headers={"If-Match": tag}).assert_error(412, "ConditionNotMet")
        assert raw("GET", f"/jobs/{job_id}", headers={"If-None-Match": tag}).status == 200
        assert raw("GET", f"/jobs/{job_id}", headers={"If-None-Match": get(raw, job_id)["eTag"]}).status == 304
        assert (get(raw, job_id)["priority"], get(raw, job_id)["state"]) == (2, "active")


class TestEnds:
    """Terminating, deleting, and ending when all tasks are complete."""

    def test_terminate(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("running", "sleep 300"))
        yard.reached(job_id, "running", "running")
        yard.add(job_id, task("waiting", requiredSlots=4))
        waiting = yard.task(job_id, "waiting")
        before = yard.get(f"/jobs/{job_id}")
        answer = raw("POST", f"/jobs/{job_id}/terminate", {"terminateReason": "enough"})
        assert (answer.status, answer.body) == (202, b"")
        assert answer.headers["etag"] != before["eTag"]
        job = yard.job_reached(job_id, "completed")
        assert job["previousState"] == "terminating"
        assert job["eTag"] == answer.headers["etag"]
        assert job["executionInfo"]["terminateReason"] == "enough"
        assert job["executionInfo"]["endTime"] == job["stateTransitionTime"]
        ended = yard.task(job_id, "running")
        assert (ended["state"], ended["previousState"]) == ("completed", "running")
        assert ended["executionInfo"]["failureInfo"]["code"] == "TaskEnded"
        assert ended["executionInfo"]["result"] == "failure"
        assert yard.task(job_id, "waiting") == waiting, "a waiting task stays active for ever"

    @pytest.mark.parametrize("body", [None, b"", b"{}", {}])
    def test_terminate_without_a_reason(self, raw: Raw, yard: Yard, body: object) -> None:
        job_id = yard.job()
        assert raw("POST", f"/jobs/{job_id}/terminate", body).status == 202
        assert yard.job_reached(job_id, "completed")["executionInfo"]["terminateReason"] == "UserTerminate"

    def test_force_is_known(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job()
        assert raw("POST", f"/jobs/{job_id}/terminate", {}, query="force=true").status == 202
        assert raw("DELETE", f"/jobs/{job_id}", query="force=true").status == 202
        yard.gone(f"/jobs/{job_id}")

    def test_delete_with_a_running_task(self, raw: Raw, yard: Yard, node_id: str) -> None:
        job_id = yard.job(task("t", "sleep 300"))
        yard.reached(job_id, "t", "running")
        assert raw("DELETE", f"/jobs/{job_id}").status == 202
        yard.gone(f"/jobs/{job_id}")
        raw("GET", f"/jobs/{job_id}/tasks/t").assert_error(404, "JobNotFound")
        node = f"/pools/{yard.pool_id}/nodes/{node_id}"
        path = f"{node}/files/workitems%2F{job_id}"
        wait_for(lambda: raw("HEAD", path + "%2Fjob-1").status == 404, "the job's files to be removed")
        wait_for(lambda: yard.get(node)["runningTasksCount"] == 0, "the node to be idle")
        assert raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}}).status == 201, "the id is free again"

    def test_an_empty_job_that_ends_when_complete(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(onAllTasksComplete="terminatejob")
        assert yard.job_reached(job_id, "completed")["executionInfo"]["terminateReason"] == "AllTasksComplete"

    def test_the_usual_pattern(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("a"), task("b", "exit 1"))
        assert raw("PATCH", f"/jobs/{job_id}", {"onAllTasksComplete": "terminatejob"}).status == 200
        job = yard.job_reached(job_id, "completed")
        assert job["executionInfo"]["terminateReason"] == "AllTasksComplete"
        counts = yard.get(f"/jobs/{job_id}/taskcounts")["taskCounts"]
        assert counts == {"active": 0, "running": 0, "completed": 2, "succeeded": 1, "failed": 1}

    def test_it_cannot_be_taken_back(self, raw: Raw) -> None:
        job_id = add(raw)
        raw("POST", f"/jobs/{job_id}/tasks", task("t"))
        assert raw("PATCH", f"/jobs/{job_id}", {"onAllTasksComplete": "terminatejob"}).status == 200
        raw("PATCH", f"/jobs/{job_id}", {"onAllTasksComplete": "noaction"}).assert_error(
            400, "InvalidPropertyValue", PropertyName="onAllTasksComplete"
        )
        assert get(raw, job_id)["onAllTasksComplete"] == "terminatejob"

    def test_a_spent_wall_clock(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(constraints={"maxWallClockTime": "P"})
        raw("POST", f"/jobs/{yard.job()}/terminate")  # has upkeep look at once
        assert yard.job_reached(job_id, "completed")["executionInfo"]["terminateReason"] == "MaxWallClockTimeExpiry"

    def test_an_unknown_job(self, raw: Raw) -> None:
        path = f"/jobs/{unique()}"
        reading = [(method, rest, None) for method, rest in [("GET", ""), ("GET", "/taskcounts"), ("GET", "/tasks"), ("GET", "/tasks/t")]]
        changing = [("PATCH", "", {}), ("POST", "/tasks", task("t")), ("POST", "/addtaskcollection", {"value": [task("t")]})]
        ending = [("DELETE", "", None), ("POST", "/terminate", None), ("DELETE", "/tasks/t", None), ("POST", "/tasks/t/terminate", None)]
        for method, rest, body in (*reading, *changing, *ending, ("GET", "/tasks/t/files", None)):
            raw(method, path + rest, body).assert_error(404, "JobNotFound")


def test_counts_of_tasks_and_slots(raw: Raw, yard: Yard) -> None:
    job_id = yard.job(task("good"), task("bad", "exit 3", requiredSlots=2))
    yard.reached(job_id, "good")
    yard.reached(job_id, "bad")
    yard.add(job_id, task("runs", "sleep 300", requiredSlots=3))
    yard.reached(job_id, "runs", "running")
    yard.add(job_id, task("waits", requiredSlots=4))
    answer = yard.get(f"/jobs/{job_id}/taskcounts")
    assert answer == {
        "odata.metadata": f"{raw.endpoint}/$metadata#taskcountsresult/@Element",
        "taskCounts": {"active": 1, "running": 1, "completed": 2, "succeeded": 1, "failed": 1},
        "taskSlotCounts": {"active": 4, "running": 3, "completed": 3, "succeeded": 1, "failed": 2},
    }
    for task_id in ("good", "runs", "waits"):
        assert raw("DELETE", f"/jobs/{job_id}/tasks/{task_id}").status == 200
    answer = yard.get(f"/jobs/{job_id}/taskcounts")
    assert answer["taskCounts"] == {"active": 0, "running": 0, "completed": 1, "succeeded": 0, "failed": 1}
    assert answer["taskSlotCounts"] == {"active": 0, "running": 0, "completed": 2, "succeeded": 0, "failed": 2}


def test_pages(raw: Raw, sdk: Sdk) -> None:
    ids = [add(raw) for _ in range(3)]
    found = pages(raw, "/jobs")
    assert all(len(page) == 2 for page in found[:-1])
    seen = [job["id"] for page in found for job in page]
    assert [job_id for job_id in seen if job_id in ids] == ids
    assert len(seen) == len(set(seen))
    assert {job.id for job in sdk.client.list_jobs(max_results=2)} >= set(ids)


def test_a_job_of_the_newer_sdk(sdk: Sdk, raw: Raw) -> None:
    job = models.BatchJobCreateOptions(
        id=unique("job"),
        pool_info=models.BatchPoolInfo(pool_id="none"),
        uses_task_dependencies=True,
        common_environment_settings=[models.EnvironmentSetting(name="a", value="ü")],
        constraints=models.BatchJobConstraints(max_task_retry_count=-1),
    )
    sdk.client.create_job(job)
    assert sdk.last.status == 201
    read = sdk.client.get_job(job.id)
    assert read.common_environment_settings is not None
    assert (read.common_environment_settings[0].value, read.uses_task_dependencies) == ("ü", True)
    assert read.constraints is not None
    assert read.constraints.max_task_retry_count == -1
    assert (read.state, read.etag) == (models.BatchJobState.ACTIVE, get(raw, job.id)["eTag"])
    with pytest.raises(ResourceExistsError):
        sdk.client.create_job(job)
    with pytest.raises(ResourceNotFoundError):
        sdk.client.get_job(unique())
