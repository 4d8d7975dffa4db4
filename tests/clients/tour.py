"""One tour through the service with an azure-batch of the older generation, 4 to 14, in whose environment this program runs.

Argument: prefix for ids. Prints a JSON object: what was found.
"""

# mypy: ignore-errors

import json
import os
import sys
import time

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

PREFIX = sys.argv[1]
key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchServiceClient(key, os.environ["AZURE_BATCH_ENDPOINT"])  # 5 calls it base_url, later ones batch_url
SLOTS = "task_slots_per_node" if "task_slots_per_node" in models.PoolAddParameter._attribute_map else "max_tasks_per_node"
WIRE_SLOTS = models.PoolAddParameter._attribute_map[SLOTS]["key"]
found = {"api_version": batch.api_version}


def until(look):
    """The first thing that `look` sees."""
    deadline = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return seen


def code_of(call, *args):
    """Code of the error that a call raises."""
    try:
        call(*args)
    except models.BatchErrorException as error:
        return error.error.code
    raise AssertionError("no error was raised")


def machine():
    """An image with its agent, out of the list that the version has."""
    if hasattr(batch.account, "list_node_agent_skus"):
        agent = next(each for each in batch.account.list_node_agent_skus() if each.verified_image_references)
        image, name = agent.verified_image_references[0], agent.id
        found["images"] = agent.os_type.value
    else:
        first = next(each for each in batch.account.list_supported_images() if each.verification_type == models.VerificationType.verified)
        image, name = first.image_reference, first.node_agent_sku_id
        found["images"] = first.os_type.value
    return models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id=name)


def pool():
    """Add, get, list, select, resize, patch, replace, formula."""
    network = None
    if "public_ips" in models.NetworkConfiguration._attribute_map:
        network = models.NetworkConfiguration(public_ips=["/addresses/a"])
    batch.pool.add(
        models.PoolAddParameter(
            id=PREFIX,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=machine(),
            target_dedicated_nodes=0,
            network_configuration=network,
            **{SLOTS: 3},
        )
    )
    until(lambda: batch.pool.get(PREFIX).allocation_state == models.AllocationState.steady)
    one = batch.pool.get(PREFIX)
    if network is not None:
        assert one.network_configuration.public_ips == ["/addresses/a"]
    [listed] = batch.pool.list(models.PoolListOptions(filter=f"id eq '{PREFIX}'", select="id," + WIRE_SLOTS))
    found["slots"] = [getattr(each, SLOTS) for each in (one, listed)]
    found["exists"] = [batch.pool.exists(PREFIX), batch.pool.exists(PREFIX + "-not")]
    batch.pool.patch(PREFIX, models.PoolPatchParameter(metadata=[models.MetadataItem(name="a", value="1")]))
    found["metadata"] = batch.pool.get(PREFIX).metadata[0].value
    batch.pool.update_properties(
        PREFIX, models.PoolUpdatePropertiesParameter(certificate_references=[], application_package_references=[], metadata=[])
    )
    batch.pool.enable_auto_scale(PREFIX, auto_scale_formula="$TargetDedicatedNodes=0;")
    found["formula"] = batch.pool.evaluate_auto_scale(PREFIX, "$TargetDedicatedNodes=0;").error is None
    batch.pool.disable_auto_scale(PREFIX)
    until(lambda: batch.pool.get(PREFIX).allocation_state == models.AllocationState.steady)
    batch.pool.resize(PREFIX, models.PoolResizeParameter(target_dedicated_nodes=1))
    again = models.PoolAddParameter(id=PREFIX, vm_size="standard_d2s_v3", virtual_machine_configuration=machine(), target_dedicated_nodes=0)
    found["pool_again"] = code_of(batch.pool.add, again)


