"""Every operation that is served, called through both SDKs: exact status and headers of contract 1.6 and 1.3, and what the SDKs read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from azure.batch import models
from azure.batch.models._models import (  # not exported by 15.1.0
    BatchJobTerminateOptions,
    BatchNodeDeallocateOptions,
    BatchNodeDisableSchedulingOptions,
    BatchNodeRebootOptions,
    BatchNodeReimageOptions,
)
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient, ContainerSasPermissions, generate_container_sas
from tests.api.conftest import VERSION, Json, Raw, Sdk, Seen, machine, sh, unique
from tests.conftest import Server, wait_for

from batchyard.api.operations import OPERATIONS, match

SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
TOUR = Path(__file__).with_name("sdk14_tour.py")

_POOL, _NODE, _JOB, _TASK = "/pools/{pool_id}", "/pools/{pool_id}/nodes/{node_id}", "/jobs/{job_id}", "/jobs/{job_id}/tasks/{task_id}"
_SCHEDULE = "/jobschedules/{schedule_id}"
_TASK_FILE, _NODE_FILE = _TASK + "/files/{file_path}", _NODE + "/files/{file_path}"
SUCCESS: dict[tuple[str, str], tuple[int, str]] = {
    ("GET", "/supportedimages"): (200, "J"),
    ("GET", "/nodecounts"): (200, "J"),
    ("GET", "/poolusagemetrics"): (200, "J"),
    ("GET", "/applications"): (200, "J"),
    ("GET", "/applications/{application_id}"): (200, "EJ"),
    ("POST", "/pools"): (201, "EIL"),
    ("GET", "/pools"): (200, "J"),
    ("GET", _POOL): (200, "EJ"),
    ("HEAD", _POOL): (200, "E"),
    ("DELETE", _POOL): (202, ""),
    ("PATCH", _POOL): (200, "EI"),
    ("POST", _POOL + "/updateproperties"): (204, "EI"),
    ("POST", _POOL + "/enableautoscale"): (200, "EI"),
    ("POST", _POOL + "/disableautoscale"): (200, "EI"),
    ("POST", _POOL + "/evaluateautoscale"): (200, "IJ"),
    ("POST", _POOL + "/resize"): (202, "EI"),
    ("POST", _POOL + "/stopresize"): (202, "EI"),
    ("POST", _POOL + "/removenodes"): (202, "EI"),
    ("GET", _POOL + "/nodes"): (200, "J"),
    ("GET", _NODE): (200, "J"),
    ("POST", _NODE + "/reboot"): (202, "I"),
    ("POST", _NODE + "/reimage"): (202, "I"),
    ("POST", _NODE + "/start"): (202, "I"),
    ("POST", _NODE + "/deallocate"): (202, "I"),
    ("POST", _NODE + "/disablescheduling"): (200, "I"),
    ("POST", _NODE + "/enablescheduling"): (200, "I"),
    ("GET", _NODE + "/remoteloginsettings"): (200, "J"),
    ("POST", _NODE + "/uploadbatchservicelogs"): (200, "J"),
    ("POST", _NODE + "/users"): (201, "IL"),
    ("PUT", _NODE + "/users/{user_name}"): (200, "I"),
    ("DELETE", _NODE + "/users/{user_name}"): (200, ""),
    ("GET", _NODE + "/extensions"): (200, "J"),
    ("GET", _NODE + "/extensions/{extension_name}"): (200, "J"),
    ("GET", _NODE + "/files"): (200, "J"),
    ("GET", _NODE_FILE): (200, "F"),
    ("HEAD", _NODE_FILE): (200, "F"),
    ("DELETE", _NODE_FILE): (200, ""),
    ("POST", "/jobs"): (201, "EIL"),
    ("GET", "/jobs"): (200, "J"),
    ("GET", _JOB): (200, "EJ"),
    ("PATCH", _JOB): (200, "EI"),
    ("DELETE", _JOB): (202, ""),
    ("PUT", _JOB): (200, "EI"),
    ("POST", _JOB + "/disable"): (202, "EI"),
    ("POST", _JOB + "/enable"): (202, "EI"),
    ("POST", _JOB + "/terminate"): (202, "EI"),
    ("GET", _JOB + "/jobpreparationandreleasetaskstatus"): (200, "J"),
    ("GET", _JOB + "/taskcounts"): (200, "J"),
    ("POST", _JOB + "/tasks"): (201, "EIL"),
    ("POST", _JOB + "/addtaskcollection"): (200, "J"),
    ("POST", "/jobschedules"): (201, "EIL"),
    ("GET", "/jobschedules"): (200, "J"),
    ("GET", _SCHEDULE): (200, "EJ"),
    ("HEAD", _SCHEDULE): (200, "E"),
    ("PATCH", _SCHEDULE): (200, "EI"),
    ("PUT", _SCHEDULE): (200, "EI"),
    ("DELETE", _SCHEDULE): (202, ""),
    ("POST", _SCHEDULE + "/disable"): (204, "EI"),
    ("POST", _SCHEDULE + "/enable"): (204, "EI"),
    ("POST", _SCHEDULE + "/terminate"): (202, "EI"),
    ("GET", _SCHEDULE + "/jobs"): (200, "J"),
    ("GET", _JOB + "/tasks"): (200, "J"),
    ("GET", _TASK): (200, "EIJ"),
    ("PUT", _TASK): (200, "EI"),
    ("DELETE", _TASK): (200, ""),
    ("POST", _TASK + "/reactivate"): (204, "E"),
    ("GET", _TASK + "/subtasksinfo"): (200, "J"),
    ("POST", _TASK + "/terminate"): (204, "EI"),
    ("GET", _TASK + "/files"): (200, "J"),
    ("GET", _TASK_FILE): (200, "F"),
    ("HEAD", _TASK_FILE): (200, "F"),
    ("DELETE", _TASK_FILE): (200, ""),
}
"""Status of success and headers: E ETag and Last-Modified, I DataServiceId, L Location, J a JSON body, F those of a file."""

FILE_HEADERS = {"content-length", "content-type", "last-modified", "ocp-creation-time"} | {
    f"ocp-batch-file-{name}" for name in ("isdirectory", "url", "mode")
}


RESULTS = "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"


def test_the_table_knows_every_operation() -> None:
    present = [op for op in OPERATIONS if op.until is None]
    assert set(SUCCESS) == {(op.method, op.path) for op in present if not op.path.startswith("/batchyard/")}


NEEDS_ROOT = {("POST", _NODE + "/users"), ("PUT", _NODE + "/users/{user_name}"), ("DELETE", _NODE + "/users/{user_name}")}
SINCE_15 = {("POST", _NODE + "/start"), ("POST", _NODE + "/deallocate")}


@contextmanager
def container(server: Server) -> Iterator[str]:
    """URL of a blob container with a signature that may write."""
    service = BlobServiceClient.from_connection_string(server.storage_connection_string)
    made = service.create_container(unique("logs"))
    permission, expiry = ContainerSasPermissions(write=True, create=True, list=True), datetime.now(UTC) + timedelta(hours=1)
    name = str(made.container_name)
    sas = generate_container_sas(server.storage_account, name, account_key=server.storage_key, permission=permission, expiry=expiry)
    yield f"{made.url}?{sas}"
    made.delete_container()


@contextmanager
def application(server: Server) -> Iterator[str]:
    """Id of an application with the version 1, which no call of an SDK can upload."""
    raw, name, made = Raw(server.endpoint, server.account, server.key), unique("app"), io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("hello", "hello")
    assert raw("PUT", f"/batchyard/v1/applications/{name}/versions/1", made.getvalue()).status == 201
    yield name
    assert raw("DELETE", f"/batchyard/v1/applications/{name}").status == 204


def assert_contract(calls: Iterable[Seen], unknown: Set[tuple[str, str]] = frozenset()) -> None:
    """Every call that succeeded did so as the table says, and each operation that the SDK knows was called."""
    called = set()
    for call in calls:
        parts = urlsplit(call.url)
        op, _ = match(call.method, parts.path, VERSION)
        headers = call.headers
        assert len(headers["request-id"]) == 36
        assert headers["dataserviceversion"] == "3.0"
        assert headers["server"] == "Microsoft-HTTPAPI/2.0"
        assert headers["x-content-type-options"] == "nosniff"
        assert "client-request-id" not in headers
        if call.status >= 300:
            continue
        status, marks = SUCCESS[op.method, op.path]
        assert call.status == status, call
        assert ("etag" in headers) == ("E" in marks), call
        assert ("last-modified" in headers) == ("E" in marks or "F" in marks), call
        assert ("dataserviceid" in headers) == ("I" in marks), call
        assert ("location" in headers) == ("L" in marks), call
        assert (headers.get("content-type") == "application/json;odata=minimalmetadata") == ("J" in marks), call
        if "E" in marks:
            assert headers["etag"].startswith("0x8D"), call
            assert headers["last-modified"].endswith(" GMT"), call
        if op.method == "POST" and "I" in marks and "L" not in marks:
            assert unquote(headers["dataserviceid"]) == unquote(f"{parts.scheme}://{parts.netloc}{parts.path}")
        if "L" in marks:
            assert headers["location"] == headers["dataserviceid"]
            assert headers["location"].startswith(f"{parts.scheme}://{parts.netloc}{parts.path}/")
        if "F" in marks:
            assert set(headers) >= FILE_HEADERS, call
            assert headers["content-type"] == "application/octet-stream"
        called.add((op.method, op.path))
    assert called == set(SUCCESS) - unknown - (NEEDS_ROOT if os.geteuid() else set())


@pytest.fixture(scope="module")
def tour14(server: Server, pool_id: str) -> Json:
    """What the older SDK saw and read on its tour."""
    interpreter = os.environ.get(SDK14_PYTHON)
    if not interpreter:
        pytest.skip(f"{SDK14_PYTHON} is not set (make test sets it)")
    with container(server) as url, application(server) as name:
        command = [interpreter, str(TOUR), unique("tour"), pool_id, url, name]
        done = subprocess.run(command, capture_output=True, text=True, env=server.environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


class TestOlderSdk:
    """azure-batch 14.2.0, which names its headers and reads its errors in its own way."""

    def test_calls(self, tour14: Json) -> None:
        assert_contract((Seen(**call) for call in tour14["calls"]), SINCE_15)

    def test_nodes(self, tour14: Json) -> None:
        results = tour14["results"]
        node = results["changed_node"]
        assert (node["state"], node["start_task_info"]["result"]) == ("idle", "success")
        assert results["login"] == [node["ip_address"], 22]
        assert (results["extensions"], results["extension"]) == (["monitor", "batchNodeExtension"], "NotInstalled")
        directory, files = results["logs"]
        assert files >= 1
        assert directory.startswith("batchyard-")
        assert (results["off"]["scheduling_state"], results["off"]["state"]) == ("disabled", "offline")
        assert (results["off_again"]["status"], results["off_again"]["code"]) == (409, "NodeAlreadyInTargetSchedulingState")
        if os.geteuid() == 0:
            assert (results["user_again"]["status"], results["user_again"]["code"]) == (409, "NodeUserExists")
            assert (results["user_gone"]["status"], results["user_gone"]["code"]) == (404, "NodeUserNotFound")

    def test_pools(self, tour14: Json) -> None:
        results = tour14["results"]
        assert (results["pool_again"]["status"], results["pool_again"]["code"]) == (409, "PoolExists")
        assert "The specified pool already exists." in results["pool_again"]["text"]
        assert results["pool_exists"] == [True, False]
        assert results["pool"]["id"] in results["pools"]
        assert results["pool"]["vm_size"] == "standard_d2s_v3"
        assert "resize_errors" not in results["pool"]
        assert results["autoscale_on"]["auto_scale_formula"] == "$TargetDedicatedNodes=0;"
        assert results["autoscale_on"]["auto_scale_run"]["results"] == RESULTS
        trial, error = results["autoscale_trial"], results["autoscale_trial"]["error"]
        assert (trial["results"], error["code"]) == (RESULTS, "AutoScalingFormulaEvaluationError")
        assert error["values"] == [{"name": "Message", "value": "Line 1, Col 1: Undefined symbol: something_useless"}]
        refused = results["autoscale_no_resize"]
        assert (refused["status"], refused["code"]) == (409, "OperationNotValidOnPool")
        assert (results["autoscale_off"]["enable_auto_scale"], "auto_scale_formula" in results["autoscale_off"]) == (False, False)
        assert (results["pool_not_matched"]["status"], results["pool_not_matched"]["code"]) == (412, "ConditionNotMet")

    def test_changes_of_pools(self, tour14: Json) -> None:
        results = tour14["results"]
        rich = results["rich"]
        assert rich["start_task"]["wait_for_success"] is True
        assert rich["user_accounts"] == [{"name": "ada", "elevation_level": "admin"}]
        assert rich["target_node_communication_mode"] == "simplified"
        assert results["patched"]["metadata"] == [{"name": "a", "value": "1"}]
        assert results["replaced"]["metadata"] == [{"name": "b", "value": "2"}]
        assert "start_task" not in results["replaced"]
        assert results["stopped"]["resize_errors"][0]["code"] == "ResizeStopped"
        assert results["rich"]["target_dedicated_nodes"] == 0, "none was given"
        assert results["not_resizing"]["allocation_state"] == "steady"
        assert (results["removed"]["target_dedicated_nodes"], results["removed"]["current_dedicated_nodes"]) == (0, 0)
        assert results["removed"]["stats"]["usage_stats"]["dedicated_core_time"] > 0

    def test_account(self, tour14: Json) -> None:
        results = tour14["results"]
        assert results["images"][0]["verification_type"] == "verified"
        assert {"canonical", "debian", "almalinux"} <= {image["image_reference"]["publisher"] for image in results["images"]}
        assert results["node_counts"]["dedicated"]["total"] == 1
        assert results["node_counts"]["low_priority"]["total"] == 0
        assert results["usage"] == []
        assert results["usage_too_new"]["code"] == "InvalidQueryParameterValue"

    def test_jobs(self, tour14: Json) -> None:
        results = tour14["results"]
        assert len(results["jobs"]) == 3
        assert (results["job"]["priority"], results["job_patched"]["priority"]) == (0, 7)
        assert results["job"]["e_tag"] != results["job_patched"]["e_tag"]
        assert results["counts"]["task_slot_counts"]["active"] == 0
        ended = results["job_terminated"]
        assert (ended["previous_state"], ended["execution_info"]["terminate_reason"]) == ("terminating", "enough")
        assert (results["job_terminated_again"]["status"], results["job_terminated_again"]["code"]) == (409, "JobCompleted")
        assert (results["job_not_found"]["status"], results["job_not_found"]["code"]) == (404, "JobNotFound")

    def test_schedules(self, tour14: Json) -> None:
        results = tour14["results"]
        plan = results["plan"]
        assert plan["schedule"] == {"recurrence_interval": "PT1H", "start_window": "PT5M"}
        assert plan["execution_info"]["recent_job"]["id"].endswith(":job-1")
        assert results["plan_exists"] == [True, False]
        assert results["plan_jobs"] == [plan["execution_info"]["recent_job"]["id"]]
        assert (results["plan_taken"]["status"], results["plan_taken"]["code"]) == (409, "JobScheduleWithSameIdExists")
        assert results["plan_disabled_twice"]["code"] == "JobScheduleDisabled"
        assert results["plan_replaced"]["job_specification"]["priority"] == 4
        assert results["plan_ended"]["previous_state"] == "terminating"
        assert results["plan_job_ended"]["execution_info"]["terminate_reason"] == "TerminateJobSchedule"
        assert (results["plan_not_found"]["status"], results["plan_not_found"]["code"]) == (404, "JobScheduleNotFound")
        assert results["own_pool"]["scheduling_error"]["code"] == "InvalidCertificatesInAutoPool"

    def test_managers_and_special_tasks(self, tour14: Json) -> None:
        results = tour14["results"]
        assert results["manager"]["execution_info"]["exit_code"] == 0, "it has a token"
        assert results["manager"]["authentication_token_settings"] == {"access": ["job"]}
        assert results["id_taken"]["code"] == "TaskIdSameAsJobPreparationTask"
        requeued = results["requeued"]
        assert (requeued["state"], requeued["execution_info"]["requeue_count"]) == ("active", 1)
        assert results["enabled_twice"][1]["code"] == "JobNotFound"
        assert results["statistics"]["num_succeeded_tasks"] == 1
        [item] = results["prepared"]
        before, after = item["job_preparation_task_execution_info"], item["job_release_task_execution_info"]
        assert (before["state"], before["result"], before["retry_count"]) == ("completed", "success", 0)
        assert (after["state"], after["result"]) == ("completed", "success")
        assert after["task_root_directory"].endswith("/after")
        assert results["not_reactivated"]["code"] == "JobCompleted"

    def test_many_tasks(self, tour14: Json) -> None:
        results = tour14["results"]
        assert results["added"] == [["success"], 250]
        assert sorted(results["listed"]) == sorted(f"t{number}" for number in range(250))
        [[name, code, said]] = results["one_wrong"]
        assert (name, code) == ("not good", "InvalidPropertyValue")
        assert " id: An id is 1 to 64 letters" in said
        assert results["too_large"] == ["RequestBodyTooLarge"]
        assert results["small"] == "small"
        sizes = [len(json.dumps(call)) for call in tour14["calls"] if call["status"] == 413]
        assert len(sizes) == 2, "the pair and then the large task alone, without a retry"

    def test_tasks(self, tour14: Json) -> None:
        results = tour14["results"]
        ended = results["task_ended"]
        assert (ended["state"], ended["previous_state"], ended["execution_info"]["result"]) == ("completed", "active", "failure")
        assert ended["execution_info"]["failure_info"]["code"] == "TaskEnded"
        again = results["task_again"]
        assert (again["state"], again["previous_state"], again["constraints"]["max_task_retry_count"]) == ("active", "completed", 4)
        assert results["subtasks"] == {"value": []}
        assert (results["task_not_found"]["status"], results["task_not_found"]["code"]) == (404, "TaskNotFound")

    def test_files(self, tour14: Json) -> None:
        results = tour14["results"]
        assert results["files"] == ["stderr.txt", "stdout.txt", "wd", "wd/out put", "wd/out put/a b", "wd/two"]
        assert (results["file"], results["range"]) == ("one\n", "ell")
        assert results["file_not_found"]["code"] == results["file_deleted"]["code"] == "FileNotFound"
        assert results["node_files"] == ["applications", "fsmounts", "shared", "startup", "volatile", "workitems"]
        assert results["node_file"] == "hello\n"
        for properties in (results["properties"], results["node_properties"]):
            assert properties["Content-Length"] == "6"
            assert properties["ocp-batch-file-isdirectory"] == "False"
            assert properties["ocp-batch-file-mode"] == "0o100644"
            assert "files/" in properties["ocp-batch-file-url"]
            assert properties["Last-Modified"].startswith("20")
            assert properties["ocp-creation-time"].startswith("20")
        assert results["node"]["total_tasks_run"] >= 1

    def test_applications(self, tour14: Json) -> None:
        assert tour14["results"]["application"]["versions"] == ["1"]
        assert tour14["results"]["application"]["id"] in tour14["results"]["applications"]


def test_newer_sdk_calls_everything(sdk: Sdk, pool_id: str, server: Server) -> None:
    """azure-batch 15.1.0 calls every operation once; what it reads is the matter of the other modules."""
    with container(server) as url:
        _node_changes(sdk, url)
    _account(sdk, pool_id)
    with application(server) as name:
        assert name in {one.id for one in sdk.client.list_applications(max_results=1)}
        assert sdk.client.get_application(name).versions == ["1"]
    _pools(sdk)
    _jobs_and_tasks(sdk)
    _schedules(sdk)
    _nodes_and_files(sdk, pool_id)
    assert_contract(sdk.calls)
    assert all("api-version=2025-06-01" in call.url for call in sdk.calls)


def _account(sdk: Sdk, pool_id: str) -> None:
    batch = sdk.client
    [first, *others] = batch.list_supported_images(max_results=3)
    assert (first.os_type, first.verification_type) == ("linux", "verified")
    assert "batch.node.ubuntu 22.04" in {image.node_agent_sku_id for image in others}
    [counts] = [counts for counts in batch.list_pool_node_counts(max_results=1) if counts.pool_id == pool_id]
    assert counts.dedicated is not None
    assert counts.low_priority is not None
    assert (counts.dedicated.total, counts.low_priority.total, counts.dedicated.deallocated) == (1, 0, 0)
    assert list(batch.list_pool_usage_metrics()) == []


def _pools(sdk: Sdk) -> None:
    batch, pool_id = sdk.client, unique("pool")
    pool = models.BatchPoolCreateOptions(
        id=pool_id, vm_size="STANDARD_D2S_V3", virtual_machine_configuration=machine(), target_dedicated_nodes=0
    )
    batch.create_pool(pool)
    with pytest.raises(ResourceExistsError) as refused:
        batch.create_pool(pool)
    assert refused.value.error is not None
    assert batch.pool_exists(pool_id)
    with pytest.raises(ResourceNotFoundError):
        batch.pool_exists(unique())
    read = batch.get_pool(pool_id)
    assert read.vm_size == "standard_d2s_v3"
    assert read.resize_errors is None
    assert pool_id in {item.id for item in batch.list_pools(max_results=1)}
    wait_for(lambda: batch.get_pool(pool_id).allocation_state == "steady", "the pool to be steady")
    resize = models.BatchPoolResizeOptions(target_dedicated_nodes=0, target_low_priority_nodes=0)
    batch.begin_resize_pool(pool_id, resize, polling_interval=0).result()
    batch.enable_pool_auto_scale(pool_id, models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes=0;"))
    trial = batch.evaluate_pool_auto_scale(pool_id, models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes=0;"))
    assert trial.results == RESULTS
    batch.disable_pool_auto_scale(pool_id)
    with pytest.raises(ResourceModifiedError):
        batch.begin_delete_pool(pool_id, etag="0x8D4BCC2E4835CD0", match_condition=MatchConditions.IfNotModified)
    batch.update_pool(pool_id, models.BatchPoolUpdateOptions(metadata=[models.BatchMetadataItem(name="a", value="1")]))
    batch.replace_pool_properties(
        pool_id, models.BatchPoolReplaceOptions(application_package_references=[], metadata=[models.BatchMetadataItem(name="b", value="2")])
    )
    assert [(item.name, item.value) for item in batch.get_pool(pool_id).metadata or []] == [("b", "2")]
    grow = models.BatchPoolResizeOptions(target_dedicated_nodes=1, resize_timeout=timedelta(minutes=5))
    batch.begin_resize_pool(pool_id, grow, polling_interval=0).wait()
    job_id = unique("job")
    batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id=pool_id)))
    batch.create_task(job_id, models.BatchTaskCreateOptions(id="t", command_line="sleep 300"))
    wait_for(lambda: batch.get_task(job_id, "t").state == "running", "the task to run")
    shrink = models.BatchPoolResizeOptions(target_dedicated_nodes=0, node_deallocation_option="taskcompletion")
    batch.begin_resize_pool(pool_id, shrink, polling_interval=0)
    batch.begin_stop_pool_resize(pool_id, polling_interval=0).wait()
    stopped = batch.get_pool(pool_id)
    assert [error.code for error in stopped.resize_errors or []] == ["ResizeStopped"]
    [node] = batch.list_nodes(pool_id)
    leaving = models.BatchNodeRemoveOptions(node_ids=[node.id], node_deallocation_option="terminate")
    batch.begin_remove_nodes(pool_id, leaving, polling_interval=0).wait()
    assert batch.get_task(job_id, "t").state == "completed"
    batch.begin_delete_job(job_id, polling_interval=0).wait()
    emptied = batch.get_pool(pool_id, expand=["stats"])
    assert (emptied.target_dedicated_nodes, emptied.current_dedicated_nodes) == (0, 0)
    assert emptied.pool_statistics is not None
    assert emptied.pool_statistics.usage_statistics is not None
    assert emptied.pool_statistics.usage_statistics.dedicated_core_time > timedelta(0)
    assert emptied.pool_statistics.resource_statistics is None
    tag = batch.get_pool(pool_id).etag
    batch.begin_delete_pool(pool_id, etag=tag, match_condition=MatchConditions.IfNotModified, polling_interval=0).wait()


def _jobs_and_tasks(sdk: Sdk) -> None:
    batch, job_id = sdk.client, unique("job")
    batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id="none")))
    assert batch.get_job(job_id).priority == 0
    assert job_id in {job.id for job in batch.list_jobs()}
    batch.update_job(job_id, models.BatchJobUpdateOptions(priority=3))
    batch.create_task(job_id, models.BatchTaskCreateOptions(id="single", command_line="true"))
    batch.create_tasks(job_id, [models.BatchTaskCreateOptions(id="many", command_line="true")])
    assert batch.get_job_task_counts(job_id).task_counts.active == 2
    assert [item.id for item in batch.list_tasks(job_id, max_results=1)] == ["single", "many"]
    batch.replace_task(job_id, "single", models.BatchTask(constraints=models.BatchTaskConstraints(max_task_retry_count=2)))
    assert list(batch.list_subtasks(job_id, "single")) == []
    batch.terminate_task(job_id, "single")
    assert batch.get_task(job_id, "single").state == "completed"
    batch.reactivate_task(job_id, "single")
    assert batch.get_task(job_id, "single").state == "active"
    _change_state(sdk, job_id)
    batch.delete_task(job_id, "single")
    batch.begin_terminate_job(job_id, BatchJobTerminateOptions(termination_reason="enough"), polling_interval=0).wait()
    reason = batch.get_job(job_id).execution_info
    assert reason is not None
    assert reason.termination_reason == "enough"
    batch.begin_delete_job(job_id, polling_interval=0).wait()
    with pytest.raises(HttpResponseError):
        batch.get_job(job_id)


def _schedules(sdk: Sdk) -> None:
    batch, name = sdk.client, unique("plan")
    hourly = models.BatchJobScheduleConfiguration(recurrence_interval=timedelta(hours=1))
    spec = models.BatchJobSpecification(pool_info=models.BatchPoolInfo(pool_id="none"))
    batch.create_job_schedule(models.BatchJobScheduleCreateOptions(id=name, schedule=hourly, job_specification=spec))
    assert batch.job_schedule_exists(name)
    with pytest.raises(ResourceNotFoundError):
        batch.job_schedule_exists(unique())
    read = batch.get_job_schedule(name, expand=["stats"])
    assert read.execution_info is not None
    assert read.execution_info.recent_job is not None
    assert read.execution_info.recent_job.id == f"{name}:job-1"
    assert read.job_schedule_statistics is not None
    assert name in {item.id for item in batch.list_job_schedules(filter="state eq 'active'")}
    batch.update_job_schedule(name, models.BatchJobScheduleUpdateOptions(metadata=[models.BatchMetadataItem(name="a", value="1")]))
    read = batch.get_job_schedule(name)
    read.metadata = [models.BatchMetadataItem(name="b", value="2")]
    batch.replace_job_schedule(name, read)
    assert [(item.name, item.value) for item in batch.get_job_schedule(name).metadata or []] == [("b", "2")]
    batch.disable_job_schedule(name)
    assert batch.get_job_schedule(name).state == "disabled"
    batch.enable_job_schedule(name)
    [job] = batch.list_jobs_from_schedule(name)
    assert batch.get_job(job.id or "").state == "active"
    batch.begin_terminate_job_schedule(name, polling_interval=0).wait()
    ended = batch.get_job_schedule(name)
    assert (ended.state, batch.get_job(job.id or "").state) == ("completed", "completed")
    batch.begin_delete_job_schedule(name, polling_interval=0).wait()
    with pytest.raises(ResourceNotFoundError):
        batch.get_job_schedule(name)


def _change_state(sdk: Sdk, job_id: str) -> None:
    batch = sdk.client
    batch.begin_disable_job(job_id, models.BatchJobDisableOptions(disable_tasks="wait"), polling_interval=0).wait()
    assert batch.get_job(job_id).state == "disabled"
    batch.begin_enable_job(job_id, polling_interval=0).wait()
    job = batch.get_job(job_id)
    job.priority = 8
    batch.replace_job(job_id, job)
    assert batch.get_job(job_id, expand=["stats"]).job_statistics is not None
    prepared = unique("job")
    preparation = models.BatchJobPreparationTask(command_line="true")
    batch.create_job(
        models.BatchJobCreateOptions(id=prepared, pool_info=models.BatchPoolInfo(pool_id="none"), job_preparation_task=preparation)
    )
    assert list(batch.list_job_preparation_and_release_task_status(prepared)) == []
    batch.begin_delete_job(prepared, force=True, polling_interval=0).wait()


def _node_changes(sdk: Sdk, container_url: str) -> None:
    batch, pool_id = sdk.client, unique("nodes")
    configuration = machine()
    configuration.extensions = [models.VMExtension(name="monitor", publisher="p", type="t")]
    batch.create_pool(
        models.BatchPoolCreateOptions(
            id=pool_id, vm_size="standard_d2s_v3", virtual_machine_configuration=configuration, target_dedicated_nodes=1
        )
    )
    wait_for(lambda: [node.state for node in batch.list_nodes(pool_id)] == ["idle"], "the node")
    [node] = batch.list_nodes(pool_id)
    assert batch.get_node_remote_login_settings(pool_id, node.id).remote_login_port == 22
    assert len(list(batch.list_node_extensions(pool_id, node.id))) == 2
    assert batch.get_node_extension(pool_id, node.id, "monitor").provisioning_state == "NotInstalled"
    if os.geteuid() == 0:
        name = unique("t")[:14]
        batch.create_node_user(pool_id, node.id, models.BatchNodeUserCreateOptions(name=name, password="A long secret 1"))
        batch.replace_node_user(pool_id, node.id, name, models.BatchNodeUserReplaceOptions(password="Another secret 2"))
        batch.delete_node_user(pool_id, node.id, name)
    logs = models.UploadBatchServiceLogsOptions(container_url=container_url, start_time=datetime.now(UTC) - timedelta(hours=1))
    uploaded = batch.upload_node_logs(pool_id, node.id, logs)
    assert uploaded.number_of_files_uploaded >= 1
    wait_for(lambda: list(ContainerClient.from_container_url(container_url).list_blobs(uploaded.virtual_directory_name)), "the log")
    batch.disable_node_scheduling(pool_id, node.id, BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="requeue"))
    batch.enable_node_scheduling(pool_id, node.id)
    changes = (
        lambda: batch.begin_reboot_node(pool_id, node.id, BatchNodeRebootOptions(node_reboot_kind="requeue"), polling_interval=0),
        lambda: batch.begin_reimage_node(pool_id, node.id, BatchNodeReimageOptions(node_reimage_option="requeue"), polling_interval=0),
        lambda: batch.begin_deallocate_node(
            pool_id, node.id, BatchNodeDeallocateOptions(node_deallocate_option="requeue"), polling_interval=0
        ),
    )
    for change in changes:
        change().wait()
        wait_for(lambda: batch.get_node(pool_id, node.id).state in ("idle", "deallocated"), "the node to be back")
    batch.begin_start_node(pool_id, node.id, polling_interval=0).wait()
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()


def _nodes_and_files(sdk: Sdk, pool_id: str) -> None:
    batch, job_id = sdk.client, unique("job")
    batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id=pool_id)))
    batch.create_task(job_id, models.BatchTaskCreateOptions(id="t", command_line=sh("echo hello")))
    wait_for(lambda: batch.get_task(job_id, "t").state == "completed", "the task to end")
    assert {item.name for item in batch.list_task_files(job_id, "t")} == {"stdout.txt", "stderr.txt", "wd"}
    assert b"".join(batch.download_task_file(job_id, "t", "stdout.txt")) == b"hello\n"
    properties = batch.get_task_file_properties(job_id, "t", "stdout.txt")
    assert (properties.content_length, properties.is_directory) == (6, False)
    batch.delete_task_file(job_id, "t", "stderr.txt")
    [node] = batch.list_nodes(pool_id)
    assert batch.get_node(pool_id, node.id).is_dedicated
    assert "workitems" in {item.name for item in batch.list_node_files(pool_id, node.id)}
    path = f"workitems/{job_id}/job-1/t/stdout.txt"
    assert b"".join(batch.download_node_file(pool_id, node.id, path)) == b"hello\n"
    assert batch.get_node_file_properties(pool_id, node.id, path).content_length == 6
    batch.delete_node_file(pool_id, node.id, path)
    batch.begin_delete_job(job_id, polling_interval=0).wait()
