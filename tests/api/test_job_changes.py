"""Jobs and tasks under way: disabled, moved, changed, ended, reactivated, measured, shared out (contract 1.7, 2.3, 2.4, 3)."""

from __future__ import annotations

import pytest
from azure.batch import models
from tests.api.conftest import Json, Raw, Sdk, Yard, task, unique
from tests.conftest import wait_for


def post(raw: Raw, job_id: str, what: str, body: object = None, query: str = "") -> None:
    answer = raw("POST", f"/jobs/{job_id}/{what}", body, query=query)
    assert answer.status == 202, answer.body


class TestDisable:
    """disableTasks says what becomes of those that run (contract 2.3)."""

    def test_requeue_and_enable(self, raw: Raw, yard: Yard, node_id: str) -> None:
        job_id = yard.job(task("t", "test -e ../../seen && exit 0; sleep 300"))
        yard.reached(job_id, "t", "running")
        post(raw, job_id, "disable", {"disableTasks": "requeue"})
        job = yard.job_reached(job_id, "disabled")
        assert job["previousState"] == "disabling"
        back = yard.task(job_id, "t")
        assert (back["state"], back["previousState"]) == ("active", "running")
        assert (back["executionInfo"]["requeueCount"], back["executionInfo"]["retryCount"]) == (1, 0)
        assert back["executionInfo"]["lastRequeueTime"]
        assert yard.get(f"/pools/{yard.pool_id}/nodes/{node_id}")["runningTasksCount"] == 0
        yard.add(job_id, task("late"))
        post(raw, job_id, "disable", {"disableTasks": "wait"})  # accepted while it is disabled already
        yard.job_reached(job_id, "disabled")
        assert yard.task(job_id, "late")["state"] == "active"
        post(raw, job_id, "enable")
        yard.job_reached(job_id, "active")
        yard.reached(job_id, "late")
        again = yard.reached(job_id, "t", "running")
        assert again["executionInfo"]["startTime"] >= again["executionInfo"]["lastRequeueTime"]

    def test_terminate(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "sleep 300"))
        yard.reached(job_id, "t", "running")
        post(raw, job_id, "disable", {"disableTasks": "terminate"})
        yard.job_reached(job_id, "disabled")
        assert yard.task(job_id, "t")["executionInfo"]["failureInfo"]["code"] == "TaskEnded"
        post(raw, job_id, "enable")
        yard.job_reached(job_id, "active")

    def test_wait(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "until test -e go; do sleep 0.02; done"))
        yard.reached(job_id, "t", "running")
        post(raw, job_id, "disable", {"disableTasks": "wait"})
        assert yard.get(f"/jobs/{job_id}")["state"] == "disabling"
        raw("POST", f"/jobs/{job_id}/enable").assert_error(409, "OperationInvalidForCurrentState")
        assert yard.task(job_id, "t")["state"] == "running"
        post(raw, job_id, "disable", {"disableTasks": "requeue"})  # who will not wait any longer says so
        yard.job_reached(job_id, "disabled")
        assert yard.task(job_id, "t")["state"] == "active"

    @pytest.mark.parametrize("body", [{}, {"disableTasks": "maybe"}, {"disableTasks": None}, None])
    def test_what_is_refused(self, raw: Raw, yard: Yard, body: object) -> None:
        answer = raw("POST", f"/jobs/{yard.job()}/disable", body)
        assert answer.status == 400, answer.body

    def test_moved_to_another_pool(self, sdk: Sdk, yard: Yard) -> None:
        batch, job_id = sdk.client, unique("job")
        yard.jobs.append(job_id)
        batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id="none")))
        batch.create_task(job_id, models.BatchTaskCreateOptions(id="t", command_line="true"))
        batch.begin_disable_job(job_id, models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=0).wait()
        batch.update_job(job_id, models.BatchJobUpdateOptions(pool_info=models.BatchPoolInfo(pool_id=yard.pool_id)))
        batch.begin_enable_job(job_id, polling_interval=0).wait()
        assert yard.reached(job_id, "t")["nodeInfo"]["poolId"] == yard.pool_id
        assert yard.get(f"/jobs/{job_id}")["executionInfo"]["poolId"] == yard.pool_id


