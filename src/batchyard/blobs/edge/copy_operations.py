"""Operations whose content is another blob's: Copy Blob, Put Blob From URL, Put Block From URL, Append Block From URL.

The source is a blob of this endpoint, under any name that leads to it, or something at another server. A URL with a signature is judged by
that signature alone, as the service does; without one the caller's own rights are what counts.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import (
    Blob,
    BlobDraft,
    BlobError,
    BlobKind,
    BlobReader,
    BlobStore,
    Conditions,
    ContentHeaders,
    Copied,
    CopyDraft,
    Extras,
    Upload,
)
from batchyard.blobs.edge import documents, sas, sums, transfers
from batchyard.blobs.edge.answers import busy
from batchyard.blobs.edge.blob_operations import content_headers, tag_headers
from batchyard.blobs.edge.fetches import MOST_PENDING, Fetches
from batchyard.blobs.edge.foreign import OWN, ForeignReader, checked
from batchyard.blobs.edge.grants import Grant, Level, Need, Scope
from batchyard.blobs.edge.mark_operations import checked_tier, wanted_tags
from batchyard.blobs.edge.request import Request, names_of, query_of
from batchyard.blobs.errors import of_source

T = TypeVar("T")

_OURS = frozenset({"localhost", "127.0.0.1", "::1"})
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})")
_MIB = 1024 * 1024
_READ_BYTES = 4 * _MIB
_MOST_APPEND_BYTES = 100 * _MIB
_MOST_SYNC_BYTES = 256 * _MIB
_MOST_WHOLE_BYTES = 5000 * _MIB
_MOST_FETCHED_BYTES = 5 * 1024 * 1024 * _MIB
_META = "x-ms-meta-"
_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A source at another server, or in another storage account of this one."""

    fetches: Fetches
    url: str
    """What is fetched."""
    given: str
    """The URL as it was given."""

    @property
    def shown(self) -> str:
        """The URL without what signs it, which others may read."""
        return self.given.partition("?")[0]

    def open(self, request: Request) -> ForeignReader:
        """The wanted range of it, under the conditions that the request names. Raises CannotVerifyCopySource, SourceConditionNotMet."""
        headers = {name: request.headers[f"x-ms-source-{name}"] for name in _CONDITIONS if f"x-ms-source-{name}" in request.headers}
        if (wanted := _source_range(request)) is not None:
            headers["range"] = f"bytes={wanted[0]}-{wanted[1] - 1}"
        reader = self.fetches.foreign.open(self.url, headers)
        if (reason := self.fetches.room(reader.length)) is not None:
            reader.close()
            raise busy(reason)
        return reader


@dataclass(frozen=True, slots=True)
class Source:
    """A blob that is read for a copy: the request that would read it, and the URL as it was given."""

    request: Request
    url: str

    @property
    def shown(self) -> str:
        """The URL without what signs it, which others may read."""
        return self.url.partition("?")[0]


