"""Every operation through azure-batch 14.2.0. Runs in that SDK's own interpreter, prints one JSON object: the calls and the results.

Arguments: prefix for ids, id of a pool with a node, URL of a container that may be written to, id of an application.
The account is read from the environment.
"""

# mypy: ignore-errors

import datetime
import json
import os
import sys
import time

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

PREFIX, POOL, CONTAINER, APPLICATION = sys.argv[1:]
BEFORE = "2026-01-01T00:00:00Z"
calls = []
results = {}


def client():
    """A client that tells `calls` what it saw."""
    key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    made = BatchServiceClient(key, batch_url=os.environ["AZURE_BATCH_ENDPOINT"])
    made.config.retry_policy.retries = 0
    return made


batch = client()


def spy(send):
    """The pipeline's way to the wire, with each call noted."""

    def sent(request, **kwargs):
        response = send(request, **kwargs)
        answer = response.http_response
        headers = {name.lower(): value for name, value in answer.headers.items()}
        calls.append(
            {"method": request.http_request.method, "url": request.http_request.url, "status": answer.status_code, "headers": headers}
        )
        return response

    return sent


batch._client.config.pipeline._sender.send = spy(batch._client.config.pipeline._sender.send)


def until(look):
    """Wait until `look` is true."""
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def error_of(call, *args, **kwargs):
    """Code and sentence of the error that a call raises."""
    try:
        call(*args, **kwargs)
    except models.BatchErrorException as error:
        return {"status": error.response.status_code, "code": error.error.code, "text": str(error)}
    raise AssertionError("no error was raised")


def plain(model):
    """A model as JSON."""
    return json.loads(json.dumps(model.as_dict(), default=str))


def applications():
    """List and get."""
    results["applications"] = [one.id for one in batch.application.list(models.ApplicationListOptions(max_results=1))]
    results["application"] = plain(batch.application.get(APPLICATION))


def pools():
    """Add, get, exists, list, resize, delete."""
    pool_id = PREFIX + "-pool"
    image = models.ImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    pool = models.PoolAddParameter(id=pool_id, vm_size="STANDARD_D2S_V3", virtual_machine_configuration=machine, target_dedicated_nodes=0)
    batch.pool.add(pool)
    results["pool_again"] = error_of(batch.pool.add, pool)
    results["pool"] = plain(batch.pool.get(pool_id))
    results["pool_exists"] = [batch.pool.exists(pool_id), batch.pool.exists(pool_id + "-not")]
    results["pools"] = [item.id for item in batch.pool.list(models.PoolListOptions(max_results=1))]
    until(lambda: batch.pool.get(pool_id).allocation_state == models.AllocationState.steady)
    batch.pool.resize(pool_id, models.PoolResizeParameter(target_dedicated_nodes=0, target_low_priority_nodes=0))
    until(lambda: batch.pool.get(pool_id).allocation_state == models.AllocationState.steady)
    batch.pool.enable_auto_scale(pool_id, auto_scale_formula="$TargetDedicatedNodes=0;")
    results["autoscale_on"] = plain(batch.pool.get(pool_id))
    results["autoscale_trial"] = plain(batch.pool.evaluate_auto_scale(pool_id, "something_useless"))
    results["autoscale_no_resize"] = error_of(batch.pool.resize, pool_id, models.PoolResizeParameter(target_dedicated_nodes=1))
    batch.pool.disable_auto_scale(pool_id)
    results["autoscale_off"] = plain(batch.pool.get(pool_id))
    tag = batch.pool.get(pool_id).e_tag
    results["pool_not_matched"] = error_of(batch.pool.delete, pool_id, models.PoolDeleteOptions(if_match="0x8D4BCC2E4835CD0"))
    batch.pool.delete(pool_id, models.PoolDeleteOptions(if_match=tag))
    until(lambda: not batch.pool.exists(pool_id))


