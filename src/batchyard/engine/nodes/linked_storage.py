"""The storage account that is linked to the Batch account (contract 4.5): nodes read its containers by signed URLs.

A task names a container and no URL; what is kept of it stays like that. The URL is made when a node is told of the task, opens that
one container for reading and listing only, and is good for a day.

A task's token asks with nobody's key, so it opens no more than its own job already does: containers, and prefixes in them, that its own
task or the job's manager, preparation or release task names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta
from urllib.parse import quote

import msgspec

from batchyard.blobs.edge.sas import blob_sas, container_sas
from batchyard.model import times
from batchyard.model.common import ResourceFile
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent, JobManagerTask, JobPreparationTask, JobReleaseTask
from batchyard.model.sync import Order, Package
from batchyard.model.task import TaskCreateContent
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader

READABLE = timedelta(days=1)
"""Files are fetched as soon as a node is told of a task; that may take long, but no longer."""
PACKAGES = "batchyard-applications"
"""Container of the application packages' zip files."""
_NAMED = b'"autoStorageContainerName"'
_task = msgspec.json.Decoder(TaskCreateContent)
_job = msgspec.json.Decoder(JobCreateContent)

Part = tuple[str, str]
"""A container, and the prefix in it."""


class LinkedStorage(msgspec.Struct, frozen=True):
    """Name and key of the account."""

    account: str
    key: str


def open_to_node(orders: Iterable[Order], storage: LinkedStorage, server_url: str, now: int) -> None:
    """Put signed URLs in place of the containers that the orders name; `server_url` is how the node reaches the storage endpoint."""
    for order in orders:
        open_packages(order.packages, storage, server_url, now)
        if _NAMED not in bytes(order.task):
            continue
        task = _task.decode(order.task)
        task.resource_files = [_signed(file, storage, server_url, now) for file in task.resource_files or ()]
        order.task = msgspec.Raw(msgspec.json.encode(task))


def open_packages(packages: Iterable[Package], storage: LinkedStorage, server_url: str, now: int) -> None:
    """Put the signed URLs of their zip files into packages, each for this one blob and for reading only."""
    for package in packages:
        if package.blob:
            sas = blob_sas(storage.account, storage.key, PACKAGES, package.blob, "r", times.moment(now) + READABLE)
            package.url = f"{server_url.rstrip('/')}/{storage.account}/{PACKAGES}/{quote(package.blob)}?{sas}"


def parts_for_task(reader: Reader, job: JobRow, task_pk: int) -> frozenset[Part]:
    """The parts of the linked storage that the token of a task of a job may have further tasks read."""
    sent = _job.decode(job.body)
    special = (sent.job_manager_task, sent.job_preparation_task, sent.job_release_task, _task.decode(task_rows.body(reader, task_pk)))
    return frozenset(part for task in special if task is not None for part in _parts_of(task))


def check_parts(task: TaskCreateContent, allowed: Collection[Part]) -> None:
    """Raises Forbidden when a task reads of the linked storage what is in none of the allowed parts."""
    for name, prefix in _parts_of(task):
        if not any(name == container and prefix.startswith(start) for container, start in allowed):
            raise BatchError(
                "Forbidden",
                PropertyName="resourceFiles.autoStorageContainerName",
                PropertyValue=name[:64],
                Reason="A task's token does not allow a container, or a prefix in it, that neither its own task nor its job names",
            )


def _parts_of(task: TaskCreateContent | JobManagerTask | JobPreparationTask | JobReleaseTask) -> list[Part]:
    several = task.multi_instance_settings if isinstance(task, TaskCreateContent) else None
    return _parts(task.resource_files) + _parts(several.common_resource_files if several is not None else None)


def _parts(files: Iterable[ResourceFile] | None) -> list[Part]:
    return [
        (file.auto_storage_container_name, file.blob_prefix or "") for file in files or () if file.auto_storage_container_name is not None
    ]


def _signed(file: ResourceFile, storage: LinkedStorage, server_url: str, now: int) -> ResourceFile:
    name = file.auto_storage_container_name
    if name is None:
        return file
    sas = container_sas(storage.account, storage.key, name, "rl", times.moment(now) + READABLE)
    url = f"{server_url.rstrip('/')}/{storage.account}/{name}?{sas}"
    return msgspec.structs.replace(file, auto_storage_container_name=None, storage_container_url=url)
