"""Compute node operations."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from starlette.responses import Response

from batchyard.api.batch import node_views, selection
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.nodes import node_changes
from batchyard.engine.pools import pools
from batchyard.model import times
from batchyard.model.common import Shape
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.node import (
    NodeDeallocate,
    NodeDisableScheduling,
    NodeReboot,
    NodeReimage,
    NodeUserCreate,
    NodeUserUpdate,
    UploadBatchServiceLogs,
    UploadBatchServiceLogsResult,
)
from batchyard.model.states import NodeState
from batchyard.model.sync import FileRequest, LogUpload
from batchyard.model.words import NodeDisableSchedulingOption
from batchyard.rules import odata
from batchyard.store import nodes as rows
from batchyard.store import pools as pool_rows
from batchyard.store.filters import Page
from batchyard.store.nodes import NodeRow, NodeView, RecentTask
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

T = TypeVar("T")

LONGEST_USER_NAME = 20
REACHABLE = (
    NodeState.IDLE,
    NodeState.RUNNING,
    NodeState.OFFLINE,
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
    NodeState.UNUSABLE,
)
"""States of nodes whose agents answer (contract 2.9)."""
_TAKES_USERS = (NodeState.IDLE, NodeState.RUNNING)


async def list_(call: Call) -> Response:
    """GET /pools/{poolId}/nodes"""
    chosen, found = selection.of(call, selection.NODE), call.filter(odata.NODES)
    after, most = call.page()

    def query(reader: Reader, pool_id: str) -> tuple[Page[NodeView], list[list[RecentTask]]]:
        page = rows.filtered(reader, _pool(reader, pool_id), found, after, most)
        return page, [rows.recent_tasks(reader, row) for row in page.rows]

    page, recent = await call.db.read(query, call.ids["pool_id"])
    items = chosen.all(node_views.node(row, tasks, call) for row, tasks in zip(page.rows, recent, strict=True))
    return wire.listing(call.base, "nodes", items, call.next_link(page.more))


async def get(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}"""
    chosen = selection.of(call, selection.NODE)

    def query(reader: Reader, pool_id: str, node_id: str) -> tuple[NodeView, list[RecentTask]]:
        row = find(reader, pool_id, node_id)
        return row, rows.recent_tasks(reader, row)

    node, recent = await call.db.read(query, call.ids["pool_id"], call.ids["node_id"])
    return wire.element(call.base, "nodes", chosen.one(node_views.node(node, recent, call)))


