"""Job managers: queued with their job, first, their ends, their token (contract 3.5, 4.3, 8.4)."""

from __future__ import annotations

import pytest
from azure.batch import models
from tests.api.conftest import Json, Raw, Sdk, Yard, sh, task, unique
from tests.conftest import Server

MANAGER = r"""
import json, os, urllib.error, urllib.request
url, job, token = (os.environ[name] for name in ("AZ_BATCH_ACCOUNT_URL", "AZ_BATCH_JOB_ID", "AZ_BATCH_AUTHENTICATION_TOKEN"))
def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json; odata=minimalmetadata"}
    request = urllib.request.Request(url.rstrip("/") + path + "?api-version=2024-02-01.19.0", data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return json.loads(error.read())["code"]
tasks = [{"id": "t" + str(n), "commandLine": "true"} for n in range(3)]
print(call("POST", "/jobs/" + job + "/addtaskcollection", {"value": tasks}))
print(call("POST", "/jobs/" + job + "/tasks", {"id": "single", "commandLine": "true"}))
admin = {"autoUser": {"elevationLevel": "admin"}}
print(call("POST", "/jobs/" + job + "/tasks", {"id": "root", "commandLine": "id -u", "userIdentity": admin}))
print(call("GET", "/jobs/" + job))
print(call("GET", "/jobs/" + os.environ["OTHER"]))
print(call("GET", "/jobs"))
print(call("POST", "/jobs", {"id": "x", "poolInfo": {"poolId": "p"}}))
print(call("GET", "/pools"))
print(call("POST", "/batchyard/clock", {"advance": "PT1S"}))
with open("token", "w") as file:
    file.write(token)
"""


def manager(script: str = "true", **more: object) -> Json:
    return {"id": "manager", "commandLine": sh(script), **more}


