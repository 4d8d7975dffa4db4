"""The storage endpoint as an ASGI app: `/{account}/{container}/{blob}`, or `{account}.blob.{domain}`; one row per operation.

Order for every request: syntax, caller, permission, then the operation; so who may not ask learns nothing of what is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from batchyard.blobs.base import AccessPolicy, BlobError, BlobStore, ContainerRef
from batchyard.blobs.edge import batch, cors, structured, together, website
from batchyard.blobs.edge import blob_operations as blobs
from batchyard.blobs.edge import container_operations as containers
from batchyard.blobs.edge import copy_operations as copies
from batchyard.blobs.edge import lease_operations as leases
from batchyard.blobs.edge import mark_operations as marks
from batchyard.blobs.edge import page_operations as pages
from batchyard.blobs.edge import path_operations as paths
from batchyard.blobs.edge import service_operations as services
from batchyard.blobs.edge import upload_operations as uploads
from batchyard.blobs.edge.answers import as_answer, busy, error_response, with_common_headers
from batchyard.blobs.edge.auth import authenticate
from batchyard.blobs.edge.fetches import Fetches
from batchyard.blobs.edge.grants import Grant, Level, Need, Scope, unsigned
from batchyard.blobs.edge.request import Request, account_named, parse
from batchyard.blobs.edge.together import Place
from batchyard.blobs.edge.transfers import ClientGone
from batchyard.model import times
from batchyard.model.errors import let_go
from batchyard.model.together import COMP

Handler = Callable[[BlobStore, Request, Grant], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table: which request it is, what the caller needs, who does it; None for one whose parts are requests."""

    methods: str
    level: Level
    restype: str
    comp: str
    handler: Handler | None
    letters: str
    by_service_sas: bool = False


async def _set_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    wanted = pages.set_properties if pages.is_about_pages(request) else blobs.set_headers
    return await wanted(store, request, grant)


_S, _C, _O = Level.SERVICE, Level.CONTAINER, Level.OBJECT

# Letters: https://learn.microsoft.com/rest/api/storageservices/create-account-sas#account-sas-permissions-by-operation;
# none: only with the account key.
OPERATIONS = (
    Operation("GET", _S, "", "list", containers.list_containers, "l"),
    Operation("GET", _S, "", "blobs", marks.find_tagged, "f"),
    Operation("GET", _S, "service", "properties", services.get_properties, "r"),
    Operation("PUT", _S, "service", "properties", services.set_properties, "w"),
    Operation("GET HEAD", _S, "account", "properties", containers.account_information, "rwdlacu"),
    # The parts of a batch are signed themselves, so any signature opens the envelope.
    Operation("POST", _S, "", "batch", None, "racwdxyltmeopif"),
    Operation("POST", _C, "container", "batch", None, "racwdxyltmeopif", by_service_sas=True),
    Operation("POST", _C, "container", COMP, None, "cw", by_service_sas=True),
    Operation("PUT", _C, "container", "", containers.create, "cw"),
    Operation("GET HEAD", _C, "container", "", containers.properties, "r"),
    Operation("DELETE", _C, "container", "", containers.delete, "d"),
    Operation("PUT", _C, "container", "undelete", containers.restore, "cw"),
    Operation("PUT", _C, "container", "lease", leases.lease_container, "wd"),
    Operation("GET HEAD", _C, "container", "metadata", containers.properties, "r"),
    Operation("PUT", _C, "container", "metadata", containers.set_metadata, "w"),
    Operation("GET HEAD", _C, "container", "acl", containers.get_acl, ""),
    Operation("PUT", _C, "container", "acl", containers.set_acl, ""),
    Operation("GET", _C, "container", "list", containers.list_blobs, "l", by_service_sas=True),
    Operation("GET", _C, "container", "blobs", marks.find_tagged, "f", by_service_sas=True),
    Operation("GET HEAD", _C, "account", "properties", containers.account_information, "rwdlacu", by_service_sas=True),
    Operation("GET", _O, "", "", blobs.get, "r"),
    Operation("HEAD", _O, "", "", blobs.head, "r"),
    Operation("DELETE", _O, "", "", blobs.delete, "d"),
    Operation("PUT", _O, "", "undelete", blobs.undelete, "w"),
    Operation("GET HEAD", _O, "", "metadata", blobs.head, "r"),
    Operation("PUT", _O, "", "metadata", blobs.set_metadata, "w"),
    Operation("PUT", _O, "", "properties", _set_properties, "w"),
    Operation("PUT", _O, "", "lease", leases.lease_blob, "wd"),
    Operation("PUT", _O, "", "snapshot", marks.snapshot, "cw"),
    Operation("PUT", _O, "", "tier", marks.set_tier, "w"),
    Operation("GET", _O, "", "tags", marks.get_tags, "t"),
    Operation("PUT", _O, "", "tags", marks.set_tags, "t"),
    Operation("PUT", _O, "", "expiry", marks.set_expiry, "w"),
    Operation("PUT", _O, "", "seal", marks.seal, "aw"),
    Operation("PUT", _O, "", "copy", copies.abort, "aw"),
    Operation("GET HEAD", _O, "account", "properties", containers.account_information, "rwdlacu"),
    Operation("PUT", _O, "", "", uploads.put, "cw"),
    Operation("PUT", _O, "", "block", uploads.put_block, "w"),
    Operation("PUT", _O, "", "blocklist", uploads.put_block_list, "w"),
    Operation("GET", _O, "", "blocklist", blobs.get_block_list, "r"),
    Operation("PUT", _O, "", "page", pages.put_page, "w"),
    Operation("GET", _O, "", "pagelist", pages.get_ranges, "r"),
    Operation("PUT", _O, "", "appendblock", uploads.append_block, "aw"),
)
# The dfs operations, by `resource` or `action`.
PATH_OPERATIONS = (
    Operation("PUT", _C, "filesystem", "", containers.create, "cw"),
    Operation("DELETE", _C, "filesystem", "", containers.delete, "d"),
    Operation("HEAD", _C, "filesystem", "", containers.properties, "r"),
    Operation("GET", _C, "filesystem", "", paths.list_paths, "l", by_service_sas=True),
    Operation("HEAD", _C, "getaccesscontrol", "", paths.get_status, "r", by_service_sas=True),
    Operation("PUT", _O, "file", "", paths.create, "cw"),
    Operation("PUT", _O, "directory", "", paths.create, "cw"),
    Operation("PUT", _O, "rename", "", paths.rename, "w"),
    Operation("PATCH", _O, "append", "", paths.append, "aw"),
    Operation("PATCH", _O, "flush", "", paths.flush, "aw"),
    Operation("PATCH", _O, "setproperties", "", paths.set_properties, "w"),
    Operation("DELETE", _O, "", "", paths.delete, "d"),
    Operation("HEAD", _O, "", "", paths.get_status, "r"),
    Operation("HEAD", _O, "getstatus", "", paths.get_status, "r"),
    Operation("HEAD", _O, "getaccesscontrol", "", paths.get_status, "r"),
    Operation("GET", _O, "", "", blobs.get, "r"),
)
_PATHS = MappingProxyType({(o.methods, o.level, o.restype): o for o in PATH_OPERATIONS})
_TABLE = MappingProxyType({(m, o.level, o.restype, o.comp): o for o in OPERATIONS for m in o.methods.split()})