class TestPut:
    """PUT replaces everything that can change (contract 1.7)."""

    def test_what_is_absent_falls_to_its_default(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(
            priority=7,
            maxParallelTasks=3,
            allowTaskPreemption=True,
            metadata=[{"name": "a", "value": "b"}],
            constraints={"maxWallClockTime": "PT5H", "maxTaskRetryCount": 2},
            displayName="stays",
            usesTaskDependencies=True,
        )
        answer = raw("PUT", f"/jobs/{job_id}", {"poolInfo": {"poolId": yard.pool_id}})
        assert (answer.status, answer.body) == (200, b"")
        job = yard.get(f"/jobs/{job_id}")
        assert (job["priority"], job["maxParallelTasks"], job["allowTaskPreemption"]) == (0, -1, False)
        assert job["constraints"] == {"maxWallClockTime": "P10675199DT2H48M5.4775807S", "maxTaskRetryCount": 0}
        assert "metadata" not in job
        assert (job["displayName"], job["usesTaskDependencies"]) == ("stays", True)
        assert job["eTag"] == answer.headers["etag"]

    def test_the_pool_is_required_and_fixed_while_the_job_is_active(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job()
        raw("PUT", f"/jobs/{job_id}", {"priority": 1}).assert_error(400, "MissingRequiredProperty", PropertyName="poolInfo")
        raw("PUT", f"/jobs/{job_id}", {"poolInfo": {"poolId": "other"}}).assert_error(409, "OperationInvalidForCurrentState")
        raw("PUT", f"/jobs/{job_id}", {"poolInfo": {"poolId": yard.pool_id}, "displayName": "x"}).assert_error(400, "InvalidRequestBody")

    def test_ending_when_complete_is_not_taken_back_by_silence(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "sleep 300"))
        pool = {"poolInfo": {"poolId": yard.pool_id}}
        assert raw("PUT", f"/jobs/{job_id}", {**pool, "onAllTasksComplete": "terminatejob"}).status == 200
        raw("PUT", f"/jobs/{job_id}", pool).assert_error(400, "InvalidPropertyValue", PropertyName="onAllTasksComplete")

    def test_as_the_newer_sdk_read_it(self, sdk: Sdk, yard: Yard) -> None:
        manager = {"id": "m", "commandLine": "sleep 300"}
        preparation = {"commandLine": "true"}
        job_id = yard.job(jobManagerTask=manager, jobPreparationTask=preparation, metadata=[{"name": "a", "value": "b"}])
        read = sdk.client.get_job(job_id)
        read.priority = 5
        sdk.client.replace_job(job_id, read)
        again = sdk.client.get_job(job_id)
        assert again.priority == 5
        assert again.job_manager_task is not None
        assert again.metadata is not None


class TestEnds:
    """Reasons that the service gives (contract 2.3, 3.8, 3.9)."""

    @pytest.mark.parametrize(
        ("action", "state", "reason"),
        [
            ("terminate", "completed", "TaskFailed"),
            ("disable", "disabled", None),
            ("none", "active", None),
            (None, "completed", "TaskFailed"),
        ],
    )
    def test_what_a_failed_task_does_to_its_job(self, yard: Yard, action: str | None, state: str, reason: str | None) -> None:
        conditions = {} if action is None else {"exitConditions": {"default": {"jobAction": action}}}
        job_id = yard.job(onTaskFailure="performexitoptionsjobaction")
        yard.add(job_id, task("runs", "sleep 300"))
        yard.reached(job_id, "runs", "running")
        yard.add(job_id, task("bad", "exit 1", **conditions))
        yard.reached(job_id, "bad")
        job = yard.job_reached(job_id, state)
        assert job["executionInfo"].get("terminateReason") == reason
        expected = {"completed": ("completed", 0), "disabled": ("active", 1), "active": ("running", 0)}[state]
        left = yard.task(job_id, "runs")
        assert (left["state"], left["executionInfo"]["requeueCount"]) == expected

    def test_a_task_that_takes_too_long(self, yard: Yard) -> None:
        job_id = yard.job(task("t", "sleep 300", constraints={"maxWallClockTime": "PT0.2S", "maxTaskRetryCount": 3}))
        info = yard.reached(job_id, "t")["executionInfo"]
        assert (info["failureInfo"]["category"], info["failureInfo"]["code"]) == ("servererror", "TaskEnded")
        assert (info["exitCode"], info["retryCount"], info["result"]) == (137, 0, "failure")


class TestReactivate:
    """A failed task runs again, its counters at zero (contract 2.4, 3.3)."""

    def test_counters_and_result(self, sdk: Sdk, yard: Yard) -> None:
        script = "test -e $AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID && exit 0; exit 5"
        job_id = yard.job(usesTaskDependencies=True)
        yard.add(job_id, task("t", script, constraints={"maxTaskRetryCount": 1}), task("child", dependsOn={"taskIds": ["t"]}))
        failed = yard.reached(job_id, "t")
        assert failed["executionInfo"]["retryCount"] == 1
        assert yard.task(job_id, "child")["state"] == "active"
        yard.add(job_id, task("mend", "touch $AZ_BATCH_NODE_SHARED_DIR/$AZ_BATCH_JOB_ID"))
        yard.reached(job_id, "mend")
        sdk.client.reactivate_task(job_id, "t")
        wait_for(lambda: yard.task(job_id, "t")["executionInfo"].get("result") == "success", "the task to succeed")
        done = yard.task(job_id, "t")
        info = done["executionInfo"]
        assert (info["retryCount"], info["requeueCount"], info["exitCode"]) == (0, 0, 0)
        assert "failureInfo" not in info
        assert done["eTag"] != failed["eTag"]
        yard.reached(job_id, "child")
        counts = yard.get(f"/jobs/{job_id}/taskcounts")["taskCounts"]
        assert counts == {"active": 0, "running": 0, "completed": 3, "succeeded": 3, "failed": 0}

    def test_what_is_refused(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("good"), task("bad", "exit 1"), task("runs", "sleep 300"))
        yard.reached(job_id, "good")
        yard.reached(job_id, "bad")
        raw("POST", f"/jobs/{job_id}/tasks/good/reactivate").assert_error(409, "TaskSucceeded")
        raw("POST", f"/jobs/{job_id}/tasks/runs/reactivate").assert_error(409, "TaskNotCompleted")
        raw("POST", f"/jobs/{job_id}/tasks/none/reactivate").assert_error(404, "TaskNotFound")
        post(raw, job_id, "terminate")
        yard.job_reached(job_id, "completed")
        raw("POST", f"/jobs/{job_id}/tasks/bad/reactivate").assert_error(409, "JobCompleted")


class TestTaskPut:
    """PUT of a task carries its constraints and nothing else (contract 1.7)."""

    def test_absent_ones_are_the_jobs(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(poolInfo={"poolId": "none"}, constraints={"maxTaskRetryCount": 3})
        yard.add(job_id, task("t", constraints={"maxTaskRetryCount": 1, "retentionTime": "PT1H"}))
        before = yard.task(job_id, "t")
        infinite = "P10675199DT2H48M5.4775807S"
        for body in ({}, {"constraints": {"maxWallClockTime": "PT5M"}}):
            answer = raw("PUT", f"/jobs/{job_id}/tasks/t", body)
            assert (answer.status, answer.body) == (200, b"")
            wall_clock = "PT5M" if body else infinite
            after = yard.task(job_id, "t")
            assert after["constraints"] == {"maxWallClockTime": wall_clock, "retentionTime": "P7D", "maxTaskRetryCount": 3}
            assert after["eTag"] == answer.headers["etag"] != before["eTag"]
        raw("PUT", f"/jobs/{job_id}/tasks/t", {"constraints": {"maxTaskRetryCount": -2}}).assert_error(400, "InvalidPropertyValue")
        raw("PUT", f"/jobs/{job_id}/tasks/t", {"commandLine": "x"}).assert_error(400, "InvalidRequestBody")

    def test_more_retries_for_a_task_that_runs(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "test -e again && exit 0; touch again; until test -e go; do sleep 0.02; done; exit 1"))
        yard.reached(job_id, "t", "running")
        assert raw("PUT", f"/jobs/{job_id}/tasks/t", {"constraints": {"maxTaskRetryCount": 1}}).status == 200
        go = task("go", f"until touch $AZ_BATCH_NODE_ROOT_DIR/workitems/{job_id}/job-1/t/wd/go; do sleep 0.02; done")
        yard.add(job_id, {**go, "userIdentity": {"autoUser": {"elevationLevel": "admin"}}})
        info = yard.reached(job_id, "t")["executionInfo"]
        assert (info["result"], info["retryCount"]) == ("success", 1)


class TestStatistics:
    """$expand=stats (contract 5.4)."""

    def test_of_jobs_and_tasks(self, raw: Raw, sdk: Sdk, yard: Yard) -> None:
        job_id = yard.job(task("good", "i=0; while test $i -lt 30000; do i=$((i+1)); done"), task("bad", "exit 1"))
        yard.add(job_id, task("again", "exit 1", constraints={"maxTaskRetryCount": 2}))
        for name in ("good", "bad", "again"):
            yard.reached(job_id, name)
        stats = raw("GET", f"/jobs/{job_id}", query="%24expand=stats").json["stats"]
        assert stats["url"] == f"{raw.endpoint}/jobs/{job_id}"
        assert (stats["numSucceededTasks"], stats["numFailedTasks"], stats["numTaskRetries"]) == ("1", "2", "2")
        assert stats["userCPUTime"].startswith("PT")
        assert stats["userCPUTime"] != "PT0S"
        [listed] = [job for job in raw("GET", "/jobs", query="%24expand=stats").json["value"] if job["id"] == job_id]
        assert {**listed["stats"], "lastUpdateTime": ""} == {**stats, "lastUpdateTime": ""}
        tasks = {item["id"]: item["stats"] for item in raw("GET", f"/jobs/{job_id}/tasks", query="%24expand=stats").json["value"]}
        one = raw("GET", f"/jobs/{job_id}/tasks/good", query="%24expand=stats").json["stats"]
        assert {**tasks["good"], "lastUpdateTime": ""} == {**one, "lastUpdateTime": ""}
        assert one["wallClockTime"] != "PT0S"
        assert "numSucceededTasks" not in one
        read = sdk.client.get_task(job_id, "good", expand=["stats"])
        assert read.task_statistics is not None
        assert read.task_statistics.wall_clock_time.total_seconds() > 0

    def test_only_when_asked_and_nothing_else(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t"))
        assert "stats" not in yard.get(f"/jobs/{job_id}")
        assert "stats" not in yard.task(job_id, "t")
        for path in ("/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/tasks", f"/jobs/{job_id}/tasks/t"):
            raw("GET", path, query="%24expand=tasks").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$expand")


class TestOrder:
    """Who is served first (contract 3.1); the one node is held until everybody stands in line."""

    def _line_up(self, yard: Yard, *specs: Json) -> list[str]:
        """Jobs whose tasks all wait behind one that holds the node; they start when it is ended."""
        self.holder = yard.job(task("hold", "sleep 300", requiredSlots=4))
        yard.reached(self.holder, "hold", "running")
        return [yard.job(*spec.pop("tasks"), **spec) for spec in specs]

    def _started(self, yard: Yard, job_ids: list[str], raw: Raw) -> list[str]:
        """Job ids in the order in which their tasks started."""
        raw("POST", f"/jobs/{self.holder}/tasks/hold/terminate")
        starts = []
        for job_id in job_ids:
            for item in yard.get(f"/jobs/{job_id}/tasks")["value"]:
                done = yard.reached(job_id, item["id"])
                starts.append((done["executionInfo"]["startTime"], job_id))
        return [job_id for _, job_id in sorted(starts)]

    def test_higher_priority_first_and_it_can_change(self, raw: Raw, yard: Yard, node_id: str) -> None:
        def tasks() -> list[Json]:
            return [task(f"t{n}", requiredSlots=4) for n in range(3)]

        low, high, raised = self._line_up(
            yard, {"tasks": tasks(), "priority": -1000}, {"tasks": tasks(), "priority": 5}, {"tasks": tasks(), "priority": 0}
        )
        assert raw("PATCH", f"/jobs/{raised}", {"priority": 1000}).status == 200
        assert self._started(yard, [low, high, raised], raw) == [raised] * 3 + [high] * 3 + [low] * 3

    def test_equal_jobs_are_served_evenly(self, raw: Raw, yard: Yard, node_id: str) -> None:
        jobs = self._line_up(yard, *({"tasks": [task(f"t{n}") for n in range(50)]} for _ in range(2)))
        first = self._started(yard, jobs, raw)[:50]
        assert 15 <= first.count(jobs[0]) <= 35, first

    def test_at_most_so_many_at_once(self, yard: Yard, node_id: str) -> None:
        job_id = yard.job(*(task(f"t{n}", "sleep 300") for n in range(4)), maxParallelTasks=2)
        other = yard.job(task("o", "sleep 300"), task("p", "sleep 300"), task("q", "sleep 300"))
        wait_for(lambda: yard.get(f"/jobs/{other}/taskcounts")["taskCounts"]["running"] == 2, "two of the other job to run")
        assert yard.get(f"/jobs/{job_id}/taskcounts")["taskCounts"] == {
            "active": 2,
            "running": 2,
            "completed": 0,
            "succeeded": 0,
            "failed": 0,
        }
        assert yard.raw("PATCH", f"/jobs/{job_id}", {"maxParallelTasks": 3}).status == 200
        assert yard.raw("POST", f"/jobs/{other}/terminate").status == 202
        wait_for(lambda: yard.get(f"/jobs/{job_id}/taskcounts")["taskCounts"]["running"] == 3, "a third to run")

    def test_only_a_job_that_allows_it_is_preempted(self, raw: Raw, yard: Yard, node_id: str) -> None:
        keeps = yard.job(task("t", "sleep 300", requiredSlots=2))
        yields = yard.job(task("t", "sleep 300", requiredSlots=2), allowTaskPreemption=True)
        for job_id in (keeps, yields):
            yard.reached(job_id, "t", "running")
        urgent = yard.job(task("t", requiredSlots=2), priority=1)
        yard.reached(urgent, "t")
        pushed = yard.reached(yields, "t", "running")
        assert pushed["executionInfo"]["requeueCount"] == 1
        kept = yard.task(keeps, "t")
        assert (kept["state"], kept["executionInfo"]["requeueCount"]) == ("running", 0)
