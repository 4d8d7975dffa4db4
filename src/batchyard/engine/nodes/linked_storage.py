"""The storage account that is linked to the Batch account (contract 4.5): nodes read its containers by signed URLs.

A task names a container and no URL; what is kept of it stays like that. The URL is made when a node is told of the task, opens that
one container for reading and listing only, and is good for a day.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import msgspec

from batchyard.blobs.edge.sas import container_sas
from batchyard.model import times
from batchyard.model.common import ResourceFile
from batchyard.model.sync import Order
from batchyard.model.task import TaskCreateContent

READABLE = timedelta(days=1)
"""Files are fetched as soon as a node is told of a task; that may take long, but no longer."""
_NAMED = b'"autoStorageContainerName"'
_task = msgspec.json.Decoder(TaskCreateContent)


class LinkedStorage(msgspec.Struct, frozen=True):
    """Name and key of the account."""

    account: str
    key: str


def open_to_node(orders: Iterable[Order], storage: LinkedStorage, server_url: str, now: int) -> None:
    """Put signed URLs in place of the containers that the orders name; `server_url` is how the node reaches the storage endpoint."""
    for order in orders:
        if _NAMED not in bytes(order.task):
            continue
        task = _task.decode(order.task)
        task.resource_files = [_signed(file, storage, server_url, now) for file in task.resource_files or ()]
        order.task = msgspec.Raw(msgspec.json.encode(task))


def _signed(file: ResourceFile, storage: LinkedStorage, server_url: str, now: int) -> ResourceFile:
    name = file.auto_storage_container_name
    if name is None:
        return file
    sas = container_sas(storage.account, storage.key, name, "rl", times.moment(now) + READABLE)
    url = f"{server_url.rstrip('/')}/{storage.account}/{name}?{sas}"
    return msgspec.structs.replace(file, auto_storage_container_name=None, storage_container_url=url)
