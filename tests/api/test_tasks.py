"""Tasks: defaults, collections, retries, exit conditions, dependencies, ends (contract 2.4, 3.4, 3.7, 3.8, 9.1, A.3)."""

from __future__ import annotations

from typing import Any

import pytest
from azure.batch import BatchClient, models
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from tests.api.conftest import Json, Raw, Sdk, Yard, pages, task, unique
from tests.conftest import wait_for

from batchyard.model import times

INFINITE = "P10675199DT2H48M5.4775807S"


@pytest.fixture
def idle_job(raw: Raw) -> str:
    """A job whose tasks stay active, because its pool does not exist."""
    return a_job(raw)


def a_job(raw: Raw, **more: object) -> str:
    job_id = unique("job")
    answer = raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}, **more})
    assert answer.status == 201, answer.body
    return job_id


def ids(raw: Raw, job_id: str) -> list[str]:
    """Ids of a job's tasks."""
    return [item["id"] for item in raw("GET", f"/jobs/{job_id}/tasks").json["value"]]


def collection(raw: Raw, job_id: str, tasks: list[Any]) -> list[Json]:
    """The results of an addtaskcollection that is answered with 200."""
    answer = raw("POST", f"/jobs/{job_id}/addtaskcollection", {"value": tasks})
    assert answer.status == 200, answer.body
    found: list[Json] = answer.json["value"]
    assert len(found) == len(tasks)
    return found