def pool_changes():
    """All that a pool may say; patch, update properties, resize, stop, remove nodes, statistics."""
    pool_id = PREFIX + "-rich"
    image = models.ImageReference(publisher="debian", offer="debian-12", sku="12")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.debian 12")
    batch.pool.add(
        models.PoolAddParameter(
            id=pool_id,
            vm_size="standard_d4s_v3",
            virtual_machine_configuration=machine,
            start_task=models.StartTask(command_line="true"),
            user_accounts=[models.UserAccount(name="ada", password="secret", elevation_level="admin")],
            target_node_communication_mode="simplified",
            resource_tags={"cost": "centre"},
            application_licenses=["maya"],
        )
    )
    results["rich"] = plain(batch.pool.get(pool_id))
    batch.pool.patch(pool_id, models.PoolPatchParameter(metadata=[models.MetadataItem(name="a", value="1")]))
    results["patched"] = plain(batch.pool.get(pool_id))
    replaced = models.PoolUpdatePropertiesParameter(
        certificate_references=[], application_package_references=[], metadata=[models.MetadataItem(name="b", value="2")]
    )
    batch.pool.update_properties(pool_id, replaced)
    results["replaced"] = plain(batch.pool.get(pool_id))
    steady(pool_id)
    batch.pool.stop_resize(pool_id)
    results["not_resizing"] = plain(batch.pool.get(pool_id))
    batch.pool.resize(pool_id, models.PoolResizeParameter(target_dedicated_nodes=1, resize_timeout="PT5M"))
    steady(pool_id)
    batch.job.add(models.JobAddParameter(id=pool_id, pool_info=models.PoolInformation(pool_id=pool_id)))
    batch.task.add(pool_id, models.TaskAddParameter(id="t", command_line="sleep 300"))
    until(lambda: batch.task.get(pool_id, "t").state == models.TaskState.running)
    batch.pool.resize(pool_id, models.PoolResizeParameter(target_dedicated_nodes=0, node_deallocation_option="taskCompletion"))
    batch.pool.stop_resize(pool_id)
    steady(pool_id)
    results["stopped"] = plain(batch.pool.get(pool_id))
    nodes = [node.id for node in batch.compute_node.list(pool_id)]
    batch.pool.remove_nodes(pool_id, models.NodeRemoveParameter(node_list=nodes, node_deallocation_option="terminate"))
    steady(pool_id)
    results["removed"] = batch.pool.get(pool_id, models.PoolGetOptions(expand="stats"))
    stats = results["removed"].stats.usage_stats
    results["removed"] = {
        **plain(results["removed"]),
        "stats": {"usage_stats": {"dedicated_core_time": stats.dedicated_core_time.total_seconds()}},
    }
    batch.job.delete(pool_id)
    batch.pool.delete(pool_id)


def steady(pool_id):
    """Wait until the pool is."""
    until(lambda: batch.pool.get(pool_id).allocation_state == models.AllocationState.steady)


def account():
    """Images, node counts, usage."""
    results["images"] = [
        plain(image) for image in batch.account.list_supported_images(models.AccountListSupportedImagesOptions(max_results=5))
    ]
    counts = {item.pool_id: plain(item) for item in batch.account.list_pool_node_counts()}
    results["node_counts"] = counts[POOL]
    results["usage"] = [plain(item) for item in batch.pool.list_usage_metrics()]
    now = datetime.datetime.now(datetime.UTC)
    results["usage_too_new"] = error_of(
        lambda: list(batch.pool.list_usage_metrics(models.PoolListUsageMetricsOptions(start_time=now, end_time=now)))
    )


def jobs():
    """Add, get, list, patch, terminate, delete."""
    ids = [PREFIX + "-job-" + str(number) for number in range(3)]
    for job_id in ids:
        batch.job.add(models.JobAddParameter(id=job_id, pool_info=models.PoolInformation(pool_id="none"), uses_task_dependencies=True))
    results["job"] = plain(batch.job.get(ids[0]))
    results["jobs"] = [item.id for item in batch.job.list(models.JobListOptions(max_results=2)) if item.id in ids]
    batch.job.patch(ids[0], models.JobPatchParameter(priority=7))
    results["job_patched"] = plain(batch.job.get(ids[0]))
    results["counts"] = plain(batch.job.get_task_counts(ids[0]))
    batch.job.disable(ids[0], "requeue")
    until(lambda: batch.job.get(ids[0]).state == models.JobState.disabled)
    batch.job.update(ids[0], models.JobUpdateParameter(pool_info=models.PoolInformation(pool_id="elsewhere"), priority=2))
    batch.job.enable(ids[0])
    until(lambda: batch.job.get(ids[0]).state == models.JobState.active)
    preparation = models.JobPreparationTask(command_line="true")
    batch.job.add(
        models.JobAddParameter(id=PREFIX + "-prepared", pool_info=models.PoolInformation(pool_id="none"), job_preparation_task=preparation)
    )
    results["special_tasks"] = [plain(item) for item in batch.job.list_preparation_and_release_task_status(PREFIX + "-prepared")]
    batch.job.delete(PREFIX + "-prepared")
    batch.job.terminate(ids[0], terminate_reason="enough")
    until(lambda: batch.job.get(ids[0]).state == models.JobState.completed)
    results["job_terminated"] = plain(batch.job.get(ids[0]))
    results["job_terminated_again"] = error_of(batch.job.terminate, ids[0])
    for job_id in ids:
        batch.job.delete(job_id)
    results["job_not_found"] = error_of(batch.job.get, PREFIX + "-never")


