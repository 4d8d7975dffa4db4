"""Applications and their packages, made and removed with an account key; a task's token never comes this far.

A package's zip file goes into the linked storage as it comes, under a name that no other upload has, and is looked through there. Only
then a row names it; what no row names is swept with a later upload.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import secrets
from collections.abc import AsyncIterator

from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.blobs.base import ALWAYS, Blob, BlobDraft, BlobError, BlobRef, BlobStore, ContainerRef, ListQuery, Upload
from batchyard.disk import zips
from batchyard.engine.nodes.linked_storage import PACKAGES
from batchyard.engine.work import applications
from batchyard.engine.work.applications import Shown
from batchyard.model import times
from batchyard.model.application import ApplicationInfo, ApplicationPatch, ApplicationPut, PackageInfo
from batchyard.model.errors import BatchError
from batchyard.store import applications as rows

_SWEPT_US = 86_400_000_000
"""How old a blob is that no row names, before it is taken for what a server that died left behind."""
_PIECE = 1 << 20


async def list_(call: Call) -> Response:
    """GET /batchyard/v1/applications"""
    after, most = call.page()
    found = await call.db.read(applications.page, after, most + 1, usable=False)
    more = found[most - 1][0].pk if len(found) > most else None
    return wire.listing(call.base, "applications", [wire.encode(_info(one)) for one in found[:most]], call.next_link(more))


async def get(call: Call) -> Response:
    """GET /batchyard/v1/applications/{applicationId}"""
    return _answer(call, await call.db.read(applications.get, call.ids["application_id"]))


async def put(call: Call) -> Response:
    """PUT /batchyard/v1/applications/{applicationId}"""
    wish = call.decode(ApplicationPut, empty=ApplicationPut())
    found, new = await call.db.run(applications.put, call.ids["application_id"], wish, call.now)
    return _answer(call, found, 201 if new else 200)


async def patch(call: Call) -> Response:
    """PATCH /batchyard/v1/applications/{applicationId}"""
    wish = call.decode(ApplicationPatch)
    return _answer(call, await call.db.run(applications.patch, call.ids["application_id"], wish, call.now))


async def delete(call: Call) -> Response:
    """DELETE /batchyard/v1/applications/{applicationId}, with all its packages"""
    store, container = _place(call)
    for blob in await call.db.run(applications.delete, call.ids["application_id"], call.now):
        await asyncio.to_thread(_forget, store, container, blob)
    return wire.nothing(204)


async def delete_version(call: Call) -> Response:
    """DELETE /batchyard/v1/applications/{applicationId}/versions/{version}"""
    store, container = _place(call)
    blob = await call.db.run(applications.delete_package, call.ids["application_id"], call.ids["version"], call.now)
    await asyncio.to_thread(_forget, store, container, blob)
    return wire.nothing(204)


async def upload(call: Call) -> Response:
    """PUT /batchyard/v1/applications/{applicationId}/versions/{version}: the zip file, streamed; the application is made when it is new"""
    application_id, version = call.ids["application_id"], call.ids["version"]
    limits, content = zips.Limits(*call.services.package_limits), call.content
    assert content is not None, "the operation streams"
    length = call.signed.headers.get("content-length")
    if length is None:
        raise BatchError("MissingContentLengthHeader")
    if not length.isdigit() or int(length) > limits.bytes:
        raise BatchError("RequestBodyTooLarge", MaxLimit=limits.bytes)
    await call.db.read(applications.check_room, application_id, version)
    store, container = _place(call)
    await asyncio.to_thread(_prepare, store, container, await call.db.read(rows.blobs), call.now)
    name = f"{application_id}/{version}/{secrets.token_hex(8)}.zip"
    ref = BlobRef(container.account, container.container, name)
    try:
        blob = await _receive(store, ref, content, limits.bytes, call)
        await asyncio.to_thread(_look_through, store, ref, blob, limits)
        found, old = await call.db.run(applications.add_package, application_id, version, name, blob.length, call.now)
    except BatchError:  # after any other error a row may name it, and the sweep finds out
        await asyncio.to_thread(_forget, store, container, name)
        raise
    except BlobError as error:  # the container is the account's own, and it may do with it what it likes
        raise BatchError("OperationInvalidForCurrentState", Reason=f"The container {PACKAGES} does not take it: {error.message}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BatchError("ServerBusy", Reason="The disk of the server is full") from error
    if old is not None:
        await asyncio.to_thread(_forget, store, container, old)
    return _answer(call, found, 201)


def _place(call: Call) -> tuple[BlobStore, ContainerRef]:
    linked, store = call.services.linked_storage, call.services.blobs
    if linked is None or store is None:
        raise BatchError("ResourceNotFound")
    return store, ContainerRef(linked.account, PACKAGES)


async def _receive(store: BlobStore, ref: BlobRef, content: AsyncIterator[bytes], most: int, call: Call) -> Blob:
    """Write the body into a blob. Raises RequestBodyTooLarge; nothing is left of it then."""
    going, pieces, size = await asyncio.to_thread(store.put, ref, BlobDraft(), ALWAYS), bytearray(), 0
    try:
        async for chunk in content:
            pieces += chunk
            size += len(chunk)
            if size > most:
                raise BatchError("RequestBodyTooLarge", MaxLimit=most)
            if len(pieces) >= _PIECE:
                if (reason := call.services.room()) is not None:
                    raise BatchError("ServerBusy", Reason=reason)
                await asyncio.to_thread(going.write, bytes(pieces))
                pieces.clear()
        return await asyncio.to_thread(_finish, going, bytes(pieces), call.services.clock.now())
    finally:
        await asyncio.shield(asyncio.to_thread(going.abort))


def _finish(going: Upload[Blob], rest: bytes, now: int) -> Blob:
    going.write(rest)
    return going.commit(now)


def _prepare(store: BlobStore, container: ContainerRef, named: set[str], now: int) -> None:
    """Make the container, and remove what earlier uploads left in it that came to nothing."""
    try:
        store.create_container(container, {}, now)
    except BlobError as error:
        if error.status != 409:
            raise
    start: str | None = ""
    while start is not None:
        page = store.list_blobs(container, ListQuery(start=start))
        for blob in page.entries:
            if isinstance(blob, Blob) and blob.name not in named and blob.created_us < now - _SWEPT_US:
                _forget(store, container, blob.name)
        start = page.next


def _forget(store: BlobStore, container: ContainerRef, name: str) -> None:
    """Remove a blob that nothing names; one that is gone, or kept from being removed by a lease, is no error."""
    with contextlib.suppress(BlobError):
        store.delete_blob(BlobRef(container.account, container.container, name), ALWAYS)


def _look_through(store: BlobStore, ref: BlobRef, blob: Blob, limits: zips.Limits) -> None:
    """Refuse what no node would unpack. Raises InvalidRequestBody."""
    try:
        with io.BufferedReader(_Content(store, ref, blob.length), _PIECE) as file:
            zips.look_through(file, limits)
    except zips.Refused as refused:
        raise BatchError("InvalidRequestBody", Reason=f"The body is no application package: {refused}") from None


class _Content(io.RawIOBase):
    """A blob as a file that can be read anywhere."""

    def __init__(self, store: BlobStore, ref: BlobRef, length: int) -> None:
        super().__init__()
        self._store, self._ref, self._length, self._at = store, ref, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._length)[whence]
        if at < 0:
            raise ValueError("in front of the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._at + len(buffer), self._length)
        if self._at >= end:
            return 0
        with contextlib.closing(self._store.read(self._ref, ALWAYS, self._at, end)) as reader:
            data = reader.read(end - self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _answer(call: Call, found: Shown, status: int = 200) -> Response:
    response = wire.element(call.base, "applications", wire.encode(_info(found)))
    response.status_code = status
    return wire.tag(response, found[0].modified)


def _info(found: Shown) -> ApplicationInfo:
    row, packages = found
    return ApplicationInfo(
        id=row.id,
        display_name=row.display_name,
        allow_updates=bool(row.allow_updates),
        default_version=row.default_version,
        creation_time=times.iso(row.created),
        last_modified=times.iso(row.modified),
        packages=[PackageInfo(version=each.name, content_length=each.bytes, creation_time=times.iso(each.created)) for each in packages],
    )
