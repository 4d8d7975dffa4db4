"""The queue endpoint as an ASGI app: path style `/queue/{account}/{queue}/messages/{id}`, one row per operation.

Order for every request: syntax, caller, permission, then the operation; so who may not ask learns nothing of what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from batchyard.blobs.base import AccessPolicy, BlobError
from batchyard.blobs.edge import cors, service_documents, transfers
from batchyard.blobs.edge import documents as storage_documents
from batchyard.blobs.edge.answers import as_answer, busy, error_response, with_common_headers
from batchyard.blobs.edge.container_operations import page_size
from batchyard.blobs.edge.grants import Level, Need
from batchyard.blobs.edge.request import QUEUE, Request, account_named, parse
from batchyard.blobs.edge.transfers import ClientGone
from batchyard.blobs.queues import base, documents, grants
from batchyard.blobs.queues.base import QueueRef
from batchyard.blobs.queues.store import QueueStore
from batchyard.model import times
from batchyard.model.errors import let_go

Handler = Callable[[QueueStore, Request], Awaitable[Response]]
Room = Callable[[int], str | None]

PATH = QUEUE
"""First segment of the path, ahead of the account: `/queue/{account}/{queue}/messages`."""
_NAME = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_XML = "application/xml"
_MOST_BODY_BYTES = 512 * 1024
"""A text of 64 KiB whose every character is escaped."""
_MOST_ACL_BYTES = 64 * 1024
_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table: which request it is, what the caller needs, who does it."""

    methods: str
    place: str
    query: str
    handler: Handler
    letters: str
    writes: bool = False

    @property
    def level(self) -> Level:
        """What it is about, in the letters of an account SAS."""
        return {"service": Level.SERVICE, "queue": Level.CONTAINER}.get(self.place, Level.OBJECT)


def turned_away(accounts: Mapping[str, Sequence[str]], scope: Scope, receive: Receive, now: datetime) -> Response | None:
    """The answer to whom no key of these accounts lets in, told without a store; None for others, and where only the store can tell."""

    def unknown(ref: QueueRef) -> Mapping[str, AccessPolicy]:
        raise _NeedsStore

    if scope["method"] == "OPTIONS":  # a browser signs none; which pages may ask stands in the store
        return None
    try:
        grants.authenticate(parse(scope, receive, accounts, times.micros(now), f"/{PATH}"), accounts, unknown)
    except _NeedsStore:
        return None
    except BlobError as error:
        return error_response(error, scope["method"])
    return None


class _NeedsStore(Exception):
    """A stored access policy decides."""


def application(
    store: QueueStore, accounts: Mapping[str, Sequence[str]], now: Callable[[], datetime], room: Room = lambda size: None
) -> ASGIApp:
    """The endpoint for these accounts (name to base64 keys, read anew for each request)."""

    async def answer(scope: Scope, receive: Receive) -> Response:
        try:
            request = parse(scope, receive, accounts, times.micros(now()), f"/{PATH}")
            if request.method == "OPTIONS":
                return await cors.preflight(store.properties, request)
            grant = await run_in_threadpool(grants.authenticate, request, accounts, lambda ref: store.queue(ref).policies)
            operation = _operation(request)
            grants.require(grant, Need(operation.level, operation.letters))
            request = request.without_empty()
            if operation.writes and (reason := room(0)) is not None:
                raise busy(reason)
            return await operation.handler(store, request)
        except ClientGone:
            raise
        except Exception as error:
            response = error_response(as_answer(error), scope["method"])
            let_go(error)
            return response

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            response = await answer(scope, receive)
        except ClientGone:
            return
        await response(
            scope,
            receive,
            with_common_headers(scope, await cors.for_pages(store.properties, account_named(scope, accounts, f"/{PATH}"), scope, send)),
        )

    return app


