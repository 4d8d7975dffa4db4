"""The same tour with azure-batch 15, which runs in the tests' own environment. Argument: prefix for ids."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError

T = TypeVar("T")
PREFIX = sys.argv[1]
key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], key)
found: dict[str, object] = {"api_version": batch._config.api_version}


def until(look: Callable[[], T]) -> T:
    """The first thing that `look` sees."""
    deadline = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return seen


def code_of(call: Callable[[], object]) -> str | None:
    """Code of the error that a call raises."""
    try:
        call()
    except HttpResponseError as error:
        return error.error.code if error.error else None
    raise AssertionError("no error was raised")


def pool() -> None:
    """Add, get, list, select, formula, resize."""
    image = next(each for each in batch.list_supported_images() if each.verification_type == models.ImageVerificationType.VERIFIED)
    found["images"] = str(image.os_type.value)
    machine = models.VirtualMachineConfiguration(image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id)
    content = models.BatchPoolCreateOptions(
        id=PREFIX, vm_size="standard_d2s_v3", virtual_machine_configuration=machine, target_dedicated_nodes=0, task_slots_per_node=3
    )
    batch.create_pool(content)
    [listed] = batch.list_pools(filter=f"id eq '{PREFIX}'", select=["id", "taskSlotsPerNode"])
    found["slots"] = [batch.get_pool(PREFIX).task_slots_per_node, listed.task_slots_per_node]
    until(lambda: batch.get_pool(PREFIX).allocation_state == models.AllocationState.STEADY)
    batch.update_pool(PREFIX, models.BatchPoolUpdateOptions(metadata=[models.BatchMetadataItem(name="a", value="1")]))
    found["metadata"] = batch.get_pool(PREFIX).metadata[0].value
    batch.enable_pool_auto_scale(PREFIX, models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes=0;"))
    formula = models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes=0;")
    found["formula"] = batch.evaluate_pool_auto_scale(PREFIX, formula).error is None
    batch.disable_pool_auto_scale(PREFIX)
    until(lambda: batch.get_pool(PREFIX).allocation_state == models.AllocationState.STEADY)
    batch.begin_resize_pool(PREFIX, models.BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=0)
    found["pool_again"] = code_of(lambda: batch.create_pool(content))


def job() -> None:
    """A job, its tasks, counts, files."""
    batch.create_job(models.BatchJobCreateOptions(id=PREFIX, pool_info=models.BatchPoolInfo(pool_id=PREFIX)))
    batch.create_task(PREFIX, models.BatchTaskCreateOptions(id="one", command_line="/bin/sh -c 'echo hello; exit 3'"))
    more = [models.BatchTaskCreateOptions(id=f"more{i}", command_line="/bin/true") for i in range(3)]
    found["added"] = [each.status.value for each in batch.create_tasks(PREFIX, more).result_values or []]
    until(lambda: all(each.state == models.BatchTaskState.COMPLETED for each in batch.list_tasks(PREFIX)))
    counts = batch.get_job_task_counts(PREFIX).task_counts
    found["counts"] = [counts.active, counts.running, counts.completed, counts.succeeded, counts.failed]
    task = batch.get_task(PREFIX, "one")
    ended = task.execution_info
    assert ended is not None
    found["task"] = [models.BatchTaskState(task.state).value, ended.exit_code, models.BatchTaskExecutionResult(ended.result).value]
    found["stdout"] = b"".join(batch.download_task_file(PREFIX, "one", "stdout.txt")).decode()
    found["files"] = sorted(str(each.name) for each in batch.list_task_files(PREFIX, "one"))
    batch.delete_task(PREFIX, "more2")
    found["no_task"] = code_of(lambda: batch.get_task(PREFIX, "more2"))
    [node] = batch.list_nodes(PREFIX)
    found["node"] = node.is_dedicated
    [nodes] = batch.list_pool_node_counts(filter=f"poolId eq '{PREFIX}'")
    found["nodes"] = nodes.dedicated.total if nodes.dedicated else 0


def away() -> None:
    """Delete."""
    batch.begin_delete_job(PREFIX, polling_interval=0)
    batch.begin_delete_pool(PREFIX, polling_interval=0)
    until(lambda: all(each.id != PREFIX for each in batch.list_pools()))


for step in (pool, job, away):
    step()
print(json.dumps(found, default=str))