class TestBody:
    """What a task looks like."""

    def test_a_new_task_has_all_defaults(self, raw: Raw) -> None:
        job_id = a_job(raw, constraints={"maxTaskRetryCount": 3})
        added = raw("POST", f"/jobs/{job_id}/tasks", {"id": "T1", "commandLine": "true"})
        assert (added.status, added.body) == (201, b"")
        url = f"{raw.endpoint}/jobs/{job_id}/tasks/T1"
        assert added.headers["location"] == added.headers["dataserviceid"] == url
        answer = raw("GET", f"/jobs/{job_id}/tasks/t1")
        at = answer.json["creationTime"]
        assert answer.json == {
            "odata.metadata": f"{raw.endpoint}/$metadata#tasks/@Element",
            "id": "T1",
            "url": url,
            "eTag": added.headers["etag"],
            "lastModified": at,
            "creationTime": at,
            "state": "active",
            "stateTransitionTime": at,
            "commandLine": "true",
            "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
            "constraints": {"maxWallClockTime": INFINITE, "retentionTime": "P7D", "maxTaskRetryCount": 3},
            "requiredSlots": 1,
            "executionInfo": {"retryCount": 0, "requeueCount": 0},
        }
        assert answer.headers["etag"] == added.headers["etag"]
        assert answer.headers["dataserviceid"] == url
        assert int(answer.headers["etag"], 16) == times.from_iso(at) * 10 + 621_355_968_000_000_000

    def test_what_is_given_comes_back(self, raw: Raw) -> None:
        job_id = a_job(raw, usesTaskDependencies=True, onTaskFailure="performexitoptionsjobaction")
        given: Json = {
            "id": "t",
            "commandLine": 'a "b c" ü',
            "displayName": "Höf ✓",
            "environmentSettings": [{"name": "a", "value": "b"}, {"name": "empty"}],
            "resourceFiles": [{"httpUrl": "http://127.0.0.1/x", "filePath": "d/x", "fileMode": "0770"}],
            "outputFiles": [
                {
                    "filePattern": "**/*.txt",
                    "destination": {"container": {"containerUrl": "http://127.0.0.1/c", "path": "p"}},
                    "uploadOptions": {"uploadCondition": "taskcompletion"},
                }
            ],
            "affinityInfo": {"affinityId": "TVM:x"},
            "dependsOn": {"taskIds": ["a"], "taskIdRanges": [{"start": 1, "end": 5}]},
            "exitConditions": {
                "exitCodes": [{"code": 3, "exitOptions": {"jobAction": "none", "dependencyAction": "satisfy"}}],
                "exitCodeRanges": [{"start": 4, "end": 9, "exitOptions": {"jobAction": "terminate"}}],
                "default": {"dependencyAction": "block"},
            },
            "userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "admin"}},
            "requiredSlots": 2,
        }
        assert raw("POST", f"/jobs/{job_id}/tasks", given).status == 201
        served = raw("GET", f"/jobs/{job_id}/tasks/t").json
        assert {name: served[name] for name in given} == given

    def test_numbers_in_quotes_and_durations_as_clients_write_them(self, raw: Raw, idle_job: str) -> None:
        constraints = {"maxTaskRetryCount": "2", "maxWallClockTime": "PT01H00M00S", "retentionTime": "P"}
        assert raw("POST", f"/jobs/{idle_job}/tasks", task("t", requiredSlots="3", constraints=constraints)).status == 201
        served = raw("GET", f"/jobs/{idle_job}/tasks/t").json
        assert served["requiredSlots"] == 3
        assert served["constraints"] == {"maxTaskRetryCount": 2, "maxWallClockTime": "PT1H", "retentionTime": "PT0S"}

    def test_a_task_that_runs_and_succeeds(self, raw: Raw, yard: Yard, node_id: str) -> None:
        job_id = yard.job(task("t"))
        added = yard.task(job_id, "t")["eTag"]
        done = yard.reached(job_id, "t")
        node_url = f"{raw.endpoint}/pools/{yard.pool_id}/nodes/{node_id}"
        directory = f"workitems/{job_id}/job-1/t"
        assert done["nodeInfo"] == {
            "affinityId": f"TVM:{node_id}",
            "nodeUrl": node_url,
            "poolId": yard.pool_id,
            "nodeId": node_id,
            "taskRootDirectory": directory,
            "taskRootDirectoryUrl": f"{node_url}/files/{directory}",
        }
        info = done["executionInfo"]
        assert set(info) == {"startTime", "endTime", "exitCode", "retryCount", "requeueCount", "result"}
        assert (info["exitCode"], info["result"], info["retryCount"], info["requeueCount"]) == (0, "success", 0, 0)
        assert done["creationTime"] <= info["startTime"] <= info["endTime"] == done["stateTransitionTime"]
        assert done["previousState"] == "running"
        assert done["previousStateTransitionTime"] == info["startTime"]
        assert (done["eTag"], done["lastModified"]) == (added, done["creationTime"]), "scheduling is no modification"

    def test_a_task_that_fails(self, yard: Yard) -> None:
        job_id = yard.job(task("t", "exit 2"))
        info = yard.reached(job_id, "t")["executionInfo"]
        assert (info["exitCode"], info["result"]) == (2, "failure")
        failure = info["failureInfo"]
        assert (failure["category"], failure["code"]) == ("usererror", "FailureExitCode")
        assert failure["message"]


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ({"id": "no blanks"}, "InvalidPropertyValue", "id"),
        ({"id": "x" * 65}, "InvalidPropertyValue", "id"),
        ({"commandLine": " "}, "InvalidPropertyValue", "commandLine"),
        ({"commandLine": ["true"]}, "InvalidRequestBody", "commandLine"),
        ({"displayName": "x" * 1025}, "InvalidPropertyValue", "displayName"),
        ({"requiredSlots": 0}, "InvalidPropertyValue", "requiredSlots"),
        ({"requiredSlots": 257}, "InvalidPropertyValue", "requiredSlots"),
        ({"requiredSlots": 1.5}, "InvalidRequestBody", "requiredSlots"),
        ({"constraints": {"maxTaskRetryCount": -2}}, "InvalidPropertyValue", "maxTaskRetryCount"),
        ({"constraints": {"retentionTime": "a week"}}, "InvalidPropertyValue", "constraints.retentionTime"),
        ({"userIdentity": {}}, "InvalidPropertyValue", "userIdentity"),
        ({"userIdentity": {"username": "a", "autoUser": {}}}, "InvalidPropertyValue", "userIdentity"),
        ({"userIdentity": {"autoUser": {"scope": "world"}}}, "InvalidPropertyValue", "userIdentity.autoUser.scope"),
        ({"resourceFiles": [{}]}, "InvalidPropertyValue", "resourceFiles"),
        ({"resourceFiles": [{"httpUrl": "x"}]}, "InvalidPropertyValue", "filePath"),
        ({"resourceFiles": [{"httpUrl": "x", "filePath": "../x"}]}, "InvalidPropertyValue", "filePath"),
        ({"resourceFiles": [{"httpUrl": "x", "filePath": "/x"}]}, "InvalidPropertyValue", "filePath"),
        ({"resourceFiles": [{"httpUrl": "x", "filePath": "x", "fileMode": "9"}]}, "InvalidPropertyValue", "fileMode"),
        (
            {"resourceFiles": [{"httpUrl": "x", "filePath": "x", "identityReference": {"resourceId": "i"}}]},
            "UnsupportedProperty",
            "resourceFiles.identityReference",
        ),
        (
            {
                "outputFiles": [
                    {
                        "filePattern": "*",
                        "uploadOptions": {"uploadCondition": "taskcompletion"},
                        "destination": {"container": {"containerUrl": "x", "identityReference": {"resourceId": "i"}}},
                    }
                ]
            },
            "UnsupportedProperty",
            "outputFiles.destination.container.identityReference",
        ),
        ({"resourceFiles": [{"autoStorageContainerName": "Up"}]}, "InvalidPropertyValue", "autoStorageContainerName"),
        ({"resourceFiles": [{"autoStorageContainerName": "../other"}]}, "InvalidPropertyValue", "autoStorageContainerName"),
        ({"resourceFiles": [{"autoStorageContainerName": "abc?sig=x"}]}, "InvalidPropertyValue", "autoStorageContainerName"),
        ({"environmentSettings": [{"name": ""}]}, "InvalidPropertyValue", "environmentSettings"),
        ({"environmentSettings": [{"name": "a\0"}]}, "InvalidPropertyValue", "environmentSettings"),
        ({"exitConditions": {"default": {"dependencyAction": "satisfy"}}}, "InvalidPropertyValue", "dependencyAction"),
        ({"exitConditions": {"default": {"jobAction": "terminate"}}}, "InvalidPropertyValue", "jobAction"),
        ({"exitConditions": {"exitCodes": [{"code": 2**31, "exitOptions": {}}]}}, "InvalidPropertyValue", "code"),
        ({"exitConditions": {"exitCodes": [{"code": 1}]}}, "MissingRequiredProperty", "exitConditions.exitCodes[0].exitOptions"),
        ({"multiInstanceSettings": {"coordinationCommandLine": ""}}, "InvalidPropertyValue", "coordinationCommandLine"),
        ({"multiInstanceSettings": {}}, "MissingRequiredProperty", "multiInstanceSettings.coordinationCommandLine"),
        ({"colour": "red"}, "InvalidRequestBody", "colour"),
    ],
)
def test_what_is_refused_names_property_and_reason(raw: Raw, idle_job: str, change: Json, code: str, name: str) -> None:
    body = task("t") | change
    values = raw("POST", f"/jobs/{idle_job}/tasks", body).assert_error(400, code)
    assert values["PropertyName"] == name
    assert values["Reason"]
    [item] = collection(raw, idle_job, [body])
    assert (item["status"], item["error"]["code"]) == ("clienterror", code)
    assert {pair["key"]: pair["value"] for pair in item["error"]["values"]} == values
    assert item["error"]["message"]["value"].partition("\nRequestId:")[0].endswith(f" {name}: {values['Reason']}"), "all that SDKs show"
    if code == "InvalidPropertyValue":
        assert set(values) == {"PropertyName", "PropertyValue", "Reason"}
    assert ids(raw, idle_job) == []