def _operation(request: Request) -> Operation:
    place = "service" if request.container is None else "queue" if request.blob is None else "messages"
    if request.blob is not None and request.blob != "messages":
        kind, _, rest = request.blob.partition("/")
        if kind != "messages" or not rest or "/" in rest:
            raise BlobError("InvalidUri")
        place = "message"
    query = request.query
    asked = "&".join(filter(None, (query.get("restype", "").lower(), query.get("comp", "").lower())))
    if place == "messages" and request.method == "GET" and query.get("peekonly", "").lower() == "true":
        asked = "peek"
    operation = _TABLE.get((request.method, place, asked))
    if operation is None:
        known = any(key[1:] == (place, asked) for key in _TABLE)
        raise BlobError("UnsupportedHttpVerb" if known else "UnsupportedQueryParameter")
    return operation


async def _list(store: QueueStore, request: Request) -> Response:
    query = request.query
    include = {part.strip().lower() for part in query.get("include", "").split(",")} - {""}
    if not include <= {"metadata"}:
        raise BlobError("InvalidQueryParameterValue")
    start = storage_documents.from_marker(query["marker"]) if query.get("marker") else ""
    limit = page_size(request)
    page = await run_in_threadpool(store.queues, request.account, query.get("prefix", ""), start, limit)
    return Response(documents.queue_list(request.endpoint, query, limit, page, metadata="metadata" in include), media_type=_XML)


async def _properties(store: QueueStore, request: Request) -> Response:
    found = await run_in_threadpool(store.properties, request.account)
    return Response(service_documents.document(found, blobs=False), media_type=_XML)


async def _set_properties(store: QueueStore, request: Request) -> Response:
    body = await transfers.body(request, service_documents.MOST_BYTES)
    await run_in_threadpool(store.set_properties, request.account, lambda before: service_documents.changed(body, before, blobs=False))
    return Response(status_code=202)


async def _create(store: QueueStore, request: Request) -> Response:
    made = await run_in_threadpool(store.create, _ref(request), request.metadata())
    return Response(status_code=201 if made else 204)


async def _delete(store: QueueStore, request: Request) -> Response:
    await run_in_threadpool(store.delete, _ref(request))
    return Response(status_code=204)


async def _metadata(store: QueueStore, request: Request) -> Response:
    queue = await run_in_threadpool(store.queue, _ref(request))
    headers = {"x-ms-approximate-messages-count": str(queue.count)}
    return transfers.with_metadata(Response(headers=headers), queue.metadata)


async def _set_metadata(store: QueueStore, request: Request) -> Response:
    await run_in_threadpool(store.set_metadata, _ref(request), request.metadata())
    return Response(status_code=204)


async def _acl(store: QueueStore, request: Request) -> Response:
    queue = await run_in_threadpool(store.queue, _ref(request))
    return Response(storage_documents.policy_list(queue.policies), media_type=_XML)


async def _set_acl(store: QueueStore, request: Request) -> Response:
    text = await transfers.body(request, _MOST_ACL_BYTES)
    await run_in_threadpool(store.set_policies, _ref(request), storage_documents.parse_policies(text) if text else {})
    return Response(status_code=204)


async def _put(store: QueueStore, request: Request) -> Response:
    ttl = _seconds(request, "messagettl", base.DEFAULT_TTL_S, 1, None, never=-1)
    hidden = _seconds(request, "visibilitytimeout", 0, 0, base.LONGEST_HIDDEN_S)
    if ttl != -1 and hidden >= ttl:
        raise BlobError("InvalidQueryParameterValue", "visibilitytimeout must be less than messagettl.")
    text = documents.parse_message(await transfers.body(request, _MOST_BODY_BYTES))
    lives = None if ttl == -1 else ttl * _SECOND_US
    message = await run_in_threadpool(store.put, _ref(request), text, hidden * _SECOND_US, lives, request.now_us)
    return Response(documents.message_list([message], receipts=True, texts=False), 201, media_type=_XML)


async def _get(store: QueueStore, request: Request) -> Response:
    hidden = _seconds(request, "visibilitytimeout", base.DEFAULT_HIDDEN_S, 0, base.LONGEST_HIDDEN_S)
    found = await run_in_threadpool(store.get, _ref(request), _most(request), hidden * _SECOND_US, request.now_us)
    return Response(documents.message_list(found, receipts=True, texts=True), media_type=_XML)


