"""Operations on blobs that exist: read, describe, change what is said of them, delete."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs import leases
from batchyard.blobs.base import Blob, BlobError, BlobKind, BlobReader, BlobStore, ContentHeaders, Copied
from batchyard.blobs.conditions import Version, check_read
from batchyard.blobs.edge import documents, structured, sums, transfers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.model import times

_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_MOST_MD5_BYTES = 4 * 1024 * 1024


async def get(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Blob, whole or a range."""
    wanted, packed = _range(request), structured.is_wanted(request)
    summing = _wanted_sum(request, wanted)
    if packed and summing is not None:
        raise BlobError("InvalidHeaderValue", f"{structured.BODY} goes without another sum.")
    begin, end = wanted or (0, None)
    opened = partial(store.read, request.blob_ref, request.conditions(), begin, end)
    at_once = not packed and summing is None
    # asyncio's way takes a third of starlette's.
    reader, content = await asyncio.to_thread(_opened, opened, transfers.SMALL_BYTES if at_once else 0)
    try:
        _check_time(reader.blob, request)
        if wanted is not None and not reader.blob.length:
            raise BlobError("InvalidRange", headers={"content-range": "bytes */0"})
        headers = {**describe(reader.blob, grant, request.now_us), "content-length": str(reader.length)}
        if wanted is not None:
            headers["content-range"] = f"bytes {begin}-{begin + reader.length - 1}/{reader.blob.length}"
            _move_md5(headers)
        if summing is not None and wanted is not None:
            return transfers.with_metadata(await run_in_threadpool(_summed, reader, headers, summing), reader.blob.metadata)
        status = 200 if wanted is None else 206
        if content is not None:
            return transfers.with_metadata(Response(content, status, headers), reader.blob.metadata)
        if packed:
            reader = structured.PackedReader(reader)
            headers |= reader.headers
        return transfers.with_metadata(transfers.BlobResponse(reader, status, headers), reader.blob.metadata)
    except BaseException:
        reader.close()
        raise


def _opened(opened: Callable[[], BlobReader], most: int) -> tuple[BlobReader, bytes | None]:
    """A reader, and its content where that has up to `most` bytes: what is small is read in the same turn."""
    reader = opened()
    if reader.length > most or not most:
        return reader, None
    try:
        return reader, b"".join(iter(partial(reader.read, most), b""))
    finally:
        reader.close()


