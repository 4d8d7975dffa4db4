"""Operations on the account and on containers: decode, call the store, encode."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import BlobError, BlobStore, Container, ListQuery
from batchyard.blobs.edge import documents, transfers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.model import times

_MOST_RESULTS = 5000
_MOST_XML_BYTES = 64 * 1024
# What can be asked for and does not exist here (there are no snapshots) needs no answer; what exists and is not served is refused.
_INCLUDES = {"metadata", "snapshots", "deleted", "versions", "copy", "tags", "system", "deletedwithversions", "permissions", ""}
_XML = "application/xml"


async def list_containers(store: BlobStore, request: Request, grant: Grant) -> Response:
    """List Containers."""
    query, marker, include = _list_query(request)
    page = await run_in_threadpool(store.list_containers, request.account, query)
    return Response(
        documents.container_list(_endpoint(request), query, marker, page, metadata="metadata" in include),
        media_type=_XML,
    )


async def service_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Blob Service Properties."""
    return Response(documents.service_properties(), media_type=_XML)


async def account_information(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Account Information."""
    return Response(headers={"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2", "x-ms-is-hns-enabled": "false"})


async def create(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Create Container."""
    _refuse_public_access(request)
    container = await run_in_threadpool(store.create_container, request.container_ref, request.metadata(), request.now_us)
    return Response(status_code=201, headers=_tag_headers(container))


async def properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Container Properties and Get Container Metadata."""
    container = await run_in_threadpool(store.container, request.container_ref)
    metadata = {f"x-ms-meta-{name}": value for name, value in container.metadata.items()}
    state = {
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }
    return Response(headers={**_tag_headers(container), **metadata, **state})


async def set_metadata(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Container Metadata."""
    container = await run_in_threadpool(
        store.set_container_metadata, request.container_ref, request.metadata(), request.conditions(), request.now_us
    )
    return Response(headers=_tag_headers(container))


async def get_acl(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Container ACL: stored access policies; public access there is none."""
    container = await run_in_threadpool(store.container, request.container_ref)
    return Response(documents.policy_list(container.policies), headers=_tag_headers(container), media_type=_XML)


async def set_acl(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Container ACL: replaces the stored access policies."""
    _refuse_public_access(request)
    text = await transfers.body(request, _MOST_XML_BYTES)
    policies = documents.parse_policies(text) if text else {}
    container = await run_in_threadpool(store.set_policies, request.container_ref, policies, request.conditions(), request.now_us)
    return Response(headers=_tag_headers(container))


async def delete(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Delete Container."""
    await run_in_threadpool(store.delete_container, request.container_ref, request.conditions())
    return Response(status_code=202)


async def list_blobs(store: BlobStore, request: Request, grant: Grant) -> Response:
    """List Blobs, flat or by hierarchy."""
    query, marker, include = _list_query(request)
    ref = request.container_ref
    page = await run_in_threadpool(store.list_blobs, ref, query)
    text = await run_in_threadpool(
        documents.blob_list, _endpoint(request), ref.container, query, marker, page, metadata="metadata" in include
    )
    return Response(text, media_type=_XML)


def _list_query(request: Request) -> tuple[ListQuery, str, set[str]]:
    """What to list, the marker as sent, and what to include."""
    given = request.query
    if "startfrom" in given or "showonly" in given:
        raise BlobError("UnsupportedQueryParameter")
    include = {part.strip().lower() for part in given.get("include", "").split(",")}
    if "uncommittedblobs" in include:
        raise BlobError("UnsupportedQueryParameter")
    if not include <= _INCLUDES:
        raise BlobError("InvalidQueryParameterValue")
    text = given.get("maxresults") or str(_MOST_RESULTS)
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise BlobError("InvalidQueryParameterValue")
    if int(text) == 0:
        raise BlobError("OutOfRangeQueryParameterValue")
    marker = given.get("marker", "")
    start = documents.from_marker(marker) if marker else ""
    query = ListQuery(given.get("prefix", ""), given.get("delimiter", ""), start, min(int(text), _MOST_RESULTS))
    return query, marker, include


def _refuse_public_access(request: Request) -> None:
    if "x-ms-blob-public-access" in request.headers:
        raise BlobError("PublicAccessNotPermitted")


def _endpoint(request: Request) -> str:
    return f"{request.scheme}://{request.headers.get('host', '')}/{request.account}"


def _tag_headers(container: Container) -> Mapping[str, str]:
    return {"etag": f'"{container.etag}"', "last-modified": times.http_date(container.modified_us)}