async def _peek(store: QueueStore, request: Request) -> Response:
    found = await run_in_threadpool(store.peek, _ref(request), _most(request), request.now_us)
    return Response(documents.message_list(found, receipts=False, texts=True), media_type=_XML)


async def _clear(store: QueueStore, request: Request) -> Response:
    await run_in_threadpool(store.clear, _ref(request))
    return Response(status_code=204)


async def _update(store: QueueStore, request: Request) -> Response:
    message_id, receipt = _claim(request)
    hidden = _seconds(request, "visibilitytimeout", None, 0, base.LONGEST_HIDDEN_S)
    body = await transfers.body(request, _MOST_BODY_BYTES)
    text = documents.parse_message(body) if body else None
    changed = await run_in_threadpool(store.update, _ref(request), message_id, receipt, text, hidden * _SECOND_US, request.now_us)
    headers = {"x-ms-popreceipt": changed.receipt, "x-ms-time-next-visible": times.http_date(changed.visible_us)}
    return Response(status_code=204, headers=headers)


async def _remove(store: QueueStore, request: Request) -> Response:
    message_id, receipt = _claim(request)
    await run_in_threadpool(store.remove, _ref(request), message_id, receipt, request.now_us)
    return Response(status_code=204)


def _ref(request: Request) -> QueueRef:
    """Address of the queue; raises InvalidResourceName for a name that none may have."""
    if request.container is None or not _NAME.fullmatch(request.container):
        raise BlobError("InvalidResourceName")
    return QueueRef(request.account, request.container)


def _claim(request: Request) -> tuple[str, str]:
    """Id and pop receipt of the message that is meant."""
    if "popreceipt" not in request.query:
        raise BlobError("MissingRequiredQueryParameter", "popreceipt is not specified.")
    assert request.blob is not None
    return request.blob.partition("/")[2], request.query["popreceipt"]


def _most(request: Request) -> int:
    return _seconds(request, "numofmessages", 1, 1, base.MOST_MESSAGES)


def _seconds(request: Request, name: str, usual: int | None, least: int, most: int | None, never: int | None = None) -> int:
    """A whole number of the query; raises MissingRequiredQueryParameter without `usual`, OutOfRangeQueryParameterValue, or Invalid…"""
    text = request.query.get(name)
    if text is None or text == "":
        if usual is None:
            raise BlobError("MissingRequiredQueryParameter", f"{name} is not specified.")
        return usual
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 10:
        raise BlobError("InvalidQueryParameterValue", f"{name} is not a whole number.")
    value = int(text)
    if value != never and (value < least or (most is not None and value > most)):
        raise BlobError("OutOfRangeQueryParameterValue", f"{name} is {least} to {most if most is not None else 'any number'}.")
    return value


# Letters: r reads, a adds, u updates, p processes (takes and removes); account SAS with l, w and d for the queues themselves.
OPERATIONS = (
    Operation("GET", "service", "list", _list, "l"),
    Operation("GET", "service", "service&properties", _properties, "r"),
    Operation("PUT", "service", "service&properties", _set_properties, "w"),
    Operation("PUT", "queue", "", _create, "cw", writes=True),
    Operation("DELETE", "queue", "", _delete, "d"),
    Operation("GET HEAD", "queue", "metadata", _metadata, "r"),
    Operation("PUT", "queue", "metadata", _set_metadata, "w"),
    Operation("GET HEAD", "queue", "acl", _acl, ""),
    Operation("PUT", "queue", "acl", _set_acl, ""),
    Operation("POST", "messages", "", _put, "a", writes=True),
    Operation("GET", "messages", "", _get, "p"),
    Operation("GET", "messages", "peek", _peek, "r"),
    Operation("DELETE", "messages", "", _clear, "d"),
    Operation("PUT", "message", "", _update, "u"),
    Operation("DELETE", "message", "", _remove, "p"),
)
_TABLE = MappingProxyType({(m, o.place, o.query): o for o in OPERATIONS for m in o.methods.split()})
