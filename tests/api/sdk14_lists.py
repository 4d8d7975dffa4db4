"""`$filter` and `$select` through azure-batch 14.2.0. Runs in that SDK's own interpreter, prints one JSON object.

Arguments: prefix of the jobs, a job with tasks, id of a pool with a node. The account is read from the environment.
"""

# mypy: ignore-errors

import json
import os
import sys

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

PREFIX, JOB, POOL = sys.argv[1:]
key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
batch = BatchServiceClient(key, batch_url=os.environ["AZURE_BATCH_ENDPOINT"])


def task_ids(text, most=2):
    """Ids of the tasks that a filter finds, over as many pages as it takes."""
    return [task.id for task in batch.task.list(JOB, models.TaskListOptions(filter=text, max_results=most))]


def refusal(text):
    """The error that a filter on tasks raises."""
    try:
        task_ids(text)
    except models.BatchErrorException as error:
        return {"status": error.response.status_code, "code": error.error.code, "values": [[v.key, v.value] for v in error.error.values]}
    raise AssertionError("no error was raised")


selected = models.TaskListOptions(select="id,state", filter="state eq 'completed'", max_results=1)
jobs = models.JobListOptions(filter=f"startswith(id,'{PREFIX}')", select="id", max_results=1)
pools = models.PoolListOptions(filter=f"id eq '{POOL}' and allocationState eq 'steady'", select="id,vmSize")
nodes = models.ComputeNodeListOptions(filter="state eq 'idle' or state eq 'running'", select="id,state")
results = {
    "completed": task_ids("state eq 'completed'"),
    "waiting": task_ids("state ne 'completed' and startswith(id,'T')"),
    "no exit code": task_ids("executionInfo/exitCode ne 0 AND NOT state eq 'completed'"),
    "images": [
        [image.image_reference.publisher, image.image_reference.offer, image.image_reference.sku, image.node_agent_sku_id]
        for image in batch.account.list_supported_images(models.AccountListSupportedImagesOptions(filter="verificationType eq 'verified'"))
    ],
    "refusal": refusal("state like 'a'"),
    "selected": [task.as_dict() for task in batch.task.list(JOB, selected)],
    "task": batch.task.get(JOB, "t0", models.TaskGetOptions(select="id,url")).as_dict(),
    "jobs": [job.as_dict() for job in batch.job.list(jobs)],
    "job": batch.job.get(JOB, models.JobGetOptions(select="id,priority", expand="stats")).as_dict(),
    "pools": [pool.as_dict() for pool in batch.pool.list(pools)],
    "pool": batch.pool.get(POOL, models.PoolGetOptions(select="id")).as_dict(),
    "nodes": [sorted(node.as_dict()) for node in batch.compute_node.list(POOL, nodes)],
}
print(json.dumps(results))