# What would change the meaning of a request and is not served is refused, never ignored.
_REFUSED_PARAMETERS = frozenset({"deletetype", "prevsnapshoturl"})
_OF_SNAPSHOTS = frozenset({blobs.get, pages.get_ranges, blobs.head, blobs.delete, marks.get_tags, marks.set_tags, marks.set_tier})
"""Operations that a snapshot or a version may be named in."""
_TAKING = frozenset({uploads.put, uploads.put_block, uploads.append_block, pages.put_page, paths.append})
"""Operations whose content may come as a structured message."""
_REFUSED_HEADERS = (
    "x-ms-encryption-",
    "x-ms-immutability-policy-",
    "x-ms-legal-hold",
    "x-ms-default-encryption-scope",
)


Room = Callable[[int], str | None]
"""Why no content of so many bytes is taken at the moment, None when it is."""


def application(
    store: BlobStore,
    accounts: Mapping[str, Sequence[str]],
    now: Callable[[], datetime],
    room: Room = lambda size: None,
    *,
    public: bool = False,
    fetches: Fetches | None = None,
) -> ASGIApp:
    """The endpoint for these accounts (name to base64 keys, read anew for each request, so keys may be rotated).

    `public` lets containers be opened to readers without a key; `fetches` brings copies from other servers.
    """
    endpoint = _Endpoint(store, accounts, room, public, fetches)

    async def app(scope: Connection, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            response = await endpoint.answer(scope, receive, times.micros(now()))
        except ClientGone:
            return
        await response(
            scope, receive, with_common_headers(scope, await cors.for_pages(store.properties, account_named(scope, accounts), scope, send))
        )

    return app


@dataclass(frozen=True, slots=True)
class _Endpoint:
    store: BlobStore
    accounts: Mapping[str, Sequence[str]]
    room: Room
    public: bool
    fetches: Fetches | None

    async def answer(self, scope: Connection, receive: Receive, now_us: int, place: Place | None = None) -> Response:
        """Response of the operation, or the error body."""
        try:
            return await self._operate(scope, receive, now_us, place)
        except ClientGone:
            raise
        except Exception as error:
            response = error_response(as_answer(error), scope["method"])
            let_go(error)
            return response

    async def _operate(self, scope: Connection, receive: Receive, now_us: int, place: Place | None) -> Response:
        request = parse(scope, receive, self.accounts, now_us)
        request = replace(request, may_publish=self.public, fetches=self.fetches, place=place).for_blobs()
        if request.method == "OPTIONS":
            return await cors.preflight(self.store.properties, request)
        if request.service == "web":
            return await website.answer(self.store, request)
        if not request.is_about_paths:
            return await self._carry_out(request, scope, now_us)
        try:
            return await self._carry_out(request, scope, now_us)
        except BlobError as error:
            return paths.refusal(error, request)

    async def _carry_out(self, request: Request, scope: Connection, now_us: int) -> Response:
        grant = await self._authenticated(request)
        operation = _operation(request)
        grant.require(Need(operation.level, operation.letters, operation.by_service_sas))
        request = request.without_empty()
        _refuse_unserved(request, operation)
        if request.method == "PUT" and (reason := self.room(_content_length(request))) is not None:
            raise busy(reason)
        if operation.comp == COMP:
            return await together.run(self.store, request, scope, lambda part, content, place: self.answer(part, content, now_us, place))
        if operation.handler is None:
            return await batch.run(request, scope, lambda part: self.answer(part, _no_body, now_us))
        if operation.handler in _TAKING and structured.is_wanted(request):
            response = await operation.handler(self.store, structured.unpacked(request), grant)
            response.headers[structured.BODY] = structured.FORM
            return response
        return await operation.handler(self.store, request, grant)

    async def _authenticated(self, request: Request) -> Grant:
        def policies(ref: ContainerRef) -> Mapping[str, AccessPolicy]:
            return self.store.container(ref).policies

        # Only a stored access policy and an open container need the disk; everything else is decided on the spot.
        if "si" in request.query:
            return await run_in_threadpool(authenticate, request, self.accounts, policies)
        if self.public and request.is_unsigned_reading and request.account in self.accounts:
            return await run_in_threadpool(_as_reader, self.store, request)
        return authenticate(request, self.accounts, policies)


def _as_reader(store: BlobStore, request: Request) -> Grant:
    """What who did not sign may do: nothing, told in the same words, but in a container that is open."""
    try:
        access = store.container(request.container_ref).access if request.container is not None else None
    except BlobError:
        access = None
    if access is None:
        raise unsigned()
    return Grant(Scope.PUBLIC, "rl" if access == "container" else "r")


def turned_away(
    accounts: Mapping[str, Sequence[str]], scope: Connection, receive: Receive, now: datetime, *, public: bool = False
) -> Response | None:
    """The answer to whom no key of these accounts lets in, told without a store; None for others, and where only the store can tell."""

    def unknown(ref: ContainerRef) -> Mapping[str, AccessPolicy]:
        raise _NeedsStore

    if scope["method"] == "OPTIONS":  # a browser signs none; which pages may ask stands in the store
        return None
    try:
        request = parse(scope, receive, accounts, times.micros(now)).for_blobs()
        if public and (request.service == "web" or request.is_unsigned_reading):
            return None
        authenticate(request, accounts, unknown)
    except _NeedsStore:
        return None
    except BlobError as error:
        return error_response(error, scope["method"])
    return None


class _NeedsStore(Exception):
    """A stored access policy decides."""


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _content_length(request: Request) -> int:
    """Bytes that a request brings; what is no such number, or too many for any operation, its operation refuses better."""
    text = request.headers.get("content-length", "")
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
    return size if size <= uploads.MOST_BLOB_BYTES else 0


def _operation(request: Request) -> Operation:
    """The row of the request; raises for what is not served."""
    level = Level.SERVICE if request.container is None else Level.CONTAINER if request.blob is None else Level.OBJECT
    if request.is_about_paths:
        word = "rename" if "x-ms-rename-source" in request.headers else request.query.get("resource") or request.query.get("action", "")
        found = _PATHS.get((request.method, Level.CONTAINER if request.blob == "/" else level, word.lower()))
        if found is None:
            raise BlobError("UnsupportedQueryParameter")
        return found
    restype, comp = request.query.get("restype", "").lower(), request.query.get("comp", "").lower()
    operation = _TABLE.get((request.method, level, restype, comp))
    if operation is None:
        known = any(key[1:] == (level, restype, comp) for key in _TABLE)
        raise BlobError("UnsupportedHttpVerb" if known else "UnsupportedQueryParameter")
    return operation


def _refuse_unserved(request: Request, operation: Operation) -> None:
    if not _REFUSED_PARAMETERS.isdisjoint(request.query) or (
        not {"snapshot", "versionid"}.isdisjoint(request.query) and operation.handler not in _OF_SNAPSHOTS
    ):
        raise BlobError("UnsupportedQueryParameter")
    if "prevsnapshot" in request.query and operation.handler is not pages.get_ranges:
        raise BlobError("UnsupportedQueryParameter")
    is_packed = any(name in request.headers for name in (structured.BODY, structured.LENGTH))
    if is_packed and (operation.handler not in {*_TAKING, blobs.get} or "x-ms-copy-source" in request.headers):
        raise BlobError("UnsupportedHeader")
    if any(name.startswith(_REFUSED_HEADERS) for name in request.headers):
        raise BlobError("UnsupportedHeader")