def test_a_wrong_word_or_time_is_told_with_its_value(raw: Raw, idle_job: str) -> None:
    wrong = {
        "constraints.maxWallClockTime": ({"constraints": {"maxWallClockTime": "1 hour"}}, "1 hour", "ISO 8601 duration"),
        "exitConditions.exitCodes[1].exitOptions.jobAction": (
            {
                "exitConditions": {
                    "exitCodes": [{"code": code, "exitOptions": {"jobAction": action}} for code, action in ((1, "none"), (2, "x"))]
                }
            },
            "x",
            "enum",
        ),
    }
    for name, (change, value, reason) in wrong.items():
        said = raw("POST", f"/jobs/{idle_job}/tasks", task("t") | change).assert_error(400, "InvalidPropertyValue")
        assert (said["PropertyName"], said["PropertyValue"]) == (name, value)
        assert reason in said["Reason"]
        assert "regex" not in said["Reason"]


class TestCollection:
    """addtaskcollection: each task is taken or refused by itself (contract 9.1)."""

    def test_one_result_per_task(self, raw: Raw, idle_job: str) -> None:
        raw("POST", f"/jobs/{idle_job}/tasks", task("there"))
        sent = [task("a"), task("bad id"), {"id": "typed", "commandLine": 5}, task("THERE"), task("b"), task("B"), {"commandLine": "x"}, 7]
        results = collection(raw, idle_job, sent)
        found = {item["taskId"]: item for item in results if item["status"] == "clienterror"}
        assert {name: item["error"]["code"] for name, item in found.items() if name} == {
            "bad id": "InvalidPropertyValue",
            "typed": "InvalidRequestBody",
            "THERE": "TaskExists",
            "B": "TaskExists",
        }
        for item in found.values():
            assert item["error"]["message"]["lang"] == "en-US"
            assert "\nRequestId:" in item["error"]["message"]["value"]
            assert set(item) == {"status", "taskId", "error"}
        added = {item["taskId"]: item for item in results if item["status"] == "success"}
        assert set(added) == {"a", "b"}
        served = raw("GET", f"/jobs/{idle_job}/tasks/a").json
        assert added["a"] == {
            "status": "success",
            "taskId": "a",
            "eTag": served["eTag"],
            "lastModified": served["lastModified"],
            "location": served["url"],
        }
        assert ids(raw, idle_job) == ["there", "a", "b"]

    def test_sent_again(self, raw: Raw, idle_job: str) -> None:
        tasks = [task(f"t{number}") for number in range(100)]
        assert {item["status"] for item in collection(raw, idle_job, tasks)} == {"success"}
        again = collection(raw, idle_job, [*tasks[:99], task("new")])
        assert [item.get("error", {}).get("code") for item in again] == ["TaskExists"] * 99 + [None]
        assert raw("GET", f"/jobs/{idle_job}/taskcounts").json["taskCounts"]["active"] == 101

    @pytest.mark.parametrize("count", [0, 101])
    def test_the_limit(self, raw: Raw, idle_job: str, count: int) -> None:
        tasks = [task(f"t{number}") for number in range(count)]
        raw("POST", f"/jobs/{idle_job}/addtaskcollection", {"value": tasks}).assert_error(400, "InvalidPropertyValue", PropertyName="value")
        assert ids(raw, idle_job) == []

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"value": {}}', b'{"value": [{]}', b'{"value": []} x', b'{"tasks": []}', b"null"]
    )
    def test_an_envelope_that_is_none(self, raw: Raw, idle_job: str, body: bytes) -> None:
        answer = raw("POST", f"/jobs/{idle_job}/addtaskcollection", body)
        assert answer.status == 400
        answer.assert_error(400, answer.json["code"])
        assert ids(raw, idle_job) == []

    @pytest.mark.parametrize(
        "item",
        [
            b'{"id":"\xff","commandLine":"x"}',
            b'{"id":"d","x":' + b"[" * 900 + b"]" * 900 + b"}",
            b'{"id":"\\ud800","commandLine":"x"}',
            b'"x"',
        ],
    )
    def test_a_task_that_cannot_be_read_is_never_a_server_error(self, raw: Raw, idle_job: str, item: bytes) -> None:
        answer = raw("POST", f"/jobs/{idle_job}/addtaskcollection", b'{"value":[' + item + b',{"id":"good","commandLine":"true"}]}')
        if answer.status == 400:
            answer.assert_error(400, "InvalidRequestBody")
            assert ids(raw, idle_job) == []
        else:
            assert sorted(result["status"] for result in answer.json["value"]) == ["clienterror", "success"]
            assert ids(raw, idle_job) == ["good"]

    def test_the_newer_sdk_adds_250(self, batch: BatchClient, idle_job: str) -> None:
        tasks = [models.BatchTaskCreateOptions(id=f"t{number}", command_line="true") for number in range(250)]
        results = batch.create_tasks(idle_job, tasks, max_concurrency=2)
        assert [result["status"] for result in results["value"]] == ["success"] * 250
        listed = [item.id for item in batch.list_tasks(idle_job, max_results=70)]
        assert sorted(listed) == sorted(f"t{number}" for number in range(250))

    def test_the_newer_sdk_reports_a_wrong_one(self, batch: BatchClient, idle_job: str) -> None:
        tasks = [models.BatchTaskCreateOptions(id=name, command_line="true") for name in ("good", "not good", "fine")]
        with pytest.raises(models.CreateTasksError) as refused:
            batch.create_tasks(idle_job, tasks)
        [failed] = refused.value.failure_tasks
        assert failed.error is not None
        assert (failed.task_id, failed.error.code) == ("not good", "InvalidPropertyValue")
        assert "id: An id is 1 to 64 letters" in str(refused.value)
        assert sorted(item.id for item in batch.list_tasks(idle_job)) == ["fine", "good"]
        batch.create_tasks(idle_job, [tasks[0]])  # TaskExists counts as success

    def test_a_task_that_is_too_large_ends_with_an_error(self, sdk: Sdk, idle_job: str) -> None:
        large = models.BatchTaskCreateOptions(id="large", command_line="x" * 1_100_000)
        with pytest.raises(models.CreateTasksError) as refused:
            sdk.client.create_tasks(idle_job, [large, models.BatchTaskCreateOptions(id="small", command_line="true")])
        [error] = refused.value.errors
        assert error.error.code == "RequestBodyTooLarge"
        assert [call.status for call in sdk.calls].count(413) == 2, "the pair, then the large task alone"
        assert all("retry-after" not in call.headers for call in sdk.calls)
        assert [item.id for item in sdk.client.list_tasks(idle_job)] == ["small"]

    def test_a_collection_of_a_mebibyte(self, raw: Raw, idle_job: str) -> None:
        room = 1_048_576 - len(b'{"value": [{"id": "t", "commandLine": ""}]}')
        answer = raw("POST", f"/jobs/{idle_job}/addtaskcollection", {"value": [{"id": "t", "commandLine": "x" * (room + 1)}]})
        answer.assert_error(413, "RequestBodyTooLarge")
        [item] = collection(raw, idle_job, [{"id": "t", "commandLine": "x" * room}])
        assert item["status"] == "success"


