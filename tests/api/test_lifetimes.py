"""What time does to jobs and tasks, with the clock moved by hand: retention, wall clock, lifetime (contract 3.3)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.api.conftest import Json, Later, Yard, pool_body, task, unique
from tests.conftest import Server, wait_for


@pytest.fixture(scope="module")
def moved() -> Iterator[Server]:
    """A server of this module alone, whose clock can be moved."""
    running = Server("--test-clock", nodes=1)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shared(moved: Server) -> Yard:
    """Jobs on its one node with four slots."""
    raw, pool_id = Later(moved.endpoint, moved.account, moved.key), unique("pool")
    assert raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=1, taskSlotsPerNode=4)).status == 201
    return Yard(raw, pool_id)


def clock_of(yard: Yard) -> Later:
    assert isinstance(yard.raw, Later)
    return yard.raw


def directory(yard: Yard, done: Json, name: str = "") -> int:
    """Status of a look at a task's directory through its node."""
    info = done["nodeInfo"]
    path = (info["taskRootDirectory"] + name).replace("/", "%2F")
    return yard.raw("HEAD", f"/pools/{yard.pool_id}/nodes/{info['nodeId']}/files/{path}").status


def test_files_go_when_their_time_is_over(shared: Yard) -> None:
    late = raw = clock_of(shared)
    hour = {"constraints": {"retentionTime": "PT1H"}}
    job_id = shared.job(task("hour", **hour), task("week"), task("ever", constraints={"retentionTime": "P10675199D"}))
    shared.add(job_id, task("again", "test -e ../week2 && exit 0; exit 1", **hour))
    done = {name: shared.reached(job_id, name) for name in ("hour", "week", "ever", "again")}
    assert raw("POST", f"/jobs/{job_id}/tasks/again/reactivate").status == 204
    wait_for(
        lambda: shared.task(job_id, "again")["executionInfo"].get("endTime", "") > done["again"]["executionInfo"]["endTime"], "its end"
    )
    late.advance("PT59M")
    assert raw("GET", f"/jobs/{job_id}/tasks/hour/files/stdout.txt").status == 200
    late.advance("PT2M")
    wait_for(lambda: directory(shared, done["hour"]) == 404, "the directory to be removed")
    for method, rest in (("GET", ""), ("GET", "/stdout.txt"), ("DELETE", "/stdout.txt")):
        raw(method, f"/jobs/{job_id}/tasks/hour/files{rest}").assert_error(409, "TaskFilesCleanedup")
    assert raw("HEAD", f"/jobs/{job_id}/tasks/hour/files/stdout.txt").status == 409
    assert raw("GET", f"/jobs/{job_id}/tasks/week/files/stdout.txt").status == 200
    late.advance("P7D")
    wait_for(lambda: directory(shared, done["week"]) == 404, "the directory to be removed")
    raw("GET", f"/jobs/{job_id}/tasks/week/files").assert_error(409, "TaskFilesCleanedup")
    assert raw("GET", f"/jobs/{job_id}/tasks/ever/files/stdout.txt").status == 200
    assert shared.task(job_id, "week")["state"] == "completed", "the record stays until the job is deleted"


def test_directories_of_preparation_and_release_go_with_a_completed_job(shared: Yard) -> None:
    late = raw = clock_of(shared)
    job_id = shared.job(
        task("only"),
        jobPreparationTask={"id": "before", "commandLine": "true", "constraints": {"retentionTime": "PT1H"}},
        jobReleaseTask={"id": "after", "commandLine": "true", "retentionTime": "PT2H"},
    )
    done = shared.reached(job_id, "only")
    late.advance("PT90M")
    assert raw("POST", f"/jobs/{job_id}/terminate").status == 202
    wait_for(lambda: raw("GET", f"/jobs/{job_id}").json["state"] == "completed", "the job's end")

    def there(name: str) -> int:
        path = f"workitems/{job_id}/job-1/{name}/stdout.txt".replace("/", "%2F")
        return raw("HEAD", f"/pools/{shared.pool_id}/nodes/{done['nodeInfo']['nodeId']}/files/{path}").status

    wait_for(lambda: there("before") == 404, "the directory to be removed")
    assert there("after") == 200
    late.advance("PT2H")
    wait_for(lambda: there("after") == 404, "the directory to be removed")


def test_a_jobs_wall_clock_ends_it_with_its_tasks(shared: Yard) -> None:
    late = clock_of(shared)
    job_id = shared.job(
        task("runs", "sleep 300"),
        constraints={"maxWallClockTime": "PT2H"},
        jobPreparationTask={"commandLine": "true"},
        jobReleaseTask={"commandLine": "true"},
    )
    shared.reached(job_id, "runs", "running")
    later = shared.job(task("runs", "sleep 300"), constraints={"maxWallClockTime": "PT2H"})
    assert shared.raw("PATCH", f"/jobs/{later}", {"constraints": {"maxWallClockTime": "PT4H"}}).status == 200
    late.advance("PT2H")
    job = shared.job_reached(job_id, "completed")
    assert job["executionInfo"]["terminateReason"] == "MaxWallClockTimeExpiry"
    assert shared.task(job_id, "runs")["executionInfo"]["failureInfo"]["code"] == "TaskEnded"
    [item] = shared.get(f"/jobs/{job_id}/jobpreparationandreleasetaskstatus")["value"]
    assert item["jobReleaseTaskExecutionInfo"]["result"] == "success"
    assert shared.get(f"/jobs/{later}")["state"] == "active"
    late.advance("PT2H")
    shared.job_reached(later, "completed")


def test_tasks_live_180_days(shared: Yard) -> None:
    late = clock_of(shared)
    job_id = shared.job(task("runs", "sleep 300"))
    waits = shared.job(task("waits"), poolInfo={"poolId": "none"})
    shared.reached(job_id, "runs", "running")
    late.advance("P179D")
    shared.add(waits, task("young"))
    assert shared.task(waits, "waits")["state"] == "active"
    late.advance("P1D")
    for job, name in ((job_id, "runs"), (waits, "waits")):
        failure = shared.reached(job, name)["executionInfo"]["failureInfo"]
        assert (failure["category"], failure["code"]) == ("servererror", "TaskEnded")
    assert shared.task(waits, "young")["state"] == "active"
    assert shared.get(f"/jobs/{job_id}")["state"] == "active"
    node = shared.get(f"/pools/{shared.pool_id}/nodes")["value"][0]
    assert node["runningTasksCount"] == 0


def test_a_release_task_that_never_says_its_end_does_not_hold_the_job(shared: Yard) -> None:
    late = clock_of(shared)
    job_id = shared.job(task("t"), jobPreparationTask={"commandLine": "true"}, jobReleaseTask={"commandLine": "sleep 3000"})
    shared.reached(job_id, "t")
    assert shared.raw("POST", f"/jobs/{job_id}/terminate").status == 202
    status = f"/jobs/{job_id}/jobpreparationandreleasetaskstatus"
    wait_for(lambda: "jobReleaseTaskExecutionInfo" in shared.get(status)["value"][0], "the release task to start")
    assert shared.get(f"/jobs/{job_id}")["state"] == "terminating"
    shared.raw("POST", f"/jobs/{job_id}/terminate").assert_error(409, "JobBeingTerminated")
    late.advance("PT17M")
    shared.job_reached(job_id, "completed")
    assert shared.get(status)["value"][0]["jobReleaseTaskExecutionInfo"]["result"] == "failure"