def test_a_real_manager_adds_the_tasks_with_its_token(raw: Raw, yard: Yard, server: Server) -> None:
    other = yard.job()
    settings = [{"name": "CODE", "value": MANAGER}, {"name": "OTHER", "value": other}]
    spec = manager('exec python3 -c "$CODE"', environmentSettings=settings, authenticationTokenSettings={"access": ["job"]})
    job_id = yard.job(jobManagerTask={**spec, "killJobOnCompletion": False})
    done = yard.reached(job_id, "manager")
    said = raw("GET", f"/jobs/{job_id}/tasks/manager/files/stdout.txt").body.decode().split()
    refused = "InsufficientAccountPermissions"
    assert said == ["200", "201", "Forbidden", "200", *[refused] * 5], raw("GET", f"/jobs/{job_id}/tasks/manager/files/stderr.txt").body
    for name in ("t0", "t1", "t2", "single"):
        assert yard.reached(job_id, name)["executionInfo"]["result"] == "success"
    token = raw("GET", f"/jobs/{job_id}/tasks/manager/files/wd%2Ftoken").body.decode()
    bearer = {"authorization": f"Bearer {token}"}
    raw("GET", f"/jobs/{job_id}", headers=bearer).assert_error(401, "InvalidAuthenticationInfo")
    assert done["authenticationTokenSettings"] == {"access": ["job"]}
    bodies = [raw("GET", path).body.decode() for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/tasks", f"/jobs/{job_id}/tasks/manager")]
    secret = token.rpartition(".")[2]
    assert len(secret) > 20
    assert secret not in server.log()
    assert all(secret not in body for body in bodies)


@pytest.mark.parametrize("token", ["", "task", "task.1", "task.1.1", "task.1.1.00", "task.²." + "9" * 30 + ".x", "task.-1.1.x", "é"])
def test_tokens_that_nobody_gave(raw: Raw, token: str) -> None:
    answer = raw("GET", "/jobs/x", headers={"authorization": f"Bearer {token}"})
    assert answer.status in (401, 403), answer.body


def test_a_task_gets_a_token_only_when_it_asks(raw: Raw, yard: Yard, node_id: str) -> None:
    script = 'test -n "$AZ_BATCH_AUTHENTICATION_TOKEN"'
    job_id = yard.job(task("without", script), task("with", script, authenticationTokenSettings={"access": ["job"]}))
    assert yard.reached(job_id, "without")["executionInfo"]["exitCode"] == 1
    assert yard.reached(job_id, "with")["executionInfo"]["exitCode"] == 0


class TestNewerSdk:
    """As azure-batch 15.1.0 sees it."""

    def _add(self, sdk: Sdk, yard: Yard, pool_id: str, **how: object) -> str:
        job_id = unique("job")
        yard.jobs.append(job_id)
        spec = models.BatchJobManagerTask(id="manager", **{"command_line": "true", **how})  # type: ignore[arg-type]
        sdk.client.create_job(
            models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id=pool_id), job_manager_task=spec)
        )
        return job_id

    def test_queued_at_once_with_all_defaults(self, sdk: Sdk, yard: Yard) -> None:
        job_id = self._add(sdk, yard, "none")
        [found] = sdk.client.list_tasks(job_id)
        assert (found.id, found.state, found.required_slots) == ("manager", "active", 1)
        assert found.constraints is not None
        assert found.constraints.max_task_retry_count == 0
        counts = sdk.client.get_job_task_counts(job_id)
        assert (counts.task_counts.active, counts.task_slot_counts.active) == (1, 1)
        read = sdk.client.get_job(job_id).job_manager_task
        assert read is not None
        assert (read.kill_job_on_completion, read.run_exclusive, read.allow_low_priority_node) == (True, True, True)

    def test_its_end_is_the_jobs(self, sdk: Sdk, yard: Yard, node_id: str) -> None:
        job_id = self._add(sdk, yard, yard.pool_id)
        job = yard.job_reached(job_id, "completed")
        assert job["executionInfo"]["terminateReason"] == "JMComplete"

    def test_its_last_failure_is_the_jobs_end_too(self, sdk: Sdk, yard: Yard, node_id: str) -> None:
        limits = models.BatchTaskConstraints(max_task_retry_count=2)
        job_id = self._add(sdk, yard, yard.pool_id, command_line=sh("exit 3"), constraints=limits)
        assert yard.job_reached(job_id, "completed")["executionInfo"]["terminateReason"] == "JMComplete"
        info = yard.task(job_id, "manager")["executionInfo"]
        assert (info["exitCode"], info["retryCount"], info["result"]) == (3, 2, "failure")

    def test_without_killing_the_job_goes_on(self, sdk: Sdk, yard: Yard, node_id: str) -> None:
        job_id = self._add(sdk, yard, yard.pool_id, kill_job_on_completion=False)
        yard.reached(job_id, "manager")
        assert yard.get(f"/jobs/{job_id}")["state"] == "active"

    @pytest.mark.parametrize(("exclusive", "held"), [(True, 4), (False, 2)])
    def test_alone_on_its_node(self, sdk: Sdk, yard: Yard, node_id: str, exclusive: bool, held: int) -> None:
        job_id = self._add(sdk, yard, yard.pool_id, command_line="sleep 300", run_exclusive=exclusive, required_slots=2)
        yard.reached(job_id, "manager", "running")
        node = sdk.client.get_node(yard.pool_id, node_id)
        assert (node.running_tasks_count, node.running_task_slots_count) == (1, held)
        counts = sdk.client.get_job_task_counts(job_id)
        assert counts.task_slot_counts.running == 2, "what the task asks for is counted, not what it holds"

    def test_a_dedicated_node_is_as_good_when_others_are_refused(self, sdk: Sdk, yard: Yard, node_id: str) -> None:
        job_id = self._add(sdk, yard, yard.pool_id, allow_low_priority_node=False)
        yard.job_reached(job_id, "completed")