class TestRetries:
    """A non-zero exit is tried again as often as the constraints say (contract 3.4)."""

    def test_three_retries_are_four_runs(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "echo run >> ../runs; exit 7", constraints={"maxTaskRetryCount": 3}))
        done = yard.reached(job_id, "t")
        info = done["executionInfo"]
        assert (info["retryCount"], info["exitCode"], info["result"]) == (3, 7, "failure")
        assert done["creationTime"] < info["lastRetryTime"] <= info["endTime"]
        assert info["requeueCount"] == 0
        assert done["eTag"] == raw("GET", f"/jobs/{job_id}/tasks/t").headers["etag"]
        assert done["lastModified"] == done["creationTime"]
        counts = yard.get(f"/jobs/{job_id}/taskcounts")["taskCounts"]
        assert counts == {"active": 0, "running": 0, "completed": 1, "succeeded": 0, "failed": 1}

    def test_the_runs_themselves(self, raw: Raw, yard: Yard) -> None:
        script = 'echo run >> "$AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID"; cat "$AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID"; exit 1'
        job_id = yard.job(task("t", script, constraints={"maxTaskRetryCount": 3}))
        yard.reached(job_id, "t")
        assert raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt").body == b"run\n" * 4

    def test_the_count_of_the_job_is_taken_at_the_addition(self, yard: Yard) -> None:
        job_id = yard.job(task("t", "exit 1"), constraints={"maxTaskRetryCount": 1})
        assert yard.reached(job_id, "t")["executionInfo"]["retryCount"] == 1

    def test_a_success_ends_the_retries(self, yard: Yard) -> None:
        script = 'test -e "$AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID" || { touch "$AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID"; exit 1; }'
        job_id = yard.job(task("t", script, constraints={"maxTaskRetryCount": -1}))
        info = yard.reached(job_id, "t")["executionInfo"]
        assert (info["retryCount"], info["result"], info["exitCode"]) == (1, "success", 0)
        assert "failureInfo" not in info

    def test_a_program_that_is_not_there_is_not_tried_again(self, yard: Yard) -> None:
        job_id = yard.job({"id": "t", "commandLine": "/never/there", "constraints": {"maxTaskRetryCount": 3}})
        info = yard.reached(job_id, "t")["executionInfo"]
        assert (info["retryCount"], info["failureInfo"]["code"], info["failureInfo"]["category"]) == (
            0,
            "CommandProgramNotFound",
            "usererror",
        )
        assert "exitCode" not in info