def schedules():
    """All of a job schedule; a job whose pool cannot be made."""
    name = PREFIX + "-plan"
    spec = models.JobSpecification(pool_info=models.PoolInformation(pool_id="none"))
    hourly = models.Schedule(recurrence_interval=datetime.timedelta(hours=1), start_window=datetime.timedelta(minutes=5))
    batch.job_schedule.add(models.JobScheduleAddParameter(id=name, schedule=hourly, job_specification=spec))
    results["plan"] = plain(batch.job_schedule.get(name, models.JobScheduleGetOptions(expand="stats")))
    results["plan_exists"] = [batch.job_schedule.exists(name), batch.job_schedule.exists(name + "-not")]
    results["plans"] = [item.id for item in batch.job_schedule.list()]
    results["plan_jobs"] = [item.id for item in batch.job.list_from_job_schedule(name)]
    results["plan_taken"] = error_of(batch.job.add, models.JobAddParameter(id=name, pool_info=models.PoolInformation(pool_id="none")))
    batch.job_schedule.patch(name, models.JobSchedulePatchParameter(metadata=[models.MetadataItem(name="a", value="1")]))
    spec.priority = 4
    batch.job_schedule.update(name, models.JobScheduleUpdateParameter(schedule=hourly, job_specification=spec))
    results["plan_replaced"] = plain(batch.job_schedule.get(name))
    batch.job_schedule.disable(name)
    results["plan_disabled_twice"] = error_of(batch.job_schedule.disable, name)
    batch.job_schedule.enable(name)
    batch.job_schedule.terminate(name)
    until(lambda: batch.job_schedule.get(name).state == models.JobScheduleState.completed)
    results["plan_ended"] = plain(batch.job_schedule.get(name))
    results["plan_job_ended"] = plain(batch.job.get(results["plan_jobs"][0]))
    batch.job_schedule.delete(name)
    until(lambda: not batch.job_schedule.exists(name))
    results["plan_not_found"] = error_of(batch.job_schedule.get, name)
    own_pool()


def own_pool():
    """A job whose pool wants certificates, which nobody has any more."""
    image = models.ImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    pool = models.PoolSpecification(
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=machine,
        certificate_references=[models.CertificateReference(thumbprint="ab", thumbprint_algorithm="sha1")],
    )
    made = models.AutoPoolSpecification(pool_lifetime_option="job", pool=pool)
    job_id = PREFIX + "-own"
    batch.job.add(models.JobAddParameter(id=job_id, pool_info=models.PoolInformation(auto_pool_specification=made)))
    results["own_pool"] = plain(batch.job.get(job_id))["execution_info"]
    batch.job.delete(job_id)


