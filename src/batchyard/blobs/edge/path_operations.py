"""The dfs operations on files and directories, at the addresses of blobs: `resource`, `action`, `recursive` and renames tell them apart.

Source: https://learn.microsoft.com/rest/api/storageservices/data-lake-storage-gen2. There are no owners, modes and access control lists.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import DIRECTORY, Blob, BlobDraft, BlobError, BlobStore, Conditions, ListQuery
from batchyard.blobs.edge import documents, transfers
from batchyard.blobs.edge.blob_operations import content_headers, describe, tag_headers
from batchyard.blobs.edge.container_operations import page_size
from batchyard.blobs.edge.copy_operations import may_read
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request, query_of
from batchyard.blobs.errors import CATALOGUE
from batchyard.model import times

MOST_APPEND_BYTES = 4000 << 20
_AT_ONCE = 500
_SEAM = "\0"
_PROPERTIES = "x-ms-properties"
_RIGHTS = ("x-ms-permissions", "x-ms-umask", "x-ms-acl", "x-ms-owner", "x-ms-group")
_CODES = {"BlobNotFound": "PathNotFound", "ContainerNotFound": "FilesystemNotFound", "BlobAlreadyExists": "PathAlreadyExists"}


async def create(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Create: a file without content, or a directory."""
    _refuse_rights(request)
    headers = content_headers(request, {name: request.headers.get(f"x-ms-{name}") for name in _HEADERS})
    directory = request.query.get("resource", "").lower() == "directory"
    metadata = {**_properties(request), **({DIRECTORY: "true"} if directory else {})}
    draft, conditions = BlobDraft(headers=headers, metadata=metadata), request.conditions(may_overwrite=grant.allows("w"))
    ref = request.path_ref
    if directory:
        blob = await run_in_threadpool(store.make_directory, ref, draft, conditions, request.now_us)
        return Response(status_code=201, headers=_tags(blob))

    def make() -> Blob:
        there = _found(store, request)
        if there is not None and (not isinstance(there, Blob) or there.is_directory):
            raise BlobError("PathAlreadyExists")
        return store.put(ref, draft, conditions).commit(request.now_us)

    return Response(status_code=201, headers=_tags(await run_in_threadpool(make)))


_HEADERS = ("content-type", "content-encoding", "content-language", "cache-control", "content-disposition")


def _found(store: BlobStore, request: Request) -> Blob | str | None:
    """What is at the path: a blob, `directory` for one that only other names begin with, or nothing."""
    try:
        return store.path(request.path_ref) or "directory"
    except BlobError as error:
        if error.code == "BlobNotFound":
            return None
        raise