class TestDependencies:
    """dependsOn by ids and by ranges (contract 3.7)."""

    def test_by_ids_and_forward_references(self, yard: Yard) -> None:
        job_id = yard.job(task("child", dependsOn={"taskIds": ["Late", "early"]}), task("early"), usesTaskDependencies=True)
        yard.reached(job_id, "early")
        assert yard.task(job_id, "child")["state"] == "active"
        yard.add(job_id, task("late"))
        child = yard.reached(job_id, "child")["executionInfo"]
        assert child["startTime"] >= yard.task(job_id, "late")["executionInfo"]["endTime"]

    def test_by_ranges_with_leading_zeros(self, yard: Yard) -> None:
        parents = [task("1"), task("002"), task("03")]
        child = task("child", dependsOn={"taskIdRanges": [{"start": 1, "end": 2}, {"start": "2", "end": "3"}]})
        job_id = yard.job(child, *parents, usesTaskDependencies=True)
        started = yard.reached(job_id, "child")["executionInfo"]["startTime"]
        assert all(yard.task(job_id, parent["id"])["executionInfo"]["endTime"] <= started for parent in parents)

    def test_the_first_of_equal_numbers_satisfies(self, yard: Yard) -> None:
        blocked = task("4", dependsOn={"taskIds": ["never"]})
        job_id = yard.job(
            blocked, task("004"), task("child", dependsOn={"taskIdRanges": [{"start": 4, "end": 4}]}), usesTaskDependencies=True
        )
        yard.reached(job_id, "child")
        assert yard.task(job_id, "4")["state"] == "active"

    def test_a_wide_range_with_a_gap_blocks(self, yard: Yard) -> None:
        job_id = yard.job(task("child", dependsOn={"taskIdRanges": [{"start": 1, "end": 500}]}), usesTaskDependencies=True)
        yard.add(job_id, *(task(str(number)) for number in range(1, 4)))
        for number in range(1, 4):
            yard.reached(job_id, str(number))
        assert yard.task(job_id, "child")["state"] == "active"

    def test_a_failed_parent_blocks_and_the_job_stays_open(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("parent", "exit 1"), task("child", dependsOn={"taskIds": ["parent"]}), usesTaskDependencies=True)
        yard.reached(job_id, "parent")
        raw("PATCH", f"/jobs/{job_id}", {"onAllTasksComplete": "terminatejob"})
        yard.add(job_id, task("other"))
        yard.reached(job_id, "other")
        assert yard.task(job_id, "child")["state"] == "active"
        assert yard.get(f"/jobs/{job_id}")["state"] == "active"

    def test_a_deleted_parent_blocks(self, raw: Raw) -> None:
        job_id = a_job(raw, usesTaskDependencies=True)
        raw("POST", f"/jobs/{job_id}/tasks", task("parent"))
        raw("POST", f"/jobs/{job_id}/tasks", task("child", dependsOn={"taskIds": ["parent"]}))
        assert raw("DELETE", f"/jobs/{job_id}/tasks/parent").status == 200
        assert raw("GET", f"/jobs/{job_id}/tasks/child").json["state"] == "active"

    @pytest.mark.parametrize(
        ("depends_on", "code"),
        [
            ({"taskIds": ["x" * 64] * 1001}, "TaskDependencyListTooLong"),
            ({"taskIdRanges": [{"start": 1, "end": 1}] * 1001}, "TaskDependencyRangesTooLong"),
            ({"taskIds": ["a b"]}, "InvalidPropertyValue"),
            ({"taskIdRanges": [{"start": 2, "end": 1}]}, "InvalidPropertyValue"),
            ({"taskIdRanges": [{"start": 0, "end": 2**31}]}, "InvalidPropertyValue"),
            ({"taskIdRanges": [{"start": 1}]}, "MissingRequiredProperty"),
        ],
    )
    def test_what_is_refused(self, raw: Raw, depends_on: Json, code: str) -> None:
        job_id = a_job(raw, usesTaskDependencies=True)
        raw("POST", f"/jobs/{job_id}/tasks", task("t", dependsOn=depends_on)).assert_error(400, code)

    def test_a_job_without_dependencies(self, raw: Raw, idle_job: str) -> None:
        for wanted in ({"taskIds": ["a"]}, {"taskIdRanges": [{"start": 1, "end": 2}]}):
            body = task(unique("t"), dependsOn=wanted)
            said = raw("POST", f"/jobs/{idle_job}/tasks", body).assert_error(400, "UnsupportedProperty", PropertyName="dependsOn")
            assert "usesTaskDependencies" in said["Reason"]
            [result] = raw("POST", f"/jobs/{idle_job}/addtaskcollection", {"value": [body]}).json["value"]
            assert (result["status"], result["error"]["code"]) == ("clienterror", "UnsupportedProperty")
            raw("GET", f"/jobs/{idle_job}/tasks/{body['id']}").assert_error(404, "TaskNotFound")

    @pytest.mark.parametrize("depends_on", [{}, {"taskIds": []}, {"taskIdRanges": []}, {"taskIds": [], "taskIdRanges": []}, None], ids=str)
    def test_who_waits_for_nothing_needs_no_dependencies(self, yard: Yard, depends_on: Json | None) -> None:
        """Programs that build the object for every task leave it empty for most."""
        job_id = yard.job(task("t", dependsOn=depends_on))
        yard.add(job_id, task("u", dependsOn=depends_on))
        yard.reached(job_id, "t")
        yard.reached(job_id, "u")

    def test_an_empty_dependency_of_both_sdk_kinds(self, batch: BatchClient, idle_job: str) -> None:
        name = unique("t")
        waiting = models.BatchTaskDependencies(task_ids=[], task_id_ranges=[])
        batch.create_task(idle_job, models.BatchTaskCreateOptions(id=name, command_line="true", depends_on=waiting))
        assert batch.get_task(idle_job, name).state == "active"
        wrong = models.BatchTaskCreateOptions(
            id=unique("t"), command_line="true", depends_on=models.BatchTaskDependencies(task_ids=["never"])
        )
        with pytest.raises(HttpResponseError, match="UnsupportedProperty"):
            batch.create_task(idle_job, wrong)