def _pool(reader: Reader, pool_id: str) -> int:
    pool = pool_rows.find(reader, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool.pk


def find(reader: Reader, pool_id: str, node_id: str) -> NodeView:
    """Node of a pool. Raises PoolNotFound, NodeNotFound."""
    node = rows.view(reader, _pool(reader, pool_id), node_id)
    if node is None:
        raise BatchError("NodeNotFound")
    return node


# what changes a node


async def _change(call: Call, use: Callable[[Tx, NodeRow, int], None]) -> None:
    """Have a use case change a node of a pool that is not being deleted."""

    def unit(tx: Tx, pool_id: str, node_id: str, now: int) -> None:
        node = rows.find(tx, pools.open_pool(tx, pool_id).pk, node_id)
        if node is None:
            raise BatchError("NodeNotFound")
        use(tx, node, now)

    await call.db.run(unit, call.ids["pool_id"], call.ids["node_id"], call.now)


def _done(call: Call, status: int, *action: str, location: bool = False) -> Response:
    return wire.nothing(status, resource=call.url("pools", call.ids["pool_id"], "nodes", call.ids["node_id"], *action), location=location)


async def reboot(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/reboot"""
    option = call.decode(NodeReboot, empty=NodeReboot()).node_reboot_option
    await _change(call, lambda tx, node, now: node_changes.reboot(tx, node, option, now, call.services.restarting))
    return _done(call, 202, "reboot")


async def reimage(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/reimage"""
    option = call.decode(NodeReimage, empty=NodeReimage()).node_reimage_option
    await _change(call, lambda tx, node, now: node_changes.reimage(tx, node, option, now, call.services.restarting))
    return _done(call, 202, "reimage")


async def deallocate(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/deallocate"""
    option = call.decode(NodeDeallocate, empty=NodeDeallocate()).node_deallocate_option
    await _change(call, lambda tx, node, now: node_changes.deallocate(tx, node, option, now))
    return _done(call, 202, "deallocate")


async def start(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/start"""
    await _change(call, node_changes.start)
    return _done(call, 202, "start")


class _DisableScheduling(Shape):
    """NodeDisableScheduling, also as `az batch node scheduling disable` sends it: with its only member in itself."""

    node_disable_scheduling_option: NodeDisableSchedulingOption | NodeDisableScheduling | None = None


async def disable_scheduling(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/disablescheduling"""
    option = call.decode(_DisableScheduling, empty=_DisableScheduling()).node_disable_scheduling_option
    if isinstance(option, NodeDisableScheduling):
        option = option.node_disable_scheduling_option
    await _change(call, lambda tx, node, now: node_changes.disable_scheduling(tx, node, option, now))
    return _done(call, 200, "disablescheduling")


async def enable_scheduling(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/enablescheduling"""
    await _change(call, node_changes.enable_scheduling)
    return _done(call, 200, "enablescheduling")


# what is read of a node


async def remote_login_settings(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}/remoteloginsettings"""
    row = await call.db.read(find, call.ids["pool_id"], call.ids["node_id"])
    machine = node_views.place(row, call)
    if machine is None:
        raise BatchError("OperationNotValidOnNode", Reason="The node has not joined yet, so its address is not known")
    return wire.entity(call.base, "RemoteLoginSettings", wire.encode(node_views.login(row, machine)))


async def list_extensions(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}/extensions"""
    chosen = selection.of(call, selection.EXTENSION)
    skip, most = call.page()
    found = node_views.extensions(await call.db.read(find, call.ids["pool_id"], call.ids["node_id"]))
    link = call.next_link(skip + most) if len(found) > skip + most else None
    return wire.listing(call.base, "extensions", chosen.all(wire.encode(each) for each in found[skip : skip + most]), link)


async def get_extension(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}/extensions/{extensionName}"""
    chosen = selection.of(call, selection.EXTENSION)
    row = await call.db.read(find, call.ids["pool_id"], call.ids["node_id"])
    for extension in node_views.extensions(row):
        if extension.vm_extension is not None and extension.vm_extension.name.lower() == call.ids["extension_name"].lower():
            return wire.element(call.base, "extensions", chosen.one(wire.encode(extension)))
    raise BatchError("ResourceNotFound")


# what the node's agent does


async def add_user(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/users"""
    user = call.decode(NodeUserCreate)
    _check_user_name(user.name)
    _check_expiry(user.expiry_time)
    await _ask(call, "add_user", "", msgspec.json.encode(user))
    return _done(call, 201, "users", user.name, location=True)


async def update_user(call: Call) -> Response:
    """PUT /pools/{poolId}/nodes/{nodeId}/users/{userName}"""
    user = call.decode(NodeUserUpdate)
    _check_expiry(user.expiry_time)
    await _ask(call, "update_user", call.ids["user_name"], msgspec.json.encode(user))
    return _done(call, 200, "users", call.ids["user_name"])


async def delete_user(call: Call) -> Response:
    """DELETE /pools/{poolId}/nodes/{nodeId}/users/{userName}"""
    await _ask(call, "delete_user", call.ids["user_name"])
    return wire.nothing(200)


def _check_user_name(name: str) -> None:
    if not 1 <= len(name) <= LONGEST_USER_NAME:
        raise invalid_property("name", name[:100], f"A user name has 1 to {LONGEST_USER_NAME} characters")


def _check_expiry(text: str | None) -> None:
    if text is not None:
        _moment("expiryTime", text)


async def _ask(call: Call, operation: str, path: str, content: bytes = b"{}") -> None:
    """Have the node's agent change a user. Raises what its state forbids, and the agent's own answer."""
    node = await call.db.read(find, call.ids["pool_id"], call.ids["node_id"])
    if node.state not in _TAKES_USERS:
        raise node_changes.refused(node.state)
    wanted = FileRequest(id="", operation=operation, path=path, content=msgspec.Raw(content))
    (await call.services.relay.ask(node.pk, wanted)).close()


async def upload_service_logs(call: Call) -> Response:
    """POST /pools/{poolId}/nodes/{nodeId}/uploadbatchservicelogs"""
    wanted = call.decode(UploadBatchServiceLogs)
    if wanted.identity_reference is not None:
        raise BatchError("UnsupportedProperty", PropertyName="identityReference", Reason="Give the container's URL a SAS that may write")
    if not _is_url(wanted.container_url):
        raise invalid_property("containerUrl", "", "The value is not an http or https URL")
    node = await call.db.read(find, call.ids["pool_id"], call.ids["node_id"])
    if node.state not in REACHABLE:
        raise node_changes.refused(node.state)
    directory = f"{call.services.account.name}-{secrets.token_hex(8)}/{node.pool_id}/{node.id}/{uuid.uuid4()}"
    upload = LogUpload(
        container_url=wanted.container_url,
        directory=directory,
        start=_moment("startTime", wanted.start_time),
        end=None if wanted.end_time is None else _moment("endTime", wanted.end_time),
    )
    request = FileRequest(id="", operation="upload_logs", content=msgspec.Raw(msgspec.json.encode(upload)))
    exchange = await call.services.relay.ask(node.pk, request)
    body = b"".join([chunk async for chunk in exchange.chunks()])
    uploaded = msgspec.json.decode(body, type=_Uploaded)
    result = UploadBatchServiceLogsResult(virtual_directory_name=directory, number_of_files_uploaded=uploaded.number_of_files_uploaded)
    return wire.entity(call.base, "UploadBatchServiceLogsResult", wire.encode(result))


def _is_url(text: str) -> bool:
    """True for what may lead to a storage account; whether there is a container shows when the node uploads (contract 4.9)."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.netloc)


class _Uploaded(msgspec.Struct, rename="camel"):
    """What the agent answers."""

    number_of_files_uploaded: int


def _moment(name: str, text: str) -> int:
    try:
        return times.from_iso(text)
    except ValueError:
        raise invalid_property(name, text, "The value is not a time") from None