def managed():
    """A job manager with a token of its own, preparation and release on a node, the job's disabled time."""
    job_id = PREFIX + "-managed"
    token = models.AuthenticationTokenSettings(access=[models.AccessScope.job])
    manager = models.JobManagerTask(
        id="manager",
        command_line="/bin/sh -c 'test -n \"$AZ_BATCH_AUTHENTICATION_TOKEN\"'",
        kill_job_on_completion=False,
        run_exclusive=False,
        authentication_token_settings=token,
    )
    preparation = models.JobPreparationTask(id="before", command_line="true", constraints=models.TaskConstraints(max_task_retry_count=1))
    release = models.JobReleaseTask(id="after", command_line="true", max_wall_clock_time="PT10M")
    batch.job.add(
        models.JobAddParameter(
            id=job_id,
            pool_info=models.PoolInformation(pool_id=POOL),
            job_manager_task=manager,
            job_preparation_task=preparation,
            job_release_task=release,
            on_all_tasks_complete="noAction",
        )
    )
    until(lambda: batch.task.get(job_id, "manager").state == models.TaskState.completed)
    results["manager"] = plain(batch.task.get(job_id, "manager"))
    results["id_taken"] = error_of(batch.task.add, job_id, models.TaskAddParameter(id="Before", command_line="true"))
    batch.task.add(job_id, models.TaskAddParameter(id="long", command_line="sleep 300"))
    until(lambda: batch.task.get(job_id, "long").state == models.TaskState.running)
    batch.job.disable(job_id, models.DisableJobOption.requeue)
    until(lambda: batch.job.get(job_id).state == models.JobState.disabled)
    results["requeued"] = plain(batch.task.get(job_id, "long"))
    results["enabled_twice"] = [batch.job.enable(job_id), error_of(batch.job.disable, PREFIX + "-never", "wait")]
    until(lambda: batch.task.get(job_id, "long").state == models.TaskState.running)
    stats = models.JobGetOptions(expand="stats")
    results["statistics"] = plain(batch.job.get(job_id, stats))["stats"]
    batch.job.terminate(job_id)
    until(lambda: batch.job.get(job_id).state == models.JobState.completed)
    results["prepared"] = [plain(item) for item in batch.job.list_preparation_and_release_task_status(job_id)]
    results["not_reactivated"] = error_of(batch.task.reactivate, job_id, "long")
    batch.job.delete(job_id)


def add_many(job_id):
    """250 tasks at once, a wrong one among others, one that is too large."""
    tasks = [models.TaskAddParameter(id=f"t{number}", command_line="true") for number in range(250)]
    added = batch.task.add_collection(job_id, tasks, threads=2)
    results["added"] = sorted({item.status.value for item in added.value}), len(added.value)
    results["listed"] = [item.id for item in batch.task.list(job_id, models.TaskListOptions(max_results=70))]
    wrong = [models.TaskAddParameter(id=name, command_line="true") for name in ("good", "not good", "t0")]
    try:
        batch.task.add_collection(job_id, wrong)
    except models.CreateTasksErrorException as error:
        results["one_wrong"] = [(item.task_id, item.error.code, item.error.message.value.splitlines()[0]) for item in error.failure_tasks]
    large = [models.TaskAddParameter(id="large", command_line="x" * 1_100_000), models.TaskAddParameter(id="small", command_line="true")]
    try:
        batch.task.add_collection(job_id, large)
    except models.CreateTasksErrorException as error:
        results["too_large"] = [item.error.code for item in error.errors]
    results["small"] = batch.task.get(job_id, "small").id


def tasks():
    """Add, get, list, terminate, delete, and files of a task and of a node."""
    job_id = PREFIX + "-tasks"
    batch.job.add(models.JobAddParameter(id=job_id, pool_info=models.PoolInformation(pool_id="none")))
    add_many(job_id)
    batch.task.terminate(job_id, "t1")
    results["task_ended"] = plain(batch.task.get(job_id, "t1"))
    batch.task.reactivate(job_id, "t1")
    batch.task.update(job_id, "t1", constraints=models.TaskConstraints(max_task_retry_count=4))
    results["task_again"] = plain(batch.task.get(job_id, "t1"))
    results["subtasks"] = plain(batch.task.list_subtasks(job_id, "t1"))
    batch.task.delete(job_id, "t1")
    results["task_not_found"] = error_of(batch.task.get, job_id, "t1")
    batch.job.delete(job_id)