async def copy(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Copy Blob and Put Blob From URL: done before the answer, as the bytes are shared and not copied, but for Copy Blob from elsewhere."""
    source = await _source(store, request, grant)
    whole = request.headers.get("x-ms-blob-type") is not None  # the header that tells Put Blob From URL apart
    if isinstance(source, Source):
        blob = await run_in_threadpool(_copied, store, request, grant, source, whole)
    else:
        blob = await run_in_threadpool(_fetched, store, request, grant, source, whole)
    headers = {**tag_headers(blob), "x-ms-request-server-encrypted": "false"}
    sync = whole or request.headers.get("x-ms-requires-sync", "").lower() == "true"
    if blob.extras.copied is not None:
        headers |= {"x-ms-copy-id": blob.extras.copied.id, "x-ms-copy-status": blob.extras.copied.status}
    if sync and blob.headers.md5:
        headers["content-md5"] = blob.headers.md5
    return Response(status_code=201 if whole else 202, headers=headers)


async def put_block_from_url(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Put Block From URL."""
    block_id = documents.checked_block_id(request.query.get("blockid", ""))
    source = await _source(store, request, grant)
    conditions = Conditions(lease_id=request.lease_id("x-ms-lease-id"), now_us=request.now_us)
    upload = await run_in_threadpool(store.stage, request.blob_ref, block_id, conditions)
    await run_in_threadpool(_take_over, store, request, source, upload, None)
    return Response(status_code=201, headers={"content-md5": transfers.md5_text(upload.md5()), "x-ms-request-server-encrypted": "false"})


async def append_block_from_url(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Append Block From URL."""
    source = await _source(store, request, grant)
    position = request.number_header("x-ms-blob-condition-appendpos")
    max_size = request.number_header("x-ms-blob-condition-maxsize")
    upload = await run_in_threadpool(store.append, request.blob_ref, request.conditions(), position, max_size)
    blob, offset = await run_in_threadpool(_take_over, store, request, source, upload, _MOST_APPEND_BYTES)
    headers = {**tag_headers(blob), "content-md5": transfers.md5_text(upload.md5()), "x-ms-request-server-encrypted": "false"}
    headers |= {"x-ms-blob-append-offset": str(offset), "x-ms-blob-committed-block-count": str(blob.block_count)}
    return Response(status_code=201, headers=headers)


async def take_over(store: BlobStore, request: Request, grant: Grant, upload: Upload[T], *, exactly: int) -> tuple[T, dict[str, str]]:
    """Copy the wanted range of the source, which has so many bytes, into the upload; what it made, and the header of the sum."""
    try:
        source = await _source(store, request, grant)
        made = await run_in_threadpool(_take_over, store, request, source, upload, exactly, exactly)
    except BaseException:
        await run_in_threadpool(upload.abort)
        raise
    return made, {"content-md5": transfers.md5_text(upload.md5())}


async def abort(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Abort Copy Blob: what came so far goes, and the blob stays empty."""
    if request.headers.get("x-ms-copy-action", "").lower() != "abort":
        raise BlobError("InvalidHeaderValue", "x-ms-copy-action is abort.")
    copy_id, lease = request.query.get("copyid", ""), request.lease_id("x-ms-lease-id")
    await run_in_threadpool(store.abort_copy, request.blob_ref, copy_id, lease, request.now_us)
    return Response(status_code=204)


def _copied(store: BlobStore, request: Request, grant: Grant, source: Source, whole: bool) -> Blob:
    draft = _draft(request, grant, source, whole)
    given = (source.request.conditions(source=True), request.conditions(may_overwrite=grant.allows("w")))
    return store.copy(source.request.blob_ref, request.blob_ref, draft, given, request.now_us)


def _fetched(store: BlobStore, request: Request, grant: Grant, source: Elsewhere, whole: bool) -> Blob:
    """A blob from elsewhere: whole before the answer, or begun."""
    assert request.fetches is not None
    sync = whole or request.headers.get("x-ms-requires-sync", "").lower() == "true"
    reader = source.open(request)
    try:
        if reader.length > (_MOST_WHOLE_BYTES if whole else _MOST_SYNC_BYTES if sync else _MOST_FETCHED_BYTES):
            raise BlobError("RequestBodyTooLarge", "The copy source is too large.")
        draft = _elsewhere_draft(request, grant, source, reader, sync=sync)
        conditions = request.conditions(may_overwrite=grant.allows("w"))
        if sync:
            return _filled(request, reader, store.put(request.blob_ref, draft, conditions), None, 0)
    finally:
        reader.close()
    etag = reader.headers.get("etag", "")
    known = "" if etag.startswith("W/") else etag.strip('"')
    blob = store.begin_fetch(request.blob_ref, draft, (source.url, known), conditions, MOST_PENDING)
    assert blob.extras.copied is not None
    request.fetches.begin(blob.extras.copied.id)
    return blob


def _elsewhere_draft(request: Request, grant: Grant, source: Elsewhere, reader: ForeignReader, *, sync: bool) -> BlobDraft:
    """What a blob from elsewhere is: the headers and metadata of the request, else those of its source."""
    made = _draft(request, grant, source, sync and "x-ms-blob-type" in request.headers)
    said = reader.headers
    names = ("content-type", "content-encoding", "content-language", "cache-control", "content-disposition")
    headers = ContentHeaders(*(said.get(name) for name in names)) if made.headers is None else made.headers
    its_own = {name[len(_META) :]: value for name, value in said.items() if name.startswith(_META)}
    metadata = its_own if made.metadata is None else made.metadata
    size = f"{reader.length}/{reader.length}" if sync else f"0/{reader.length}"
    copied = replace(made.copied, progress=size) if sync else replace(made.copied, status="pending", progress=size, completed_us=None)
    tier_changed = request.now_us if made.tier else None
    extras = Extras(copied=copied, tags=made.tags or {}, tier=made.tier, tier_changed_us=tier_changed)
    return BlobDraft(BlobKind.BLOCK, replace(headers, md5=None), metadata, extras)


def _draft(request: Request, grant: Grant, source: Source | Elsewhere, whole: bool) -> CopyDraft:
    """What the copy has that its source has not; Put Blob From URL makes a block blob with headers of its own, if it has any."""
    kept = request.headers.get("x-ms-copy-source-tag-option", "REPLACE").upper() == "COPY"
    tier, text = request.headers.get("x-ms-access-tier"), request.headers.get("x-ms-tags")
    if kept and text is not None:
        raise BlobError("InvalidHeaderValue", "x-ms-tags and the source's tags cannot both be kept.")
    own = whole and any(name.startswith("x-ms-blob-content-") or name == "x-ms-blob-cache-control" for name in request.headers)
    if whole and request.headers["x-ms-blob-type"] != BlobKind.BLOCK:
        raise BlobError("InvalidHeaderValue", "Put Blob From URL makes block blobs.")
    copied = Copied(str(uuid.uuid4()), source.shown, "success", "", request.now_us)
    return CopyDraft(
        copied,
        request.metadata() or None,
        content_headers(request) if own else None,
        None if kept else wanted_tags(request, grant),
        checked_tier(tier) if tier is not None else None,
        BlobKind.BLOCK if whole else None,
    )


def _take_over(store: BlobStore, request: Request, source: Source | Elsewhere, upload: Upload[T], most: int | None, least: int = 0) -> T:
    """Copy the wanted range of the source into the upload, check its sums, commit; nothing is left of a failure."""
    try:
        with _reading(store, request, source) as reader:
            return _filled(request, reader, upload, most, least)
    except BaseException:
        upload.abort()
        raise


def _filled(request: Request, reader: BlobReader | ForeignReader, upload: Upload[T], most: int | None, least: int) -> T:
    wanted = request.md5_header("x-ms-source-content-md5")
    said, crc = sums.wanted(request, sums.SOURCE, "x-ms-source-content-md5"), sums.Crc64()
    try:
        if most is not None and reader.length > most:
            raise BlobError("RequestBodyTooLarge")
        if reader.length < least:
            raise BlobError("InvalidHeaderValue", "The source's range is not as long as that of the pages.")
        while chunk := reader.read(_READ_BYTES):
            upload.write(chunk)
            if said is not None:
                crc.update(chunk)
        if wanted not in (None, upload.md5()):
            raise BlobError("Md5Mismatch")
        sums.check(said, crc)
        return upload.commit(request.now_us)
    except ConnectionError as error:
        upload.abort()
        raise BlobError("CannotVerifyCopySource", f"{error}.".capitalize(), status=400) from None
    except BaseException:
        upload.abort()
        raise


def _source_range(request: Request) -> tuple[int, int] | None:
    """First byte of the source and the one after the last."""
    text = request.headers.get("x-ms-source-range")
    match = _RANGE.fullmatch(text) if text is not None else None
    if text is not None and (match is None or int(match[1]) > int(match[2])):
        raise BlobError("InvalidHeaderValue", "The value for x-ms-source-range is not a range of bytes.")
    return (int(match[1]), int(match[2]) + 1) if match is not None else None


@contextmanager
def _reading(store: BlobStore, request: Request, source: Source | Elsewhere) -> Iterator[BlobReader | ForeignReader]:
    if isinstance(source, Elsewhere):
        with closing(source.open(request)) as found:
            yield found
        return
    begin, end = _source_range(request) or (0, None)
    conditions = source.request.conditions(source=True)
    try:
        reader = store.read(source.request.blob_ref, conditions, begin, end)
    except BlobError as error:
        raise of_source(error) from error
    try:
        yield reader
    finally:
        reader.close()


async def _source(store: BlobStore, request: Request, grant: Grant) -> Source | Elsewhere:
    """The source of a copy, if the caller may read it. Raises CannotVerifyCopySource, InvalidHeaderValue or UnsupportedHeader."""
    text = request.headers.get("x-ms-copy-source")
    if text is None:
        raise BlobError("MissingRequiredHeader", "x-ms-copy-source is not specified.")
    if "x-ms-copy-source-authorization" in request.headers:
        raise BlobError("UnsupportedHeader", "Bearer tokens of Entra ID are not served.")
    try:
        url = urlsplit(text)
        here = _path_here(request, url)
    except ValueError:
        raise BlobError("InvalidHeaderValue", "The value for x-ms-copy-source is not a URL.") from None
    if here is None:
        if request.fetches is None:
            raise BlobError("UnsupportedHeader", "Only blobs of this storage endpoint can be copied.")
        return Elsewhere(request.fetches, checked(text), text)
    account, container, name = names_of(here)
    if not account or container is None or name is None:
        raise BlobError("CannotVerifyCopySource")
    wanted = replace(
        request,
        method="GET",
        raw_path=url.path,
        account=account,
        container=container,
        blob=name,
        query=query_of(url.query),
        scheme=url.scheme,
    )
    if account in request.accounts:
        await run_in_threadpool(may_read, store, request, grant, wanted)
        return Source(wanted, text)
    if request.fetches is None or request.fetches.foreign.own is None:
        raise BlobError("CannotVerifyCopySource")
    checked(text)
    sas.check_caller(wanted)  # who reads it is this server, and who asks for that is judged here
    return Elsewhere(request.fetches, f"{OWN}{here}{'?' if url.query else ''}{url.query}", text)


def _path_here(request: Request, url: SplitResult) -> str | None:
    """The path, account first, of a URL that leads to this server: by the name that the caller used, one of this machine's own names,
    or the host name of a storage account; None for others. Raises ValueError."""
    own = urlsplit(f"//{request.headers.get('host', '')}")
    usual = {"http": 80, "https": 443}
    if url.scheme not in usual or (url.port or usual[url.scheme]) != (own.port or usual.get(request.scheme)):
        return None
    host, said = url.hostname or "", own.hostname or ""
    if host == said:
        return f"/{request.account}{url.path}" if request.by_host else url.path
    names = {said.split(".", 2)[2] if request.by_host else said}
    if request.fetches is not None and request.fetches.foreign.own is not None:
        names.add(request.fetches.foreign.own.domain or "")
    names |= _OURS if names & _OURS else set()
    if host in names:
        return url.path
    account, _, rest = host.partition(".")
    service, _, domain = rest.partition(".")
    return f"/{account}{url.path}" if service in ("blob", "dfs") and domain in names - {""} else None


def may_read(store: BlobStore, request: Request, grant: Grant, source: Request, letter: str = "r") -> None:
    """Raise CannotVerifyCopySource unless the caller, or the signature of the source, may do with it what the letter says."""
    if "sig" in source.query:
        try:
            given = sas.verify(source, request.accounts.get(source.account, ()), lambda ref: store.container(ref).policies)
            given.require(Need(Level.OBJECT, letter))
        except BlobError as error:
            raise BlobError("CannotVerifyCopySource", "The signature of the copy source does not let it be read.", status=403) from error
        return
    if (
        source.account in request.accounts
        and store.container(source.container_ref).access is not None
        and request.may_publish
        and letter == "r"
    ):
        return
    if source.account != request.account:
        raise BlobError("CannotVerifyCopySource", "The copy source is in another account and its URL carries no signature.", status=403)
    same_container = grant.scope is Scope.CONTAINER and source.container == request.container
    if (grant.scope not in (Scope.KEY, Scope.ACCOUNT) and not same_container) or not grant.allows(letter):
        raise BlobError("CannotVerifyCopySource", "The signature does not let the copy source be read.", status=403)
