"""A script as it is written for Azure Batch, with azure-batch 15 and azure-storage-blob: inputs up, a pool, tasks, outputs down, all gone.

It names nothing of this project: endpoint, account, key and storage come from its environment, as on Azure.
"""

import datetime
import os
import time

from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

account = os.environ["AZURE_BATCH_ACCOUNT"]
batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], AzureNamedKeyCredential(account, os.environ["AZURE_BATCH_ACCESS_KEY"]))
storage = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
POOL, JOB, BOX = "azure-pool-15", "azure-job-15", "azure-box-15"
TEXTS = {"pets.txt": "cat dog cat", "sky.txt": "sun moon", "sea.txt": "fish fish fish"}

box = storage.create_container(BOX)
token = generate_container_sas(
    storage.account_name,
    BOX,
    account_key=storage.credential.account_key,
    permission=ContainerSasPermissions(read=True, write=True, list=True),
    expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
)
for name, text in TEXTS.items():
    box.upload_blob(f"in/{name}", text)

batch.create_pool(
    models.BatchPoolCreateOptions(
        id=POOL,
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=models.VirtualMachineConfiguration(
            image_reference=models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest"),
            node_agent_sku_id="batch.node.ubuntu 24.04",
        ),
        target_dedicated_nodes=2,
        task_slots_per_node=2,
    )
)
batch.create_job(models.BatchJobCreateOptions(id=JOB, pool_info=models.BatchPoolInfo(pool_id=POOL), uses_task_dependencies=True))
destination = models.OutputFileDestination(
    container=models.OutputFileBlobContainerDestination(container_url=f"{box.url}?{token}", path="out")
)
condition = models.OutputFileUploadConfiguration(upload_condition=models.OutputFileUploadCondition.TASK_SUCCESS)
tasks = [
    models.BatchTaskCreateOptions(
        id=name.removesuffix(".txt"),
        command_line=f"/bin/sh -c 'wc -w < {name} | tr -d \" \" > {name}.count'",
        resource_files=[models.ResourceFile(http_url=f"{box.url}/in/{name}?{token}", file_path=name)],
        output_files=[models.OutputFile(file_pattern="*.count", destination=destination, upload_options=condition)],
    )
    for name in TEXTS
]
tasks.append(
    models.BatchTaskCreateOptions(
        id="after",
        command_line="/bin/sh -c 'echo all three are counted'",
        depends_on=models.BatchTaskDependencies(task_ids=[task.id for task in tasks]),
    )
)
batch.create_tasks(JOB, tasks)

while batch.get_task(JOB, "after").state != models.BatchTaskState.COMPLETED:
    time.sleep(0.2)
for task in batch.list_tasks(JOB):
    print(task.id, task.execution_info.exit_code, task.execution_info.result.value)
print(b"".join(batch.download_task_file(JOB, "after", "stdout.txt")).decode().strip())
for blob in sorted(box.list_blobs(name_starts_with="out/"), key=lambda blob: blob.name):
    print(blob.name, box.download_blob(blob.name).readall().decode().strip())

batch.begin_delete_job(JOB, polling_interval=1).wait()
batch.begin_delete_pool(POOL, polling_interval=1).wait()
storage.delete_container(BOX)
print("nothing is left:", POOL not in [pool.id for pool in batch.list_pools()])