class TestExitConditions:
    """What follows from how a task ended (contract 3.8)."""

    def child_of(self, yard: Yard, script: str, conditions: Json, **more: object) -> str:
        child = task("child", dependsOn={"taskIds": ["parent"]})
        return yard.job(task("parent", script, exitConditions=conditions, **more), child, task("last"), usesTaskDependencies=True)

    @pytest.mark.parametrize(
        ("script", "conditions"),
        [
            ("exit 3", {"exitCodes": [{"code": 3, "exitOptions": {"dependencyAction": "satisfy"}}]}),
            ("exit 5", {"exitCodeRanges": [{"start": 4, "end": 6, "exitOptions": {"dependencyAction": "satisfy"}}]}),
            ("exit 9", {"default": {"dependencyAction": "satisfy"}}),
            ("exit 0", {"default": {"dependencyAction": "block"}}),
        ],
    )
    def test_satisfied(self, yard: Yard, script: str, conditions: Json) -> None:
        job_id = self.child_of(yard, script, conditions)
        yard.reached(job_id, "child")

    @pytest.mark.parametrize(
        ("script", "conditions"),
        [
            ("exit 0", {"exitCodes": [{"code": 0, "exitOptions": {"dependencyAction": "block"}}]}),
            ("exit 3", {"exitCodes": [{"code": 4, "exitOptions": {"dependencyAction": "satisfy"}}]}),
            (
                "exit 3",
                {
                    "exitCodes": [{"code": 3, "exitOptions": {"dependencyAction": "block"}}],
                    "exitCodeRanges": [{"start": 1, "end": 9, "exitOptions": {"dependencyAction": "satisfy"}}],
                },
            ),
        ],
    )
    def test_blocked(self, yard: Yard, script: str, conditions: Json) -> None:
        job_id = self.child_of(yard, script, conditions)
        yard.reached(job_id, "parent")
        yard.reached(job_id, "last")
        assert yard.task(job_id, "child")["state"] == "active"

    def test_a_failure_before_the_start(self, yard: Yard) -> None:
        conditions = {"preProcessingError": {"dependencyAction": "satisfy"}, "default": {"dependencyAction": "block"}}
        missing = [{"httpUrl": f"{yard.raw.endpoint}/nothing/here", "filePath": "x"}]
        job_id = self.child_of(yard, "true", conditions, resourceFiles=missing)
        yard.reached(job_id, "child")
        assert "exitCode" not in yard.task(job_id, "parent")["executionInfo"]

    def test_conditions_wait_for_the_last_retry(self, yard: Yard) -> None:
        conditions = {"exitCodes": [{"code": 3, "exitOptions": {"dependencyAction": "satisfy"}}]}
        job_id = self.child_of(yard, "exit 3", conditions, constraints={"maxTaskRetryCount": 2})
        child = yard.reached(job_id, "child")
        parent = yard.task(job_id, "parent")["executionInfo"]
        assert parent["retryCount"] == 2
        assert child["executionInfo"]["startTime"] >= parent["endTime"]

    def test_a_failure_ends_a_job_that_acts_on_failures(self, yard: Yard) -> None:
        spared = task("spared", "exit 4", exitConditions={"exitCodes": [{"code": 4, "exitOptions": {"jobAction": "none"}}]})
        job_id = yard.job(spared, onTaskFailure="performexitoptionsjobaction")
        yard.reached(job_id, "spared")
        assert yard.get(f"/jobs/{job_id}")["state"] == "active"
        yard.add(job_id, task("fatal", "exit 1"))
        assert yard.job_reached(job_id, "completed")["executionInfo"]["terminateReason"] == "TaskFailed"


