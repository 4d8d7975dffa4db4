"""Operations on the account and on containers: decode, call the store, encode."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import BlobError, BlobStore, Container, ListQuery
from batchyard.blobs.edge import documents, transfers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.blobs.leases import check_named
from batchyard.blobs.leases import headers as lease_headers
from batchyard.model import times

_MOST_RESULTS = 5000
_MOST_XML_BYTES = 64 * 1024
# What can be asked for and does not exist here needs no answer.
_INCLUDES = {
    "metadata",
    "snapshots",
    "uncommittedblobs",
    "deleted",
    "versions",
    "copy",
    "tags",
    "system",
    "deletedwithversions",
    "permissions",
    "",
}
_XML = "application/xml"
_ACCESS = "x-ms-blob-public-access"


async def list_containers(store: BlobStore, request: Request, grant: Grant) -> Response:
    """List Containers."""
    query, marker, include = _list_query(request)
    page = await run_in_threadpool(store.list_containers, request.account, query)
    return Response(
        documents.container_list(request.endpoint, query, marker, page, request.now_us, metadata="metadata" in include),
        media_type=_XML,
    )


async def account_information(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Account Information."""
    found = await run_in_threadpool(store.properties, request.account)
    kind = {"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2"}
    return Response(headers={**kind, "x-ms-is-hns-enabled": "true" if found.hierarchical else "false"})


async def create(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Create Container."""
    access = _wanted_access(request)
    container = await run_in_threadpool(store.create_container, request.container_ref, request.metadata(), request.now_us, access)
    return Response(status_code=201, headers=_tag_headers(container))


async def properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Container Properties and Get Container Metadata."""
    container = await _container(store, request)
    state = {
        **lease_headers(container.lease, request.now_us),
        **_access(container),
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }
    return transfers.with_metadata(Response(headers={**_tag_headers(container), **state}), container.metadata)


async def set_metadata(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Container Metadata."""
    container = await run_in_threadpool(
        store.set_container_metadata, request.container_ref, request.metadata(), request.conditions(), request.now_us
    )
    return Response(headers=_tag_headers(container))


async def get_acl(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Container ACL: stored access policies, and what readers without a key see."""
    container = await _container(store, request)
    headers = {**_tag_headers(container), **_access(container)}
    return Response(documents.policy_list(container.policies), headers=headers, media_type=_XML)


async def set_acl(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Container ACL: replaces the stored access policies and the level of public access, which is none where it is not said."""
    access = _wanted_access(request)
    text = await transfers.body(request, _MOST_XML_BYTES)
    policies = documents.parse_policies(text) if text else {}
    container = await run_in_threadpool(store.set_policies, request.container_ref, policies, request.conditions(), request.now_us, access)
    return Response(headers=_tag_headers(container))


async def delete(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Delete Container."""
    await run_in_threadpool(store.delete_container, request.container_ref, request.conditions())
    return Response(status_code=202)


async def restore(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Restore Container."""
    name, version = (request.headers.get(f"x-ms-deleted-container-{what}") for what in ("name", "version"))
    if name is None or version is None:
        raise BlobError("MissingRequiredHeader", "x-ms-deleted-container-name and x-ms-deleted-container-version are needed.")
    container = await run_in_threadpool(store.restore_container, request.container_ref, name, version)
    return Response(status_code=201, headers=_tag_headers(container))


async def list_blobs(store: BlobStore, request: Request, grant: Grant) -> Response:
    """List Blobs, flat or by hierarchy."""
    query, marker, include = _list_query(request)
    if "tags" in include and not grant.allows("t"):
        raise BlobError("AuthorizationPermissionMismatch")
    ref = request.container_ref
    page = await run_in_threadpool(store.list_blobs, ref, query)
    text = await run_in_threadpool(
        documents.blob_list, request.endpoint, ref.container, query, marker, page, request.now_us, frozenset(include)
    )
    return Response(text, media_type=_XML)


async def _container(store: BlobStore, request: Request) -> Container:
    """The container; raises unless the lease that the request names, if it does, is on it."""
    container: Container = await run_in_threadpool(store.container, request.container_ref)
    check_named(container.lease, request.lease_id("x-ms-lease-id"), request.now_us, "Container")
    return container


def _list_query(request: Request) -> tuple[ListQuery, str, set[str]]:
    """What to list, the marker as sent, and what to include."""
    given = request.query
    if "showonly" in given:
        raise BlobError("UnsupportedQueryParameter")
    include = {part.strip().lower() for part in given.get("include", "").split(",")}
    if not include <= _INCLUDES:
        raise BlobError("InvalidQueryParameterValue")
    delimiter, marker = given.get("delimiter", ""), given.get("marker", "")
    if delimiter and "snapshots" in include:
        raise BlobError("InvalidQueryParameterValue", "Snapshots are listed without a delimiter.")
    start = documents.from_marker(marker) if marker else given.get("startfrom", "")
    shown = (name in include for name in ("snapshots", "uncommittedblobs", "versions", "deleted", "deletedwithversions"))
    query = ListQuery(given.get("prefix", ""), delimiter, start, page_size(request), *shown)
    return query, marker, include


def page_size(request: Request) -> int:
    """How many entries a page may have; raises for what is no such number."""
    text = request.query.get("maxresults") or str(_MOST_RESULTS)
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise BlobError("InvalidQueryParameterValue")
    if int(text) == 0:
        raise BlobError("OutOfRangeQueryParameterValue")
    return min(int(text), _MOST_RESULTS)


def _wanted_access(request: Request) -> str | None:
    """The level of public access that is asked for. Raises PublicAccessNotPermitted, InvalidHeaderValue."""
    access = request.headers.get(_ACCESS)
    if access is None:
        return None
    if access not in ("blob", "container"):
        raise BlobError("InvalidHeaderValue", f"{_ACCESS} is blob or container.")
    if not request.may_publish:
        raise BlobError("PublicAccessNotPermitted")
    return access


def _access(container: Container) -> Mapping[str, str]:
    return {} if container.access is None else {_ACCESS: container.access}


def _tag_headers(container: Container) -> Mapping[str, str]:
    return {"etag": f'"{container.etag}"', "last-modified": times.http_date(container.modified_us)}
