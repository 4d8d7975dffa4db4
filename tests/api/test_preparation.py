"""Job preparation and job release tasks on real nodes (contract 2.7, 3.6, 9.4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.batch import models
from azure.batch.models._models import BatchJobTerminateOptions  # not exported by 15.1.0
from tests.api.conftest import Json, Raw, Sdk, Yard, pages, pool_body, sh, task, unique
from tests.conftest import Server, wait_for

STATUS = "jobpreparationandreleasetaskstatus"


@pytest.fixture(scope="module")
def pair(server: Server) -> Iterator[str]:
    """A pool of two nodes with one slot each."""
    raw, pool_id = Raw(server.endpoint, server.account, server.key), unique("pair")
    assert raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=2)).status == 201

    def ready() -> bool:
        nodes = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
        return [node["state"] for node in nodes] == ["idle", "idle"]

    wait_for(ready, "both nodes to be idle")
    yield pool_id
    raw("DELETE", f"/pools/{pool_id}")
    wait_for(lambda: raw("GET", f"/pools/{pool_id}").status == 404, "the pool to be gone")


@pytest.fixture
def two(raw: Raw, pair: str) -> Iterator[Yard]:
    """Jobs on the two nodes."""
    made = Yard(raw, pair)
    yield made
    for job_id in made.jobs:
        raw("DELETE", f"/jobs/{job_id}", query="force=true")
    for job_id in made.jobs:
        made.gone(f"/jobs/{job_id}")


def status(yard: Yard, job_id: str) -> list[Json]:
    found: list[Json] = yard.get(f"/jobs/{job_id}/{STATUS}")["value"]
    return found


def preparation(script: str = "true", **more: object) -> Json:
    return {"commandLine": sh(script), **more}


def node_file(raw: Raw, item: Json, path: str) -> str:
    answer = raw("GET", f"/pools/{item['poolId']}/nodes/{item['nodeId']}/files/{path.replace('/', '%2F')}")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def test_once_per_node_before_its_first_task_and_released_before_the_end(two: Yard, raw: Raw) -> None:
    beside = 'test "$(cat $AZ_BATCH_JOB_PREP_WORKING_DIR/made)" = here && test -d "$AZ_BATCH_JOB_PREP_DIR/wd"'
    job_id = two.job(
        jobPreparationTask=preparation('test -z "$AZ_BATCH_JOB_PREP_DIR" && echo here >made && echo prepared'),
        jobReleaseTask={"commandLine": sh(f"{beside} && echo released $AZ_BATCH_TASK_ID")},
    )
    two.add(job_id, *(task(f"t{n}", beside) for n in range(6)))
    for n in range(6):
        assert two.reached(job_id, f"t{n}")["executionInfo"]["exitCode"] == 0
    prepared = status(two, job_id)
    assert 1 <= len(prepared) <= 2
    for item in prepared:
        info = item["jobPreparationTaskExecutionInfo"]
        assert (info["state"], info["result"], info["exitCode"], info["retryCount"]) == ("completed", "success", 0, 0)
        assert "jobReleaseTaskExecutionInfo" not in item
        assert info["taskRootDirectory"] == f"workitems/{job_id}/job-1/jobpreparation"
        assert info["taskRootDirectoryUrl"] == f"{item['nodeUrl']}/files/{info['taskRootDirectory']}"
        assert node_file(raw, item, info["taskRootDirectory"] + "/stdout.txt") == "prepared\n"
    assert raw("POST", f"/jobs/{job_id}/terminate").status == 202
    ended = two.job_reached(job_id, "completed")
    for item in status(two, job_id):
        info = item["jobReleaseTaskExecutionInfo"]
        assert (info["state"], info["result"], info["exitCode"]) == ("completed", "success", 0), info
        assert "retryCount" not in info
        assert info["endTime"] <= ended["executionInfo"]["endTime"]
        assert node_file(raw, item, info["taskRootDirectory"] + "/stdout.txt") == "released jobrelease\n"
    assert [item["nodeId"] for item in status(two, job_id)] == [item["nodeId"] for item in prepared]
    assert two.get(f"/jobs/{job_id}")["jobPreparationTask"]["id"] == "jobpreparation"


def test_both_nodes_in_pages_and_through_the_sdk(two: Yard, raw: Raw, sdk: Sdk) -> None:
    job_id = unique("job")
    two.jobs.append(job_id)
    sdk.client.create_job(
        models.BatchJobCreateOptions(
            id=job_id,
            pool_info=models.BatchPoolInfo(pool_id=two.pool_id),
            job_preparation_task=models.BatchJobPreparationTask(id="before", command_line="true"),
            job_release_task=models.BatchJobReleaseTask(id="after", command_line=sh("exit 4")),
        )
    )
    two.add(job_id, task("a", "sleep 300"), task("b", "sleep 300"))
    for name in ("a", "b"):
        two.reached(job_id, name, "running")
    found = pages(raw, f"/jobs/{job_id}/{STATUS}", "maxresults=1")
    assert [len(page) for page in found] == [1, 1]
    sdk.client.begin_terminate_job(job_id, BatchJobTerminateOptions(termination_reason="x"), polling_interval=0).wait()
    read = list(sdk.client.list_job_preparation_and_release_task_status(job_id))
    assert len(read) == 2
    for item in read:
        before, after = item.job_preparation_task_execution_info, item.job_release_task_execution_info
        assert before is not None
        assert after is not None
        assert (before.result, before.task_root_directory) == ("success", f"workitems/{job_id}/job-1/before")
        assert (after.result, after.exit_code) == ("failure", 4)
    assert sdk.client.get_job(job_id).state == "completed", "a failed release is nobody's matter"


def test_a_failure_closes_the_node_for_this_job_alone(two: Yard, raw: Raw) -> None:
    """The first node to prepare takes the name in the shared root; only the other can then succeed."""
    name = f"/tmp/batchyard-{unique('prep')}"
    job_id = two.job(
        jobPreparationTask=preparation(f"mkdir {name} && exit 9; exit 0", constraints={"maxTaskRetryCount": 0}),
        jobReleaseTask={"commandLine": sh(f"rmdir {name} || true")},
    )
    two.add(job_id, task("t"))
    done = two.reached(job_id, "t")
    items = {item["nodeId"]: item["jobPreparationTaskExecutionInfo"] for item in status(two, job_id)}
    assert sorted(info["result"] for info in items.values()) == ["failure", "success"]
    assert items[done["nodeInfo"]["nodeId"]]["result"] == "success"
    assert (done["executionInfo"]["retryCount"], done["executionInfo"]["requeueCount"]) == (0, 0)
    [failed] = [info for info in items.values() if info["result"] == "failure"]
    assert (failed["exitCode"], failed["failureInfo"]["code"]) == (9, "FailureExitCode")
    two.add(job_id, *(task(f"u{n}") for n in range(3)))
    places = {two.reached(job_id, f"u{n}")["nodeInfo"]["nodeId"] for n in range(3)}
    assert places == {done["nodeInfo"]["nodeId"]}
    other = two.job(task("a", "sleep 300"), task("b", "sleep 300"))
    for name in ("a", "b"):
        two.reached(other, name, "running")  # both nodes, for another job
    raw("POST", f"/jobs/{job_id}/terminate")
    two.job_reached(job_id, "completed")


def test_it_is_tried_again(two: Yard) -> None:
    script = "test -e again && exit 0; touch again; exit 1"
    job_id = two.job(jobPreparationTask=preparation(script, constraints={"maxTaskRetryCount": 1}))
    two.add(job_id, task("t"))
    assert two.reached(job_id, "t")["executionInfo"]["result"] == "success"
    [item] = status(two, job_id)
    info = item["jobPreparationTaskExecutionInfo"]
    assert (info["retryCount"], info["result"]) == (1, "success")
    assert info["lastRetryTime"] >= info["startTime"]


def test_tasks_that_do_not_wait_for_success(two: Yard) -> None:
    job_id = two.job(jobPreparationTask=preparation("exit 1", waitForSuccess=False))
    for n in range(4):  # one after another, also behind the failure
        two.add(job_id, task(f"t{n}"))
        assert two.reached(job_id, f"t{n}")["executionInfo"]["result"] == "success"


def test_a_task_waits_in_preparing_and_forced_ends_do_not_wait(two: Yard, raw: Raw) -> None:
    job_id = two.job(jobPreparationTask=preparation("sleep 300"), jobReleaseTask={"commandLine": "sleep 300"})
    two.add(job_id, task("t"))
    waiting = two.reached(job_id, "t", "preparing")
    assert "startTime" not in waiting["executionInfo"]
    assert two.get(f"/jobs/{job_id}/taskcounts")["taskCounts"]["running"] == 1
    info = status(two, job_id)[0]["jobPreparationTaskExecutionInfo"]
    assert (info["state"], info["retryCount"]) == ("running", 0)
    assert not {"exitCode", "result", "endTime"} & set(info)
    assert raw("POST", f"/jobs/{job_id}/terminate", query="force=true").status == 202
    two.job_reached(job_id, "completed")
    [item] = status(two, job_id)
    assert "jobReleaseTaskExecutionInfo" not in item
    assert item["jobPreparationTaskExecutionInfo"]["failureInfo"]["code"] == "TaskEnded"
    assert two.task(job_id, "t")["state"] == "completed"


def test_deleting_an_open_job_releases_and_removes_its_files(two: Yard, raw: Raw) -> None:
    mark = f"/tmp/batchyard-{unique('release')}"
    job_id = two.job(
        jobPreparationTask=preparation(f"mkdir {mark}"), jobReleaseTask={"commandLine": sh(f"rmdir {mark} && mkdir {mark}.released")}
    )
    two.add(job_id, task("t"))
    done = two.reached(job_id, "t")
    assert raw("DELETE", f"/jobs/{job_id}/tasks/t").status == 200
    raw("DELETE", f"/jobs/{job_id}")
    two.gone(f"/jobs/{job_id}")
    raw("GET", f"/jobs/{job_id}/{STATUS}").assert_error(404, "JobNotFound")
    check = two.job(task("look", f"rmdir {mark}.released"))
    assert two.reached(check, "look")["executionInfo"]["exitCode"] == 0, "the release task ran before the job went"
    node = done["nodeInfo"]["nodeUrl"].removeprefix(raw.endpoint)
    wait_for(lambda: raw("HEAD", f"{node}/files/workitems%2F{job_id}").status == 404, "the job's directory to be removed")


_PREPARED = {"jobPreparationTask": {"commandLine": "true"}}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"jobReleaseTask": {"commandLine": "true"}}, "jobReleaseTask"),
        ({**_PREPARED, "jobReleaseTask": {"commandLine": "true", "maxWallClockTime": "PT15M1S"}}, "maxWallClockTime"),
        ({"jobPreparationTask": {"commandLine": " "}}, "commandLine"),
        ({"jobPreparationTask": {"id": "a", "commandLine": "true"}, "jobReleaseTask": {"id": "A", "commandLine": "true"}}, "id"),
        ({"jobManagerTask": {"id": "a b", "commandLine": "true"}}, "jobManagerTask.id"),
    ],
)
def test_what_is_refused(raw: Raw, change: Json, name: str) -> None:
    body = {"id": unique("job"), "poolInfo": {"poolId": "none"}, **change}
    raw("POST", "/jobs", body).assert_error(400, "InvalidPropertyValue", PropertyName=name)


def test_ids_of_special_tasks_are_taken(raw: Raw) -> None:
    job_id = unique("job")
    release = {"id": "bye", "commandLine": "true", "maxWallClockTime": "PT15M"}
    raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}, "jobPreparationTask": preparation(), "jobReleaseTask": release})
    raw("POST", f"/jobs/{job_id}/tasks", task("JobPreparation")).assert_error(409, "TaskIdSameAsJobPreparationTask")
    raw("POST", f"/jobs/{job_id}/tasks", task("Bye")).assert_error(409, "TaskIdSameAsJobReleaseTask")
    [item] = raw("POST", f"/jobs/{job_id}/addtaskcollection", {"value": [task("bye")]}).json["value"]
    assert (item["status"], item["error"]["code"]) == ("clienterror", "TaskIdSameAsJobReleaseTask")
    plain = unique("job")
    raw("POST", "/jobs", {"id": plain, "poolInfo": {"poolId": "none"}})
    raw("GET", f"/jobs/{plain}/{STATUS}").assert_error(409, "JobPreparationTaskOrReleaseTaskNotSpecified")