class TestEnds:
    """Terminating and deleting tasks."""

    def test_terminate_a_waiting_one(self, raw: Raw, idle_job: str) -> None:
        raw("POST", f"/jobs/{idle_job}/tasks", task("t"))
        before = raw("GET", f"/jobs/{idle_job}/tasks/t").json
        answer = raw("POST", f"/jobs/{idle_job}/tasks/t/terminate")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["dataserviceid"] == f"{raw.endpoint}/jobs/{idle_job}/tasks/t/terminate"
        after = raw("GET", f"/jobs/{idle_job}/tasks/t").json
        assert after["eTag"] == answer.headers["etag"] != before["eTag"]
        assert after["lastModified"] > before["lastModified"]
        assert (after["state"], after["previousState"], after["nodeInfo"]) == ("completed", "active", {})
        info = after["executionInfo"]
        assert info == {
            "endTime": after["stateTransitionTime"],
            "failureInfo": {"category": "usererror", "code": "TaskEnded", "message": "Task Was Ended by User Request"},
            "retryCount": 0,
            "requeueCount": 0,
            "result": "failure",
        }
        raw("POST", f"/jobs/{idle_job}/tasks/t/terminate").assert_error(409, "TaskCompleted")
        assert raw("GET", f"/jobs/{idle_job}/tasks/t").json == after

    def test_terminate_a_running_one(self, raw: Raw, yard: Yard, node_id: str) -> None:
        job_id = yard.job(task("t", "sleep 300", constraints={"maxTaskRetryCount": 5}, requiredSlots=4), task("next", requiredSlots=4))
        yard.reached(job_id, "t", "running")
        assert raw("POST", f"/jobs/{job_id}/tasks/t/terminate", b"").status == 204
        ended = yard.task(job_id, "t")
        assert (ended["state"], ended["previousState"], ended["executionInfo"]["retryCount"]) == ("completed", "running", 0)
        assert ended["executionInfo"]["failureInfo"]["code"] == "TaskEnded"
        assert ended["nodeInfo"]["nodeId"] == node_id
        yard.reached(job_id, "next")
        later = wait_for(lambda: (found := yard.task(job_id, "t"))["executionInfo"].get("exitCode") and found, "its exit code")
        assert later.pop("executionInfo") == {**ended.pop("executionInfo"), "exitCode": 137}
        assert later == ended

    def test_a_job_that_is_terminated_keeps_the_exit_codes_of_its_tasks(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "sleep 300"), task("waits", requiredSlots=4))
        yard.reached(job_id, "t", "running")
        assert raw("POST", f"/jobs/{job_id}/terminate").status == 202
        wait_for(lambda: yard.task(job_id, "t")["executionInfo"].get("exitCode") == 137, "its exit code")
        info = yard.task(job_id, "t")["executionInfo"]
        assert (info["result"], info["failureInfo"]["code"]) == ("failure", "TaskEnded")
        assert "exitCode" not in yard.task(job_id, "waits")["executionInfo"]

    def test_delete_a_running_one(self, raw: Raw, yard: Yard, node_id: str) -> None:
        job_id = yard.job(task("t", "sleep 300"))
        yard.reached(job_id, "t", "running")
        answer = raw("DELETE", f"/jobs/{job_id}/tasks/t")
        assert (answer.status, answer.body) == (200, b"")
        raw("GET", f"/jobs/{job_id}/tasks/t").assert_error(404, "TaskNotFound")
        raw("DELETE", f"/jobs/{job_id}/tasks/t").assert_error(404, "TaskNotFound")
        node = f"/pools/{yard.pool_id}/nodes/{node_id}"
        wait_for(lambda: raw("HEAD", f"{node}/files/workitems%2F{job_id}%2Fjob-1%2Ft").status == 404, "the task's files to be removed")
        assert raw("POST", f"/jobs/{job_id}/tasks", task("t")).status == 201, "the id is free again"
        yard.reached(job_id, "t")

    def test_conditions(self, raw: Raw, batch: BatchClient, idle_job: str) -> None:
        path = f"/jobs/{idle_job}/tasks/t"
        raw("POST", f"/jobs/{idle_job}/tasks", task("t"))
        tag = raw("GET", path).headers["etag"]
        for value in (tag, f'"{tag}"', "*"):
            assert raw("GET", path, headers={"If-Match": value}).status == 200
        not_modified = raw("GET", path, headers={"If-None-Match": f'"{tag}"'})
        assert (not_modified.status, not_modified.body) == (304, b"")
        for call in ("terminate", "delete"):
            method, suffix = ("POST", "/terminate") if call == "terminate" else ("DELETE", "")
            raw(method, path + suffix, headers={"If-Match": "0x1"}).assert_error(412, "ConditionNotMet")
            raw(method, path + suffix, headers={"If-None-Match": tag}).assert_error(412, "ConditionNotMet")
        with pytest.raises(ResourceModifiedError):
            batch.delete_task(idle_job, "t", etag="0x1", match_condition=MatchConditions.IfNotModified)
        assert raw("GET", path).headers["etag"] == tag
        batch.terminate_task(idle_job, "t", etag=tag, match_condition=MatchConditions.IfNotModified)
        assert batch.get_task(idle_job, "t").etag != tag


