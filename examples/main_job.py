"""Count the identifiers of Python's standard library with 40 map tasks and one reduce task on a pool of three nodes.

It is written for Azure Batch and for nothing else: only azure-batch and azure-storage-blob are imported, and only these
four variables say where to run, so the same file runs on Azure and on Batchyard (`eval "$(batchyard env)"` sets them):
AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY, AZURE_BATCH_ENDPOINT, AZURE_STORAGE_CONNECTION_STRING.
"""

from __future__ import annotations

import argparse
import io
import os
import secrets
import sys
import sysconfig
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient, generate_blob_sas, generate_container_sas

from count_identifiers import identifiers, table

NODES, SLOTS, ARCHIVES = 3, 2, 40
SCRIPT = Path(__file__).with_name("count_identifiers.py")
UBUNTU = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest")


def standard_library() -> list[Path]:
    """Every source file of the running interpreter's standard library, the biggest first."""
    files = (f for f in Path(sysconfig.get_path("stdlib")).rglob("*.py") if f.is_file())
    return sorted((f for f in files if not {"site-packages", "dist-packages"} & set(f.parts)), key=lambda f: (-f.stat().st_size, f))


def zipped(files: list[Path]) -> bytes:
    """An archive that depends on nothing but the files: no times, no owners."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file)), file.read_bytes(), zipfile.ZIP_DEFLATED)
    return target.getvalue()


def signed(what: BlobClient | ContainerClient, permission: str) -> str:
    """The URL of a blob or container with a signature (SAS) that allows `permission` for two hours."""
    allowed = {"account_key": what.credential.account_key, "permission": permission, "expiry": datetime.now(UTC) + timedelta(hours=2)}
    if isinstance(what, BlobClient):
        return f"{what.url}?{generate_blob_sas(what.account_name, what.container_name, what.blob_name, **allowed)}"
    return f"{what.url}?{generate_container_sas(what.account_name, what.container_name, **allowed)}"


def task(
    name: str, command: str, inputs: list[models.ResourceFile], output: str, into: ContainerClient, **more: Any
) -> models.BatchTaskCreateOptions:
    """A task that runs the script on its inputs and, when that went well, uploads one file."""
    target = models.OutputFileBlobContainerDestination(path=output, container_url=signed(into, "cw"))
    upload = models.OutputFile(
        file_pattern=output,
        destination=models.OutputFileDestination(container=target),
        upload_options=models.OutputFileUploadConfiguration(upload_condition="tasksuccess"),
    )
    command_line = f"python3 {SCRIPT.name} {command} {output}"
    return models.BatchTaskCreateOptions(id=name, command_line=command_line, resource_files=inputs, output_files=[upload], **more)


def tasks(data: ContainerClient, partials: ContainerClient, results: ContainerClient) -> Iterator[models.BatchTaskCreateOptions]:
    """The maps "1" to "40", and the reduce task that waits for all of them."""
    script = models.ResourceFile(http_url=signed(data.get_blob_client(SCRIPT.name), "r"), file_path=SCRIPT.name)
    for n in range(1, ARCHIVES + 1):
        archive = models.ResourceFile(http_url=signed(data.get_blob_client(f"{n}.zip"), "r"), file_path=f"{n}.zip")
        yield task(str(n), f"count {n}.zip", [script, archive], f"{n}.json", partials)
    all_maps = models.BatchTaskDependencies(task_id_ranges=[models.BatchTaskIdRange(start=1, end=ARCHIVES)])
    everything = models.ResourceFile(storage_container_url=signed(partials, "rl"), file_path="partials")
    yield task("reduce", "merge partials", [script, everything], "identifiers.tsv", results, depends_on=all_maps)


def watch(batch: BatchClient, job: str, seconds: float) -> None:
    """Draw a progress bar until every task has ended; stop at the first one that failed."""
    deadline, total, drawn = time.monotonic() + seconds, ARCHIVES + 1, ""
    while True:
        counts = batch.get_job_task_counts(job).task_counts
        bar = "█" * counts.completed + "▒" * counts.running + "·" * (total - counts.completed - counts.running)
        line = f"  {bar} {counts.completed}/{total} tasks, {counts.running} running "
        if line != drawn:
            drawn = line
            print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)
        if counts.completed >= total or counts.failed:
            return print()
        if time.monotonic() > deadline:
            sys.exit(f"\nthe job did not end within {seconds:.0f} s")
        time.sleep(0.25)


def complain(batch: BatchClient, job: str, failed: list[models.BatchTask]) -> None:
    """Say of each failed task why it failed and what it wrote to stderr."""
    for one in failed:
        why = one.execution_info.failure_info
        print(f"task {one.id} failed: {why.code}: {why.message} (exit code {one.execution_info.exit_code})", file=sys.stderr)
        if one.execution_info.exit_code is not None:
            print(b"".join(batch.download_task_file(job, one.id, "stderr.txt")).decode("utf-8", "replace"), file=sys.stderr)


def report(done: list[models.BatchTask], result: str, seconds: float) -> None:
    """Print what came out and who did it."""
    seconds_of = {one.id: (one.execution_info.end_time - one.execution_info.start_time).total_seconds() for one in done}
    slowest = max(seconds_of, key=seconds_of.__getitem__)
    print(f"\n{len(done)} tasks in {seconds:.1f} s; the slowest was {slowest!r} with {seconds_of[slowest]:.2f} s\n")
    for node, count in sorted(Counter(one.node_info.node_id for one in done).items()):
        print(f"  {node:40} {count:3} tasks  {'█' * count}")
    print("\nthe most frequent identifiers of the standard library:")
    for line in result.splitlines()[:10]:
        name, count = line.split("\t")
        print(f"  {name:16} {int(count):8,}")


def run_job(batch: BatchClient, run: str, work: list[models.BatchTaskCreateOptions], clean_up: ExitStack, timeout: float) -> float:
    """Make pool and job, add the tasks, wait for their end; the answer is how many seconds that took."""
    machine = models.VirtualMachineConfiguration(image_reference=UBUNTU, node_agent_sku_id="batch.node.ubuntu 24.04")
    pool = models.BatchPoolCreateOptions(
        id=run, vm_size="standard_d2s_v3", virtual_machine_configuration=machine, target_dedicated_nodes=NODES, task_slots_per_node=SLOTS
    )
    started = time.monotonic()
    batch.create_pool(pool)
    clean_up.callback(lambda: batch.begin_delete_pool(run, polling_interval=1).wait())
    batch.create_job(models.BatchJobCreateOptions(id=run, pool_info=models.BatchPoolInfo(pool_id=run), uses_task_dependencies=True))
    clean_up.callback(lambda: batch.begin_delete_job(run, polling_interval=1).wait())
    batch.create_tasks(run, work)
    watch(batch, run, timeout)
    return time.monotonic() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keep", action="store_true", help="leave job, pool and containers there")
    options.add_argument("--timeout", type=float, default=600, metavar="S", help="give up after this many seconds (default 600)")
    chosen = options.parse_args()

    key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    patient = {"retry_connect": 10, "retry_backoff_max": 5}  # the service may be away for half a minute, not only for five seconds
    batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], key, **patient)
    storage = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
    run = f"main-job-{secrets.token_hex(4)}"

    clean_up = ExitStack()  # what was made is undone in reverse order, whatever happens
    with nullcontext() if chosen.keep else clean_up:
        data, partials, results = (storage.get_container_client(f"{run}-{kind}") for kind in ("data", "partials", "results"))
        for container in (data, partials, results):
            container.create_container()
            clean_up.callback(container.delete_container)

        files = standard_library()
        print(f"uploading {len(files)} files of the standard library as {ARCHIVES} archives")
        data.upload_blob(SCRIPT.name, SCRIPT.read_bytes())
        for n in range(ARCHIVES):
            data.upload_blob(f"{n + 1}.zip", zipped(files[n::ARCHIVES]))

        print(f"running {ARCHIVES} map tasks and a reduce task on {NODES} nodes with {SLOTS} slots each")
        seconds = run_job(batch, run, list(tasks(data, partials, results)), clean_up, chosen.timeout)
        done = list(batch.list_tasks(run))
        if failed := [one for one in done if one.execution_info and one.execution_info.failure_info]:
            complain(batch, run, failed)
            sys.exit(f"{len(failed)} of {len(done)} tasks failed")
        result = results.download_blob("identifiers.tsv").readall().decode()
        report(done, result, seconds)

        expected: Counter[str] = Counter()
        for file in files:
            expected.update(identifiers(file.read_bytes()))
        if result != table(expected):
            sys.exit("\nthe result differs from the count on this machine")
        print(f"\nthe same as counted on this machine: {expected.total():,} identifiers, {len(expected):,} different ones")


if __name__ == "__main__":
    main()
