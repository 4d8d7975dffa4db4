"""Applications through azure-batch 14.2.0: list, get, a pool that is refused, a task with a package. Prints one JSON object.

Arguments: id of a job to make, id of a pool with a node, id of an application with the version 2.0-b.
"""

# mypy: ignore-errors

import json
import os
import sys
import time

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

JOB, POOL, APPLICATION = sys.argv[1:]
key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchServiceClient(key, batch_url=os.environ["AZURE_BATCH_ENDPOINT"])


def error_of(call, *args):
    """Code of the error that a call is answered with."""
    try:
        call(*args)
    except models.BatchErrorException as error:
        return error.error.code
    return None


image = models.ImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
missing = [models.ApplicationPackageReference(application_id="not-there")]
pool = models.PoolAddParameter(
    id=JOB, vm_size="standard_d2s_v3", virtual_machine_configuration=machine, application_package_references=missing
)
said = {
    "listed": APPLICATION in [one.id for one in batch.application.list()],
    "versions": batch.application.get(APPLICATION).versions,
    "missing": error_of(batch.application.get, "not-there"),
    "refused": error_of(batch.pool.add, pool),
}
batch.job.add(models.JobAddParameter(id=JOB, pool_info=models.PoolInformation(pool_id=POOL)))
named = f"AZ_BATCH_APP_PACKAGE_{APPLICATION}_2.0-b".replace("-", "_").replace(".", "_")
references = [models.ApplicationPackageReference(application_id=APPLICATION, version="2.0-b")]
command = f"/bin/sh -c 'cat ${named}/say'"
batch.task.add(JOB, models.TaskAddParameter(id="t", command_line=command, application_package_references=references))
deadline = time.monotonic() + 60
while batch.task.get(JOB, "t").state != models.TaskState.completed:
    assert time.monotonic() < deadline, "waited too long"
    time.sleep(0.02)
said["references"] = [[one.application_id, one.version] for one in batch.task.get(JOB, "t").application_package_references]
said["out"] = b"".join(batch.file.get_from_task(JOB, "t", "stdout.txt")).decode()
batch.job.delete(JOB)
print(json.dumps(said))