def test_pages(raw: Raw, batch: BatchClient, idle_job: str) -> None:
    names = [f"t{number}" for number in range(7)]
    collection(raw, idle_job, [task(name) for name in names])
    found = pages(raw, f"/jobs/{idle_job}/tasks", "maxresults=3")
    assert [[item["id"] for item in page] for page in found] == [names[:3], names[3:6], names[6:]]
    assert [item.id for item in batch.list_tasks(idle_job, max_results=2)] == names
    assert [len(page) for page in pages(raw, f"/jobs/{idle_job}/tasks", "maxresults=7")] == [7]
    whole = raw("GET", f"/jobs/{idle_job}/tasks/t0").json
    del whole["odata.metadata"]
    assert found[0][0] == whole, "a list shows the same as a get"
    raw("GET", f"/jobs/{idle_job}/tasks", query="$skiptoken=x").assert_error(
        400, "InvalidQueryParameterValue", QueryParameterName="$skiptoken"
    )
    raw("GET", f"/jobs/{idle_job}/tasks", query="maxresults=0").assert_error(
        400, "InvalidQueryParameterValue", QueryParameterName="maxresults"
    )


def test_ids_of_the_newer_sdk(sdk: Sdk, idle_job: str) -> None:
    batch = sdk.client
    batch.create_task(idle_job, models.BatchTaskCreateOptions(id="A-b_1", command_line="true"))
    assert sdk.last.status == 201
    with pytest.raises(ResourceExistsError):
        batch.create_task(idle_job, models.BatchTaskCreateOptions(id="a-B_1", command_line="true"))
    assert batch.get_task(idle_job, "a-b_1").id == "A-b_1"
    with pytest.raises(ResourceNotFoundError):
        batch.get_task(idle_job, "other")
