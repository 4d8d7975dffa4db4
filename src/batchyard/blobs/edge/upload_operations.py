"""Operations that bring content in: Put Blob, Put Block, Put Block List, Append Block."""

from __future__ import annotations

import hashlib
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import Blob, BlobDraft, BlobError, BlobKind, BlobStore, Conditions, Extras
from batchyard.blobs.edge import copy_operations, documents, page_operations, sums, transfers
from batchyard.blobs.edge.blob_operations import content_headers, tag_headers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.mark_operations import checked_tier, wanted_tags
from batchyard.blobs.edge.request import Request
from batchyard.model.together import HEADER, MOST

_MIB = 1024 * 1024
MOST_BLOB_BYTES = 5000 * _MIB
MOST_BLOCK_BYTES = 4000 * _MIB
MOST_APPEND_BYTES = 100 * _MIB
MOST_BLOCK_LIST_BYTES = 8 * _MIB

_PLAIN = ("content-type", "content-encoding", "content-language", "cache-control")


async def put(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Blob (block or append blob), or Copy Blob or Put Blob From URL when there is a copy source."""
    if "x-ms-copy-source" in request.headers:
        return await copy_operations.copy(store, request, grant)
    kind = _kind(request)
    if kind is BlobKind.PAGE:
        return await page_operations.create(store, request, grant)
    length = request.body_length(MOST_BLOB_BYTES)
    if kind is BlobKind.APPEND and length:
        raise BlobError("InvalidHeaderValue", "An append blob is created empty.")
    headers = content_headers(request, {name: request.headers.get(name) for name in _PLAIN})
    draft = BlobDraft(kind, headers, request.metadata(), _extras(request, grant, kind))
    begin = partial(store.put, request.blob_ref, draft, _conditions(request, grant))
    upload, blob = await transfers.put(request, begin, length, "content-md5", "x-ms-blob-content-md5")
    response = _created(request, blob, transfers.md5_text(upload.md5()) if kind is BlobKind.BLOCK else None)
    response.headers[HEADER] = str(MOST)
    return response


async def put_block(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Block, or Put Block From URL when there is a copy source."""
    if "x-ms-copy-source" in request.headers:
        return await copy_operations.put_block_from_url(store, request, grant)
    block_id = documents.checked_block_id(_parameter(request, "blockid"))
    length = request.body_length(MOST_BLOCK_BYTES)
    if not length:
        raise BlobError("InvalidHeaderValue", "A block may not be empty.")
    conditions = Conditions(lease_id=request.lease_id("x-ms-lease-id"), now_us=request.now_us)
    upload = await run_in_threadpool(store.stage, request.blob_ref, block_id, conditions)
    await transfers.take_in(request, upload, length, "content-md5")
    return Response(
        status_code=201,
        headers={**transfers.sum_headers(request, transfers.md5_text(upload.md5())), "x-ms-request-server-encrypted": "false"},
    )


async def put_block_list(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Block List."""
    text = await transfers.body(request, MOST_BLOCK_LIST_BYTES)
    transfers.check_md5(request, hashlib.md5(text, usedforsecurity=False).digest(), "content-md5")
    sums.check(sums.wanted(request), sums.of(text))
    blocks = await run_in_threadpool(documents.parse_block_list, text)
    draft = BlobDraft(BlobKind.BLOCK, content_headers(request), request.metadata(), _extras(request, grant, BlobKind.BLOCK))
    blob = await run_in_threadpool(store.commit_blocks, request.blob_ref, blocks, draft, _conditions(request, grant), request.now_us)
    return _created(request, blob, None)


async def append_block(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Append Block, or Append Block From URL when there is a copy source."""
    if "x-ms-copy-source" in request.headers:
        return await copy_operations.append_block_from_url(store, request, grant)
    length = request.body_length(MOST_APPEND_BYTES)
    if not length:
        raise BlobError("InvalidHeaderValue", "A block may not be empty.")
    position = request.number_header("x-ms-blob-condition-appendpos")
    max_size = request.number_header("x-ms-blob-condition-maxsize")
    upload = await run_in_threadpool(store.append, request.blob_ref, request.conditions(), position, max_size)
    blob, offset = await transfers.take_in(request, upload, length, "content-md5")
    response = _created(request, blob, transfers.md5_text(upload.md5()))
    response.headers["x-ms-blob-append-offset"] = str(offset)
    response.headers["x-ms-blob-committed-block-count"] = str(blob.block_count)
    return response


def _conditions(request: Request, grant: Grant) -> Conditions:
    """Conditions; who holds only the permission to create may not overwrite."""
    return request.conditions(may_overwrite=grant.allows("w"))


def _extras(request: Request, grant: Grant, kind: BlobKind) -> Extras:
    tier = request.headers.get("x-ms-access-tier")
    if tier is not None and kind is not BlobKind.BLOCK:
        raise BlobError("InvalidHeaderValue", "Only block blobs have a tier.")
    found = wanted_tags(request, grant)
    return Extras(tags=found, tier=checked_tier(tier) if tier is not None else None, tier_changed_us=request.now_us if tier else None)


def _kind(request: Request) -> BlobKind:
    text = request.headers.get("x-ms-blob-type")
    if text is None:
        raise BlobError("MissingRequiredHeader", "x-ms-blob-type is not specified.")
    try:
        return BlobKind(text)
    except ValueError:
        raise BlobError("InvalidHeaderValue") from None


def _parameter(request: Request, name: str) -> str:
    try:
        return request.query[name]
    except KeyError:
        raise BlobError("MissingRequiredQueryParameter") from None


def _created(request: Request, blob: Blob, md5: str | None) -> Response:
    headers = {**tag_headers(blob), **transfers.sum_headers(request, md5), "x-ms-request-server-encrypted": "false"}
    return Response(status_code=201, headers=headers)
