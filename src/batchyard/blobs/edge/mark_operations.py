"""Operations on what is said of a blob: its tags, its tier, its seal, its snapshots."""

from __future__ import annotations

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs import tags
from batchyard.blobs.base import BlobError, BlobStore
from batchyard.blobs.edge import documents, transfers
from batchyard.blobs.edge.blob_operations import tag_headers
from batchyard.blobs.edge.container_operations import page_size
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.blobs.leases import check_named
from batchyard.model import times

TIERS = ("Hot", "Cool", "Cold", "Archive")
_MOST_XML_BYTES = 64 * 1024
_XML = "application/xml"


async def get_tags(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Blob Tags."""
    blob = await run_in_threadpool(store.blob, request.blob_ref)
    wanted = request.conditions()
    if wanted.if_tags is not None and not wanted.if_tags(blob.extras.tags):
        raise BlobError("ConditionNotMet")
    check_named(blob.extras.lease, wanted.lease_id, request.now_us, "Blob")
    return Response(documents.tag_set(blob.extras.tags), media_type=_XML)


async def set_tags(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Tags."""
    text = await transfers.body(request, _MOST_XML_BYTES)
    wanted = tags.checked(documents.parse_tags(text))
    await run_in_threadpool(store.set_tags, request.blob_ref, wanted, request.conditions())
    return Response(status_code=204)


async def find_tagged(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Find Blobs by Tags, in the account or in one container."""
    where = request.query.get("where", "")
    wanted = tags.condition(where, may_or=False)
    if request.container is not None:
        await run_in_threadpool(store.container, request.container_ref)
    marker = request.query.get("marker", "")
    start = documents.from_marker(marker) if marker else ""
    found, following = await run_in_threadpool(store.find_tagged, request.account, request.container, wanted, start, page_size(request))
    return Response(documents.tagged_list(request.endpoint, where, found, following), media_type=_XML)


async def set_tier(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Tier: noted and shown; what comes out of the archive is there at once."""
    text = request.headers.get("x-ms-access-tier")
    if text is None:
        raise BlobError("MissingRequiredHeader", "x-ms-access-tier is not specified.")
    _, thawed = await run_in_threadpool(store.set_tier, request.blob_ref, checked_tier(text), request.conditions(), request.now_us)
    return Response(status_code=202 if thawed else 200)


async def set_expiry(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Expiry: read as gone from then on, and removed within a minute."""
    blob = await run_in_threadpool(store.set_expiry, request.blob_ref, _expiry(request), request.conditions())
    return Response(headers=tag_headers(blob))


def _expiry(request: Request) -> Callable[[int], int | None]:
    """The end of a blob's time, None for never, as of when it was created. Raises InvalidHeaderValue."""
    option, text = request.headers.get("x-ms-expiry-option", "").lower(), request.headers.get("x-ms-expiry-time", "")
    if option == "neverexpire":
        return lambda created: None
    if option == "absolute":
        at = _moment(text)
        if at <= request.now_us:
            raise BlobError("InvalidHeaderValue", "x-ms-expiry-time is in the past.")
        return lambda created: at
    if option not in ("relativetonow", "relativetocreation"):
        raise BlobError("InvalidHeaderValue", "x-ms-expiry-option is NeverExpire, Absolute, RelativeToNow or RelativeToCreation.")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise BlobError("InvalidHeaderValue", "x-ms-expiry-time is a number of milliseconds.")
    return lambda created: int(text) * 1000 + (request.now_us if option == "relativetonow" else created)


def _moment(text: str) -> int:
    try:
        return times.from_http_date(text)
    except (ValueError, OverflowError):
        raise BlobError("InvalidHeaderValue", "x-ms-expiry-time is a date as headers have them.") from None


async def seal(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Append Blob Seal."""
    position = request.number_header("x-ms-blob-condition-appendpos")
    blob = await run_in_threadpool(store.seal, request.blob_ref, request.conditions(), position, request.now_us)
    return Response(headers={**tag_headers(blob), "x-ms-blob-sealed": "true"})


async def snapshot(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Snapshot Blob."""
    if "snapshot" in request.query:
        raise BlobError("InvalidQueryParameterValue")
    taken = await run_in_threadpool(store.snapshot, request.blob_ref, request.metadata() or None, request.conditions(), request.now_us)
    assert taken.snapshot is not None
    return Response(status_code=201, headers={**tag_headers(taken), "x-ms-snapshot": taken.snapshot})


def wanted_tags(request: Request, grant: Grant) -> dict[str, str]:
    """Tags of `x-ms-tags`, which only those may give a blob who may set tags. Raises AuthorizationPermissionMismatch or InvalidTag."""
    found = tags.from_header(request.headers.get("x-ms-tags"))
    if found and not grant.allows("t"):
        raise BlobError("AuthorizationPermissionMismatch")
    return found


def checked_tier(text: str) -> str:
    """A tier of block blobs, in the service's spelling; raises InvalidHeaderValue."""
    for tier in TIERS:
        if tier.lower() == text.lower():
            return tier
    raise BlobError("InvalidHeaderValue", f"x-ms-access-tier is one of {', '.join(TIERS)}.")
