"""Files of tasks and nodes: list, get, properties, delete, all through the node's agent (contract 1.8)."""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from batchyard.api.batch import nodes, tasks
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.api.wire.relay import Exchange
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_query
from batchyard.model.file import FileProperties, NodeFile
from batchyard.model.states import TaskState
from batchyard.model.sync import FileEntry, FileRequest
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.rules.places import task_directory

log = structlog.get_logger()

_entries = msgspec.json.Decoder(list[FileEntry])
_LOOKED_AT = 5_000
"""Entries that a page by `$filter` looks at."""
_CONTENT_TYPE = "application/octet-stream"


class Place(msgspec.Struct):
    """Where files are: a directory of a node, and the URL that lists it."""

    node_pk: int
    base: str
    url: str


async def of_task(call: Call) -> Place:
    """The directory of a task. Raises TaskFilesUnavailable."""
    job, task = await call.db.read(tasks.find, call.ids["job_id"], call.ids["task_id"])
    if task.node_pk is None or task.node_id is None or (task.state == TaskState.ACTIVE and task.run == 0):
        raise BatchError("TaskFilesUnavailable")
    if task.state == TaskState.COMPLETED and task.retention is not None and call.now >= (task.ended or 0) + task.retention:
        raise BatchError("TaskFilesCleanedup")
    return Place(task.node_pk, task_directory(job.id, task.id), call.url("jobs", job.id, "tasks", task.id, "files"))


async def of_node(call: Call) -> Place:
    """The root of a node. Raises OperationInvalidForCurrentState."""
    node = await call.db.read(nodes.find, call.ids["pool_id"], call.ids["node_id"])
    if node.state not in nodes.REACHABLE:
        raise BatchError("OperationInvalidForCurrentState")
    return Place(node.pk, "", call.url("pools", node.pool_id, "nodes", node.id, "files"))


async def list_task_files(call: Call) -> Response:
    """GET /jobs/{jobId}/tasks/{taskId}/files"""
    return await _list(call, await of_task(call))


async def list_node_files(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}/files"""
    return await _list(call, await of_node(call))


async def _list(call: Call, place: Place) -> Response:
    """A page of the listing; the token is the name behind which the node goes on."""
    recursive = call.query.get("recursive", "false").lower() == "true"
    after, most, found = _after(call), call.most(), call.filter(odata.FILES)
    looked_at = most + 1 if found is None else max(most + 1, _LOOKED_AT)
    wanted = FileRequest(id="", operation="list", base=place.base, path="", recursive=recursive, after=after, limit=looked_at)
    exchange = await _ask(call, place, wanted)
    body = b"".join([chunk async for chunk in exchange.chunks()])
    entries = [entry for entry in _entries.decode(body) if entry.name > after][:looked_at]
    chosen = [entry for entry in entries if odata.matches(found, {"name": entry.name}.get)]
    last = chosen[most - 1] if len(chosen) > most else entries[-1] if len(entries) == looked_at else None
    link = call.next_link(None if last is None else urlsafe_b64encode(last.name.encode()).decode())
    return wire.listing(call.base, "files", [_item(entry, place) for entry in chosen[:most]], link)


def _after(call: Call) -> str:
    """The name that a token stands for. Raises InvalidQueryParameterValue."""
    token = call.query.get("$skiptoken", "")
    try:
        return b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid_query("$skiptoken", token[:100], "The token is not one of this server's") from None


def _item(entry: FileEntry, place: Place) -> bytes:
    properties = None
    if not entry.is_directory:
        properties = FileProperties(
            last_modified=times.iso(entry.modified),
            content_length=str(entry.size),
            content_type=_CONTENT_TYPE,
            file_mode=f"0o{entry.mode:o}",
        )
    url = f"{place.url}/{quote(entry.name)}"
    return wire.encode(NodeFile(name=entry.name, url=url, is_directory=entry.is_directory, properties=properties))


async def get_task_file(call: Call) -> Response:
    """GET /jobs/{jobId}/tasks/{taskId}/files/{filePath}"""
    return await _get(call, await of_task(call))


async def get_node_file(call: Call) -> Response:
    """GET /pools/{poolId}/nodes/{nodeId}/files/{filePath}"""
    return await _get(call, await of_node(call))


async def _get(call: Call, place: Place) -> Response:
    """The bytes, or those of `ocp-range`; either way 200, because the SDKs refuse 206 (contract 1.5)."""
    offset, length = _range(call.signed.headers)
    wanted = FileRequest(id="", operation="get", base=place.base, path=call.ids["file_path"], offset=offset, length=length)
    exchange = await _ask(call, place, wanted)
    head = await exchange.head
    assert head.entry is not None
    try:
        _check(call, head.entry)
    except BatchError:
        exchange.close()
        raise
    headers = _headers(head.entry, place) | {"Content-Length": str(head.length)}
    return _FileResponse(exchange, headers)


class _FileResponse(StreamingResponse):
    """The bytes of an exchange, which is over when the response is, even if the client went before the first byte."""

    def __init__(self, exchange: Exchange, headers: Mapping[str, str]) -> None:
        super().__init__(exchange.chunks(), headers=headers, media_type=_CONTENT_TYPE)
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, then let the node's answer go."""
        try:
            await super().__call__(scope, receive, send)
        except ConnectionError as error:
            log.warning("file broken off", path=scope["path"], reason=str(error))
        finally:
            self._exchange.close()


