"""A parameter study every night, on a pool that is there for the night's job alone.

Written for Azure Batch, as the newer SDK has it. Run it once on your machine: it leaves a job schedule in the account, and nothing else has
to run anywhere until the next night. There this same file is the job manager: it adds a task for each value and has the job end with the
last of them. The pool is made with the job and goes with it.

The environment says where (`eval "$(batchyard env)"` sets it): AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY, AZURE_BATCH_ENDPOINT.
When the jobs are due is said in metadata that Batchyard understands; for Azure itself, give the schedule an interval of a day instead.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path

ID, VALUES, NODES = "nightly-study", range(1, 9), 2
AT, ZONE = "0 2 * * mon-fri", "Europe/Berlin"


def leave_schedule() -> None:
    """What runs on your machine."""
    from azure.batch import BatchClient, models
    from azure.core.credentials import AzureNamedKeyCredential

    key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], key)
    ubuntu = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    pool = models.BatchPoolSpecification(
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=models.VirtualMachineConfiguration(
            image_reference=ubuntu, node_agent_sku_id="batch.node.ubuntu 24.04"
        ),
        target_dedicated_nodes=NODES,
        task_slots_per_node=4,
    )
    night = models.BatchAutoPoolSpecification(pool_lifetime_option="job", auto_pool_id_prefix=ID, pool=pool)
    manager = models.BatchJobManagerTask(
        id="manager",
        command_line="/bin/sh -c 'echo $STUDY | base64 -d > study.py && python3 study.py manage'",
        environment_settings=[models.EnvironmentSetting(name="STUDY", value=base64.b64encode(Path(__file__).read_bytes()).decode())],
        kill_job_on_completion=False,
        run_exclusive=False,
    )
    manager["authenticationTokenSettings"] = {"access": ["job"]}  # the newer SDK has no name for it
    batch.create_job_schedule(
        models.BatchJobScheduleCreateOptions(
            id=ID,
            display_name="Every working night",
            schedule=models.BatchJobScheduleConfiguration(),
            job_specification=models.BatchJobSpecification(
                pool_info=models.BatchPoolInfo(auto_pool_specification=night), job_manager_task=manager
            ),
            metadata=[
                models.BatchMetadataItem(name="batchyard.cron", value=AT),
                models.BatchMetadataItem(name="batchyard.timeZone", value=ZONE),
            ],
        )
    )
    info = batch.get_job_schedule(ID).execution_info
    print(f"{ID}: the first job is due at {info.next_run_time if info else None}")


def manage() -> None:
    """What runs on a node every night: the manager of a job adds its tasks."""
    job = f"jobs/{os.environ['AZ_BATCH_JOB_ID']}"
    tasks = [{"id": f"value-{value}", "commandLine": f"/bin/sh -c 'echo {value} squared is $(({value} * {value}))'"} for value in VALUES]
    ask("POST", f"{job}/addtaskcollection", {"value": tasks})
    ask("PATCH", job, {"onAllTasksComplete": "terminatejob"})


def ask(method: str, path: str, body: object) -> None:
    """A request to the service with the token that the job manager has for its own job."""
    url = f"{os.environ['AZ_BATCH_ACCOUNT_URL'].rstrip('/')}/{path}?api-version=2024-02-01.19.0"
    headers = {"Authorization": f"Bearer {os.environ['AZ_BATCH_AUTHENTICATION_TOKEN']}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)) as answer:
        print(method, path, answer.status)


if __name__ == "__main__":
    manage() if sys.argv[1:] == ["manage"] else leave_schedule()
