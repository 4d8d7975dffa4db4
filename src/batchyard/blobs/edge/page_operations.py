"""Operations on page blobs: Put Page (write and clear, also from a URL), Get Page Ranges, and their part of Set Blob Properties.

Source: https://learn.microsoft.com/rest/api/storageservices/put-page and get-page-ranges.
"""

from __future__ import annotations

import re

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import Blob, BlobDraft, BlobError, BlobKind, BlobStore, Extras, PageRange, SequenceConditions
from batchyard.blobs.edge import copy_operations, documents, transfers
from batchyard.blobs.edge.blob_operations import content_headers, tag_headers
from batchyard.blobs.edge.container_operations import page_size
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.mark_operations import wanted_tags
from batchyard.blobs.edge.request import Request

PAGE_BYTES = 512
MOST_PAGE_BLOB_BYTES = 8 << 40
MOST_WRITE_BYTES = 4 << 20
_MOST_SEQUENCE = 2**63 - 1
_MOST_RANGES = 10_000
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_SEQUENCE = "x-ms-blob-sequence-number"
_SIZE = "x-ms-blob-content-length"


async def create(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Blob of a page blob: it is all zeros."""
    request.body_length(0)
    size = _size(request)
    if size is None:
        raise BlobError("MissingRequiredHeader", f"{_SIZE} is not specified.")
    if "x-ms-access-tier" in request.headers:
        raise BlobError("InvalidHeaderValue", "Page blobs have no tier here.")
    extras = Extras(tags=wanted_tags(request, grant), sequence=_number(request) or 0)
    plain = {name: request.headers.get(name) for name in ("content-type", "content-encoding", "content-language", "cache-control")}
    draft = BlobDraft(BlobKind.PAGE, content_headers(request, plain), request.metadata(), extras, size)
    upload = await run_in_threadpool(store.put, request.blob_ref, draft, request.conditions(may_overwrite=grant.allows("w")))
    blob = await transfers.take_in(request, upload, 0)
    return Response(status_code=201, headers={**tag_headers(blob), "x-ms-request-server-encrypted": "false"})


async def put_page(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Page, or Put Page From URL when there is a copy source."""
    action = request.headers.get("x-ms-page-write", "").lower()
    if action not in ("update", "clear"):
        raise BlobError("InvalidHeaderValue", "x-ms-page-write is update or clear.")
    pages = _aligned(request)
    if pages is None:
        raise BlobError("MissingRequiredHeader", "A range is not specified.")
    sequence = _sequence_conditions(request)
    if action == "clear":
        if request.body_length(MOST_WRITE_BYTES):
            raise BlobError("InvalidHeaderValue", "Clearing pages takes no content.")
        blob = await run_in_threadpool(store.clear_pages, request.blob_ref, pages, request.conditions(), sequence, request.now_us)
        return Response(status_code=201, headers=_told(blob))
    if pages.end - pages.begin > MOST_WRITE_BYTES:
        raise BlobError("RequestBodyTooLarge", headers={"connection": "close"})
    upload = await run_in_threadpool(store.write_pages, request.blob_ref, pages.begin, request.conditions(), sequence)
    if "x-ms-copy-source" in request.headers:
        blob, sums = await copy_operations.take_over(store, request, grant, upload, exactly=pages.end - pages.begin)
        return Response(status_code=201, headers={**_told(blob), **sums})
    if request.body_length(MOST_WRITE_BYTES) != pages.end - pages.begin:
        await run_in_threadpool(upload.abort)
        raise BlobError("InvalidHeaderValue", "The content is not as long as the range.")
    blob = await transfers.take_in(request, upload, pages.end - pages.begin, "content-md5")
    return Response(status_code=201, headers={**_told(blob), **transfers.sum_headers(request, transfers.md5_text(upload.md5()))})


async def get_ranges(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Page Ranges, or with `prevsnapshot` what changed since then."""
    match = _RANGE.fullmatch(request.headers.get("x-ms-range") or request.headers.get("range") or "bytes=0-")
    if match is None:
        raise BlobError("InvalidHeaderValue", "The range is not one of bytes.")
    begin, end = int(match[1]), None if match[2] is None else int(match[2]) + 1
    marker = request.query.get("marker", "")
    if marker:
        begin = max(begin, _offset(documents.from_marker(marker)))
    previous = request.moment("prevsnapshot")
    if previous is None:
        blob, ranges = await run_in_threadpool(store.page_ranges, request.blob_ref, request.conditions(), begin, end)
    else:
        blob, ranges = await run_in_threadpool(store.page_changes, request.blob_ref, previous, request.conditions(), begin, end)
    most = page_size(request) if "maxresults" in request.query else _MOST_RANGES
    following = str(ranges[most].begin) if len(ranges) > most else None
    headers = {**tag_headers(blob), _SIZE: str(blob.length)}
    return Response(documents.page_list(ranges[:most], following), headers=headers, media_type="application/xml")


async def set_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Properties where it is about the size or the sequence number; the content headers stay when none is given."""
    action, number = request.headers.get("x-ms-sequence-number-action", "").lower(), _number(request)
    if action not in ("", "max", "update", "increment"):
        raise BlobError("InvalidHeaderValue", "x-ms-sequence-number-action is max, update or increment.")
    if (action in ("max", "update")) != (number is not None):
        raise BlobError("InvalidHeaderValue", f"{_SEQUENCE} goes with the actions max and update.")
    headers = content_headers(request)
    given = headers if any(request.headers.get(f"x-ms-blob-{name}") for name in _CONTENT) else None
    sequence = (action, number or 0) if action else None
    blob = await run_in_threadpool(store.set_page_properties, request.blob_ref, _size(request), sequence, given, request.conditions())
    return Response(headers=_told(blob))


_CONTENT = ("content-type", "content-encoding", "content-language", "cache-control", "content-disposition", "content-md5")


def is_about_pages(request: Request) -> bool:
    """Whether Set Blob Properties is meant for a page blob."""
    return _SIZE in request.headers or "x-ms-sequence-number-action" in request.headers


def _told(blob: Blob) -> dict[str, str]:
    return {**tag_headers(blob), _SEQUENCE: str(blob.extras.sequence), "x-ms-request-server-encrypted": "false"}


def _size(request: Request) -> int | None:
    size = request.number_header(_SIZE)
    if size is not None and (size % PAGE_BYTES or size > MOST_PAGE_BLOB_BYTES):
        raise BlobError("InvalidHeaderValue", f"{_SIZE} is a multiple of {PAGE_BYTES}, at most 8 TiB.")
    return size


def _aligned(request: Request) -> PageRange | None:
    """The pages that a write is about; raises InvalidPageRange."""
    text = request.headers.get("x-ms-range") or request.headers.get("range")
    if text is None:
        return None
    match = _RANGE.fullmatch(text)
    if match is None or match[2] is None:
        raise BlobError("InvalidHeaderValue", "The range is not one of bytes.")
    begin, end = int(match[1]), int(match[2]) + 1
    if begin >= end or begin % PAGE_BYTES or end % PAGE_BYTES:
        raise BlobError("InvalidPageRange")
    return PageRange(begin, end)


def _number(request: Request) -> int | None:
    number = request.number_header(_SEQUENCE)
    if number is not None and number > _MOST_SEQUENCE:
        raise BlobError("InvalidHeaderValue", f"{_SEQUENCE} is at most {_MOST_SEQUENCE}.")
    return number


def _sequence_conditions(request: Request) -> SequenceConditions:
    return SequenceConditions(*(request.number_header(f"x-ms-if-sequence-number-{how}") for how in ("le", "lt", "eq")))


def _offset(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BlobError("InvalidQueryParameterValue", "The marker is not one that this service gave out.")
    return int(text)