async def task_file_properties(call: Call) -> Response:
    """HEAD /jobs/{jobId}/tasks/{taskId}/files/{filePath}"""
    return await _properties(call, await of_task(call))


async def node_file_properties(call: Call) -> Response:
    """HEAD /pools/{poolId}/nodes/{nodeId}/files/{filePath}"""
    return await _properties(call, await of_node(call))


async def _properties(call: Call, place: Place) -> Response:
    exchange = await _ask(call, place, FileRequest(id="", operation="properties", base=place.base, path=call.ids["file_path"]))
    exchange.close()
    head = await exchange.head
    assert head.entry is not None
    _check(call, head.entry)
    return Response(headers=_headers(head.entry, place) | {"Content-Length": str(head.entry.size)}, media_type=_CONTENT_TYPE)


async def delete_task_file(call: Call) -> Response:
    """DELETE /jobs/{jobId}/tasks/{taskId}/files/{filePath}"""
    return await _delete(call, await of_task(call))


async def delete_node_file(call: Call) -> Response:
    """DELETE /pools/{poolId}/nodes/{nodeId}/files/{filePath}"""
    return await _delete(call, await of_node(call))


async def _delete(call: Call, place: Place) -> Response:
    recursive = call.query.get("recursive", "false").lower() == "true"
    wanted = FileRequest(id="", operation="delete", base=place.base, path=call.ids["file_path"], recursive=recursive)
    (await _ask(call, place, wanted)).close()
    return wire.nothing(200)


async def _ask(call: Call, place: Place, wanted: FileRequest) -> Exchange:
    return await call.services.relay.ask(place.node_pk, wanted)


def _check(call: Call, entry: FileEntry) -> None:
    """Files know only the two conditions on dates (contract 1.6)."""
    given = call.conditions()
    dates = Conditions(if_modified_since=given.if_modified_since, if_unmodified_since=given.if_unmodified_since)
    dates.check(entry.modified, reading=True)


def _headers(entry: FileEntry, place: Place) -> dict[str, str]:
    """The headers that file properties are made of; SDKs give None for each that is absent (contract 1.5)."""
    modified = times.http_date(entry.modified)
    return {
        "Last-Modified": modified,
        "ocp-creation-time": modified,
        "ocp-batch-file-isdirectory": str(entry.is_directory),
        "ocp-batch-file-url": f"{place.url}/{quote(entry.name, safe='')}",
        "ocp-batch-file-mode": f"0o{entry.mode:o}",
    }


def _range(headers: Mapping[str, str]) -> tuple[int, int | None]:
    """(offset, length) of `ocp-range: bytes=a-b`; both ends count. Raises InvalidRange."""
    text = headers.get("ocp-range")
    if text is None:
        return 0, None
    match = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", text.strip())
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        raise BatchError("InvalidRange")
    start = int(match[1])
    return start, int(match[2]) - start + 1 if match[2] else None