async def head(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Blob Properties and Get Blob Metadata."""
    blob: Blob = await run_in_threadpool(store.blob, request.blob_ref)
    _check_time(blob, request)
    check_read(request.conditions(), Version(blob.etag, blob.modified_us, blob.extras.lease, blob.extras.tags))
    headers = describe(blob, grant, request.now_us)
    if request.method == "HEAD" and request.query.get("comp") != "metadata":
        headers["content-length"] = str(blob.length)
    return transfers.with_metadata(Response(headers=headers), blob.metadata)


def _check_time(blob: Blob, request: Request) -> None:
    if blob.extras.expires_us is not None and request.now_us >= blob.extras.expires_us:
        raise BlobError("BlobNotFound")


async def set_metadata(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Metadata."""
    blob = await run_in_threadpool(store.set_metadata, request.blob_ref, request.metadata(), request.conditions(), request.now_us)
    return Response(headers={**tag_headers(blob), "x-ms-request-server-encrypted": "false"})


async def set_headers(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Properties: the content headers."""
    blob = await run_in_threadpool(store.set_headers, request.blob_ref, content_headers(request), request.conditions(), request.now_us)
    return Response(headers=tag_headers(blob))


async def delete(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Delete Blob, with its snapshots, without them, or one of them, or an earlier version."""
    which = request.headers.get("x-ms-delete-snapshots")
    if which is not None and which.lower() not in ("include", "only"):
        raise BlobError("InvalidHeaderValue", "x-ms-delete-snapshots is include or only.")
    ref = request.blob_ref
    if which is not None and (ref.snapshot or ref.version) is not None:
        raise BlobError("InvalidQueryParameterValue", "x-ms-delete-snapshots is for a blob, not for a snapshot.")
    if ref.version is not None and not grant.allows("x"):
        raise BlobError("AuthorizationPermissionMismatch")
    for_good = await run_in_threadpool(store.delete_blob, ref, request.conditions(), None if which is None else which.lower())
    return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true" if for_good else "false"})


async def undelete(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Undelete Blob: the blob, its snapshots and its versions, as far as they are kept."""
    await run_in_threadpool(store.undelete_blob, request.blob_ref)
    return Response()


async def get_block_list(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Block List."""
    which = request.query.get("blocklisttype", "committed").lower()
    if which not in ("committed", "uncommitted", "all"):
        raise BlobError("InvalidQueryParameterValue")
    blob, committed, waiting = await run_in_threadpool(store.blocks, request.blob_ref)
    text = documents.block_list(committed if which != "uncommitted" else None, waiting if which != "committed" else None)
    headers = {} if blob is None else {**tag_headers(blob), "x-ms-blob-content-length": str(blob.length)}
    return Response(text, headers=headers, media_type="application/xml")


def tag_headers(blob: Blob) -> dict[str, str]:
    """ETag and Last-Modified, and the version where versions are kept."""
    said = {"etag": f'"{blob.etag}"', "last-modified": times.http_date(blob.modified_us)}
    return said if blob.version is None else {**said, "x-ms-version-id": blob.version}


def describe(blob: Blob, grant: Grant, now_us: int) -> dict[str, str]:
    """Headers of a blob but its metadata, with those that the caller's SAS dictates."""
    kept = blob.headers
    said = {
        "content-type": kept.content_type or "application/octet-stream",
        "content-encoding": kept.content_encoding,
        "content-language": kept.content_language,
        "cache-control": kept.cache_control,
        "content-disposition": kept.content_disposition,
        "content-md5": kept.md5,
    }
    state = {
        "accept-ranges": "bytes",
        "x-ms-blob-type": blob.kind.value,
        "x-ms-creation-time": times.http_date(blob.created_us),
        "x-ms-server-encrypted": "false",
    }
    if blob.is_current:
        state |= leases.headers(blob.extras.lease, now_us)
    if blob.kind is BlobKind.PAGE:
        state["x-ms-blob-sequence-number"] = str(blob.extras.sequence)
    if blob.kind is BlobKind.APPEND:
        state["x-ms-blob-committed-block-count"] = str(blob.block_count)
    return {**tag_headers(blob), **{n: v for n, v in said.items() if v is not None}, **state, **_extras(blob), **grant.overrides}


def _extras(blob: Blob) -> dict[str, str]:
    extras, said = blob.extras, {}
    if blob.kind is BlobKind.BLOCK:
        said["x-ms-access-tier"] = extras.tier or "Hot"
        if extras.tier is None:
            said["x-ms-access-tier-inferred"] = "true"
        if extras.tier_changed_us is not None:
            said["x-ms-access-tier-change-time"] = times.http_date(extras.tier_changed_us)
    if extras.tags:
        said["x-ms-tag-count"] = str(len(extras.tags))
    if blob.version is not None and blob.is_current:
        said["x-ms-is-current-version"] = "true"
    if extras.expires_us is not None:
        said["x-ms-expiry-time"] = times.http_date(extras.expires_us)
    if extras.sealed:
        said["x-ms-blob-sealed"] = "true"
    return said | (copied_headers(extras.copied) if extras.copied is not None else {})


def copied_headers(copied: Copied) -> dict[str, str]:
    """What a blob says of the copy that made it."""
    said = {
        "x-ms-copy-id": copied.id,
        "x-ms-copy-source": copied.source,
        "x-ms-copy-status": copied.status,
        "x-ms-copy-progress": copied.progress,
    }
    if copied.description is not None:
        said["x-ms-copy-status-description"] = copied.description
    if copied.completed_us is not None:
        said["x-ms-copy-completion-time"] = times.http_date(copied.completed_us)
    return said


def content_headers(request: Request, fallback: Mapping[str, str | None] | None = None) -> ContentHeaders:
    """Content headers of a request: `x-ms-blob-*`, else the fallback (the plain headers, where the operation reads those)."""
    plain = fallback or {}

    def said(name: str) -> str | None:
        return request.headers.get(f"x-ms-blob-{name}") or plain.get(name)

    request.md5_header("x-ms-blob-content-md5")
    return ContentHeaders(
        said("content-type"),
        said("content-encoding"),
        said("content-language"),
        said("cache-control"),
        said("content-disposition"),
        said("content-md5"),
    )


def _range(request: Request) -> tuple[int, int | None] | None:
    """First byte and the one after the last; `x-ms-range` wins. A form that the service does not know counts as no range."""
    text = request.headers.get("x-ms-range") or request.headers.get("range")
    match = _RANGE.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    begin, last = int(match[1]), match[2]
    if last is not None and int(last) < begin:
        return None
    return begin, None if last is None else int(last) + 1


def _move_md5(headers: dict[str, str]) -> None:
    """In an answer with a range, `Content-MD5` would be the sum of the range; that of the blob has its own header."""
    whole = headers.pop("content-md5", None)
    if whole is not None:
        headers["x-ms-blob-content-md5"] = whole


def _wanted_sum(request: Request, wanted: tuple[int, int | None] | None) -> str | None:
    """The header that the sum of a range is wanted in; raises InvalidHeaderValue for both, and for a CRC64 of no range."""
    md5, crc = (request.headers.get(f"x-ms-range-get-content-{kind}", "").lower() == "true" for kind in ("md5", "crc64"))
    if crc and (md5 or wanted is None):
        raise BlobError("InvalidHeaderValue", "x-ms-range-get-content-crc64 goes with a range and without an MD5.")
    return sums.CONTENT if crc else "content-md5" if md5 else None


def _summed(reader: BlobReader, headers: dict[str, str], name: str) -> Response:
    """A range with its MD5 or CRC64."""
    try:
        if reader.length > _MOST_MD5_BYTES:
            raise BlobError("OutOfRangeInput")
        content = b"".join(iter(lambda: reader.read(_MOST_MD5_BYTES), b""))
    finally:
        reader.close()
    md5 = transfers.md5_text(hashlib.md5(content, usedforsecurity=False).digest())
    headers[name] = sums.of(content).text() if name == sums.CONTENT else md5
    return Response(content, 206, headers)
