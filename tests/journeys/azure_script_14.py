"""A script as it is written for Azure Batch, with azure-batch 14: the long way of its quickstart, waiting and outputs included.

It names nothing of this project: endpoint, account and key come from its environment, as on Azure.
"""

import datetime
import os
import time

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchServiceClient(key, batch_url=os.environ["AZURE_BATCH_ENDPOINT"])
POOL, JOB = "azure-pool-14", "azure-job-14"

image = models.ImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest")
batch.pool.add(
    models.PoolAddParameter(
        id=POOL,
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=models.VirtualMachineConfiguration(
            image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04"
        ),
        target_dedicated_nodes=1,
        task_slots_per_node=4,
        start_task=models.StartTask(command_line="/bin/sh -c 'echo ready > $AZ_BATCH_NODE_SHARED_DIR/mark'", wait_for_success=True),
    )
)
batch.job.add(models.JobAddParameter(id=JOB, pool_info=models.PoolInformation(pool_id=POOL)))
tasks = [
    models.TaskAddParameter(
        id=f"task{number}",
        command_line=f"/bin/sh -c 'cat $AZ_BATCH_NODE_SHARED_DIR/mark; exit {number % 2}'",
        constraints=models.TaskConstraints(max_task_retry_count=1, max_wall_clock_time=datetime.timedelta(minutes=5)),
    )
    for number in range(4)
]
results = batch.task.add_collection(JOB, tasks)
print(sorted(result.status.value for result in results.value))


def wait(timeout: datetime.timedelta) -> None:
    deadline = datetime.datetime.now() + timeout
    while datetime.datetime.now() < deadline:
        if all(task.state == models.TaskState.completed for task in batch.task.list(JOB)):
            return
        time.sleep(0.2)
    raise RuntimeError("tasks did not complete in time")


wait(datetime.timedelta(minutes=2))
for task in sorted(batch.task.list(JOB), key=lambda task: task.id):
    info = task.execution_info
    said = b"".join(batch.file.get_from_task(JOB, task.id, "stdout.txt")).decode().strip()
    print(task.id, info.exit_code, info.result.value, info.retry_count, said)
try:
    batch.task.get(JOB, "nothing")
except models.BatchErrorException as error:
    print(error.error.code)
batch.job.delete(JOB)
batch.pool.delete(POOL)