def files():
    """The seven file operations and the nodes."""
    job_id = PREFIX + "-files"
    batch.job.add(models.JobAddParameter(id=job_id, pool_info=models.PoolInformation(pool_id=POOL)))
    script = 'echo hello; mkdir "out put"; echo one > "out put/a b"; echo two > two'
    batch.task.add(job_id, models.TaskAddParameter(id="t", command_line=f"/bin/sh -c '{script}'"))
    until(lambda: batch.task.get(job_id, "t").state == models.TaskState.completed)
    everything = models.FileListFromTaskOptions(max_results=2)
    results["files"] = [
        item.name for item in batch.file.list_from_task(job_id, "t", recursive=True, file_list_from_task_options=everything)
    ]
    results["file"] = b"".join(batch.file.get_from_task(job_id, "t", "wd/out put/a b")).decode()
    options = models.FileGetFromTaskOptions(ocp_range="bytes=1-3")
    results["range"] = b"".join(batch.file.get_from_task(job_id, "t", "stdout.txt", options)).decode()
    head = batch.file.get_properties_from_task(job_id, "t", "stdout.txt", raw=True).headers
    results["properties"] = {name: str(value) for name, value in head.items()}
    results["file_not_found"] = error_of(batch.file.get_from_task, job_id, "t", "never")
    batch.file.delete_from_task(job_id, "t", "wd/two")
    results["file_deleted"] = error_of(batch.file.get_from_task, job_id, "t", "wd/two")
    node_files(job_id)
    batch.job.delete(job_id)


def node_changes():
    """What changes a node, its users, its logs; start and deallocate came with later versions."""
    pool_id = PREFIX + "-nodes"
    image = models.ImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    extension = models.VMExtension(name="monitor", publisher="p", type="t", settings={"a": "b"})
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04", extensions=[extension])
    pool = models.PoolAddParameter(
        id=pool_id,
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=machine,
        target_dedicated_nodes=1,
        start_task=models.StartTask(command_line="/bin/sh -c 'echo began'", wait_for_success=True),
    )
    batch.pool.add(pool)
    idle = models.ComputeNodeState.idle
    until(lambda: [node.state for node in batch.compute_node.list(pool_id)] == [idle])
    [node] = batch.compute_node.list(pool_id)
    results["changed_node"] = plain(node)
    login = batch.compute_node.get_remote_login_settings(pool_id, node.id)
    results["login"] = [login.remote_login_ip_address, login.remote_login_port]
    results["extensions"] = [item.vm_extension.name for item in batch.compute_node_extension.list(pool_id, node.id)]
    results["extension"] = batch.compute_node_extension.get(pool_id, node.id, "monitor").provisioning_state
    if os.geteuid() == 0:
        name = "t14" + PREFIX[-8:]
        batch.compute_node.add_user(pool_id, node.id, models.ComputeNodeUser(name=name, password="A long secret 1"))
        results["user_again"] = error_of(batch.compute_node.add_user, pool_id, node.id, models.ComputeNodeUser(name=name, password="x"))
        batch.compute_node.update_user(pool_id, node.id, name, models.NodeUpdateUserParameter(password="Another secret 2"))
        batch.compute_node.delete_user(pool_id, node.id, name)
        results["user_gone"] = error_of(batch.compute_node.delete_user, pool_id, node.id, name)
    logs = models.UploadBatchServiceLogsConfiguration(container_url=CONTAINER, start_time=BEFORE)
    uploaded = batch.compute_node.upload_batch_service_logs(pool_id, node.id, logs)
    results["logs"] = [uploaded.virtual_directory_name, uploaded.number_of_files_uploaded]
    batch.compute_node.disable_scheduling(pool_id, node.id, "taskCompletion")
    results["off"] = plain(batch.compute_node.get(pool_id, node.id))
    results["off_again"] = error_of(batch.compute_node.disable_scheduling, pool_id, node.id)
    batch.compute_node.enable_scheduling(pool_id, node.id)
    for change in (batch.compute_node.reboot, batch.compute_node.reimage):
        change(pool_id, node.id, "requeue")
        until(lambda: batch.compute_node.get(pool_id, node.id).state == idle)
    batch.pool.delete(pool_id)


def node_files(job_id):
    """The same through the node."""
    [node] = list(batch.compute_node.list(POOL))
    results["node"] = plain(batch.compute_node.get(POOL, node.id))
    results["node_files"] = [item.name for item in batch.file.list_from_compute_node(POOL, node.id)]
    path = f"workitems/{job_id}/job-1/t/stdout.txt"
    results["node_file"] = b"".join(batch.file.get_from_compute_node(POOL, node.id, path)).decode()
    head = batch.file.get_properties_from_compute_node(POOL, node.id, path, raw=True).headers
    results["node_properties"] = {name: str(value) for name, value in head.items()}
    batch.file.delete_from_compute_node(POOL, node.id, path)


account()
applications()
pools()
pool_changes()
jobs()
schedules()
managed()
tasks()
files()
node_changes()
print(json.dumps({"calls": calls, "results": results}))