def job():
    """A job with preparation, its tasks, counts, files, changes."""
    batch.job.add(
        models.JobAddParameter(
            id=PREFIX,
            pool_info=models.PoolInformation(pool_id=PREFIX),
            job_preparation_task=models.JobPreparationTask(command_line="true"),
            job_release_task=models.JobReleaseTask(command_line="true"),
        )
    )
    batch.task.add(PREFIX, models.TaskAddParameter(id="one", command_line="/bin/sh -c 'echo hello; exit 3'"))
    more = [models.TaskAddParameter(id=f"more{i}", command_line="/bin/true") for i in range(3)]
    added = batch.task.add_collection(PREFIX, more)
    found["added"] = [each.status.value for each in added.value]
    until(lambda: all(each.state == models.TaskState.completed for each in batch.task.list(PREFIX)))
    counts = batch.job.get_task_counts(PREFIX)
    counts = getattr(counts, "task_counts", counts)
    found["counts"] = [getattr(counts, name) for name in ("active", "running", "completed", "succeeded", "failed")]
    task = batch.task.get(PREFIX, "one")
    found["task"] = [task.state.value, task.execution_info.exit_code, task.execution_info.result.value]
    failed = batch.task.list(PREFIX, models.TaskListOptions(filter="executionInfo/result eq 'failure'"))
    found["failed"] = [each.id for each in failed]
    found["stdout"] = b"".join(batch.file.get_from_task(PREFIX, "one", "stdout.txt")).decode()
    found["files"] = sorted(each.name for each in batch.file.list_from_task(PREFIX, "one"))
    found["length"] = batch.file.get_properties_from_task(PREFIX, "one", "stdout.txt", raw=True).response.headers["Content-Length"]
    [status] = batch.job.list_preparation_and_release_task_status(PREFIX)
    found["preparation"] = status.job_preparation_task_execution_info.result.value
    batch.task.reactivate(PREFIX, "one")
    until(lambda: batch.task.get(PREFIX, "one").state == models.TaskState.completed)
    batch.task.delete(PREFIX, "more2")
    found["no_task"] = code_of(batch.task.get, PREFIX, "more2")
    batch.job.patch(PREFIX, models.JobPatchParameter(priority=5))
    found["priority"] = [each.priority for each in batch.job.list(models.JobListOptions(filter=f"id eq '{PREFIX}'"))]
    batch.job.disable(PREFIX, "requeue")
    until(lambda: batch.job.get(PREFIX).state == models.JobState.disabled)
    batch.job.enable(PREFIX)
    batch.task.add(PREFIX, models.TaskAddParameter(id="long", command_line="/bin/sleep 300"))
    until(lambda: batch.task.get(PREFIX, "long").state == models.TaskState.running)
    batch.task.terminate(PREFIX, "long")


def nodes():
    """The node, its files, scheduling off and on, counts."""
    [node] = batch.compute_node.list(PREFIX)
    found["node"] = batch.compute_node.get(PREFIX, node.id).is_dedicated
    assert [each.name for each in batch.file.list_from_compute_node(PREFIX, node.id)]
    found["login"] = batch.compute_node.get_remote_login_settings(PREFIX, node.id).remote_login_port
    batch.compute_node.disable_scheduling(PREFIX, node.id)
    found["scheduling"] = batch.compute_node.get(PREFIX, node.id).scheduling_state.value
    batch.compute_node.enable_scheduling(PREFIX, node.id)
    [counts] = batch.account.list_pool_node_counts(models.AccountListPoolNodeCountsOptions(filter=f"poolId eq '{PREFIX}'"))
    found["nodes"] = counts.dedicated.total


def away():
    """Terminate and delete."""
    batch.job.terminate(PREFIX, terminate_reason="enough")
    found["reason"] = until(lambda: batch.job.get(PREFIX).execution_info.terminate_reason)
    batch.job.delete(PREFIX)
    batch.pool.delete(PREFIX)
    until(lambda: not batch.pool.exists(PREFIX))


try:
    list(batch.pool.list())
except models.BatchErrorException as error:
    found["refused"] = error.error.code
else:
    for step in (pool, job, nodes, away):
        step()
print(json.dumps(found))