async def rename(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Create with a source: the file or directory gets this name."""
    path, _, query = request.headers["x-ms-rename-source"].partition("?")
    account, container, name = request.names_in(f"/{path.lstrip('/')}" if request.by_host else f"/{request.account}/{path.lstrip('/')}")
    if container is None or name is None:
        raise BlobError("InvalidSourceUri")
    source = replace(request, container=container, blob=name, query=query_of(query), account=account)
    await run_in_threadpool(may_read, store, request, grant, source, "d")
    taken = replace(source.conditions(source=True), lease_id=request.lease_id("x-ms-source-lease-id"))
    given = (taken, request.conditions(may_overwrite=grant.allows("w")))
    blob = await run_in_threadpool(store.rename, source.path_ref, request.path_ref, given, request.now_us)
    return Response(status_code=201, headers={} if blob is None else _tags(blob))


async def append(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Update, append: content that waits for a flush."""
    position, length = _number(request, "position"), request.body_length(MOST_APPEND_BYTES)
    conditions = Conditions(lease_id=request.lease_id("x-ms-lease-id"), now_us=request.now_us)
    if _is_directory(await run_in_threadpool(store.path, request.path_ref)):
        raise BlobError("InvalidBlobType")
    if length:
        upload = await run_in_threadpool(store.stage, request.path_ref, _block(position), conditions)
        await transfers.take_in(request, upload, length, "content-md5")
    if request.query.get("flush", "").lower() == "true":
        blob = await run_in_threadpool(_flushed, store, request, position + length)
        return Response(status_code=202, headers=_tags(blob))
    return Response(status_code=202, headers={"x-ms-request-server-encrypted": "false"})


async def flush(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Update, flush: what was appended becomes content, up to `position`."""
    if request.body_length(0):
        raise BlobError("InvalidInput")
    blob = await run_in_threadpool(_flushed, store, request, _number(request, "position"))
    return Response(headers={**_tags(blob), "content-length": "0"})


def _flushed(store: BlobStore, request: Request, end: int) -> Blob:
    blob, _, waiting = store.blocks(request.path_ref)
    if blob is None:
        raise BlobError("BlobNotFound")
    sizes, at, blocks = {block.id: block.length for block in waiting}, blob.length, list[str]()
    while at < end and (size := sizes.get(_block(at))) is not None:
        blocks.append(_block(at))
        at += size
    headers = content_headers(request, {name: request.headers.get(f"x-ms-{name}") for name in _HEADERS})
    changed = store.flush(request.path_ref, blocks, end, request.conditions(), request.now_us)
    if headers == type(headers)():
        return changed
    held = Conditions(now_us=request.now_us, lease_id=request.lease_id("x-ms-lease-id"))
    return store.set_headers(request.path_ref, headers, held, request.now_us)


async def set_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Update, set properties: metadata, as base64."""
    changed = await run_in_threadpool(store.set_metadata, request.path_ref, _properties(request), request.conditions(), request.now_us)
    return Response(headers=_tags(changed))


async def delete(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Delete: a file, or a directory with all below it, a part at a time; who is cut off may ask again."""
    recursive = request.query.get("recursive", "").lower() == "true"
    conditions = request.conditions()
    while await run_in_threadpool(_delete_some, store, request, conditions, recursive):
        conditions = Conditions(now_us=request.now_us, lease_id=conditions.lease_id)
    return Response()


def _delete_some(store: BlobStore, request: Request, conditions: Conditions, recursive: bool) -> bool:
    return store.delete_tree(request.path_ref, conditions, _AT_ONCE, recursive=recursive)


async def get_status(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path Get Properties: HEAD at the service's own host, or with `action`."""
    if request.query.get("action", "").lower() == "getaccesscontrol":
        return await _get_access(store, request)
    blob = await run_in_threadpool(store.path, request.path_ref)
    kind = {"x-ms-resource-type": "directory" if _is_directory(blob) else "file"}
    if blob is None:
        return Response(headers=kind)
    pairs = ",".join(f"{name}={base64.b64encode(value.encode()).decode()}" for name, value in blob.metadata.items() if name != DIRECTORY)
    headers = {**describe(blob, grant, request.now_us), **kind, "content-length": str(blob.length)}
    return transfers.with_metadata(Response(headers={**headers, **({_PROPERTIES: pairs} if pairs else {})}), blob.metadata)


async def _get_access(store: BlobStore, request: Request) -> Response:
    """Get Access Control: everything is the account's; an account without a hierarchy has none, which clients ask for this way."""
    found = await run_in_threadpool(store.properties, request.account)
    if request.blob is not None and request.blob.strip("/"):
        blob = await run_in_threadpool(store.path, request.path_ref)
        headers = {} if blob is None else tag_headers(blob)
    else:
        await run_in_threadpool(store.container, request.container_ref)
        headers = {}
    if not found.hierarchical:
        raise BlobError("HierarchicalNamespaceNotEnabled")
    everybody = {"x-ms-owner": "$superuser", "x-ms-group": "$superuser", "x-ms-permissions": "rwxr-x---"}
    return Response(headers={**headers, **everybody, "x-ms-acl": "user::rwx,group::r-x,other::---"})


async def list_paths(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Path List."""
    directory = request.query.get("directory", "").strip("/")
    recursive = request.query.get("recursive", "").lower() == "true"
    token = request.query.get("continuation", "")
    last, _, start = documents.from_marker(token).partition(_SEAM) if token else ("", "", "")
    query = ListQuery(f"{directory}/" if directory else "", "" if recursive else "/", start, page_size(request))
    found, following = await run_in_threadpool(_listed, store, request, query, last, directory)
    headers = {} if following is None else {"x-ms-continuation": documents.to_marker(following)}
    return Response(msgspec.json.encode({"paths": found}), headers=headers, media_type="application/json")


def _listed(store: BlobStore, request: Request, query: ListQuery, last: str, directory: str) -> tuple[list[Mapping[str, str]], str | None]:
    ref = request.container_ref
    page = store.list_blobs(ref, query)
    if directory and not query.start and not page.entries:
        there = store.path(replace(request, blob=directory).path_ref)
        if not _is_directory(there):
            raise BlobError("BlobNotFound")
    found: list[Mapping[str, str]] = []
    for entry in page.entries:
        name = entry.rstrip("/") if isinstance(entry, str) else entry.name
        for above in _new_directories(name, last, directory, is_prefix=isinstance(entry, str)):
            if not _is_marked(store, request, above):
                found.append({"name": above, "isDirectory": "true", "contentLength": "0"})
        if isinstance(entry, Blob):
            found.append(_entry(entry))
        last = name
    return found, None if page.next is None else f"{last}{_SEAM}{page.next}"


def _new_directories(name: str, last: str, directory: str, *, is_prefix: bool) -> Iterator[str]:
    """Directories above a name that were not above the name before it."""
    parts = name.split("/") if is_prefix else name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        above = "/".join(parts[:count])
        if len(above) > len(directory) and not last.startswith(f"{above}/"):
            yield above


def _is_marked(store: BlobStore, request: Request, name: str) -> bool:
    """Whether a directory has a blob of its own, which is listed where it stands."""
    try:
        return store.path(replace(request, blob=name).path_ref) is not None
    except BlobError:
        return False


def _entry(blob: Blob) -> dict[str, str]:
    said = {"name": blob.name, "contentLength": str(blob.length), "eTag": blob.etag, "lastModified": times.http_date(blob.modified_us)}
    said |= {"owner": "$superuser", "group": "$superuser", "permissions": "rwxr-x---" if blob.is_directory else "rw-r-----"}
    return said | ({"isDirectory": "true"} if blob.is_directory else {})


def _is_directory(blob: Blob | None) -> bool:
    return blob is None or blob.is_directory


def _tags(blob: Blob) -> dict[str, str]:
    return {**tag_headers(blob), "x-ms-request-server-encrypted": "false"}


def _block(position: int) -> str:
    return base64.b64encode(f"dfs-{position:020d}".encode()).decode()


def _number(request: Request, name: str) -> int:
    text = request.query.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BlobError("MissingRequiredQueryParameter" if not text else "InvalidQueryParameterValue", f"{name} is a number of bytes.")
    return int(text)


def _properties(request: Request) -> dict[str, str]:
    """Metadata of `x-ms-properties`: names with values in base64, or as plain metadata headers."""
    found = request.metadata()
    for part in filter(None, request.headers.get(_PROPERTIES, "").split(",")):
        name, _, value = part.strip().partition("=")
        try:
            found[name] = base64.b64decode(value, validate=True).decode("latin-1")
        except (binascii.Error, ValueError):
            raise BlobError("InvalidHeaderValue", f"A value of {_PROPERTIES} is not base64.") from None
    given = {f"x-ms-meta-{name}".lower(): value for name, value in found.items()}
    return replace(request, headers=given, metadata_names={name.lower(): name for name in (f"x-ms-meta-{key}" for key in found)}).metadata()


def _refuse_rights(request: Request) -> None:
    if any(name in request.headers for name in _RIGHTS):
        raise BlobError("UnsupportedHeader", "There are no owners, modes and access control lists of paths here.")


def refusal(error: BlobError, request: Request) -> Response:
    """A failed request as clients of this service read it."""
    code = _CODES.get(error.code, error.code)
    message = CATALOGUE[code][1] if code != error.code else error.message
    headers = {"x-ms-error-code": code, **error.headers}
    if request.method == "HEAD" or error.status == 304:
        return Response(status_code=error.status, headers=headers)
    body = msgspec.json.encode({"error": {"code": code, "message": message}})
    return Response(body, error.status, headers, media_type="application/json")
