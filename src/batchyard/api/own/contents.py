"""Small blobs of the linked storage below many prefixes in one answer (`submit --out`, `get`), instead of a list and a read for each.

Who has the account's key may name any container of the linked storage in a task's files already, so this opens nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.blobs.base import Blob, BlobError, BlobRef, BlobStore, Conditions, ContainerRef, ListQuery
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property

MOST_PREFIXES, MOST_BLOBS = 100, 1000
LARGEST = 64 << 10
"""Bytes of a blob that is sent along; a larger one is only listed."""
MOST_BYTES = 4 << 20
"""Of all contents of an answer."""


class Prefixes(msgspec.Struct, forbid_unknown_fields=True):
    """Starts of names."""

    prefixes: list[str]


class Found(msgspec.Struct, rename="camel", omit_defaults=True):
    """A blob; without its content when that is too large, or there was no room left."""

    name: str
    content_length: int
    e_tag: str
    last_modified: str
    content: bytes | None = None


class Below(msgspec.Struct):
    """The blobs below a prefix; `whole` says that these are all."""

    blobs: list[Found]
    whole: bool = True


async def read(call: Call) -> Response:
    """POST /batchyard/v1/storage/{storageAccount}/{container}/contents: what is below each prefix, in the order of the request."""
    wanted = call.decode(Prefixes).prefixes
    if not 0 < len(wanted) <= MOST_PREFIXES:
        raise invalid_property("prefixes", str(len(wanted)), f"There must be between 1 and {MOST_PREFIXES}")
    linked, store = call.services.linked_storage, call.services.blobs
    if linked is None or store is None or call.ids["storage_account"] != linked.account:
        raise BatchError("ResourceNotFound")
    container = ContainerRef(linked.account, call.ids["container"])
    reading = Reading(store, container)
    found = await asyncio.to_thread(lambda: [wire.encode(reading.below(prefix)) for prefix in wanted])
    return wire.listing(call.base, "contents", found, None)


class Reading:
    """One answer in the making, with the room that it has left."""

    def __init__(self, store: BlobStore, container: ContainerRef) -> None:
        self._store, self._container = store, container
        self._blobs, self._bytes = MOST_BLOBS, MOST_BYTES

    def below(self, prefix: str) -> Below:
        """What is below a prefix; nothing where there is no such container."""
        if not self._blobs:
            return Below([], whole=False)
        try:
            page = self._store.list_blobs(self._container, ListQuery(prefix=prefix, limit=self._blobs))
        except BlobError as error:
            if error.status != 404:
                raise
            return Below([])
        self._blobs -= len(page.entries)
        return Below([self._found(one) for one in page.entries if isinstance(one, Blob)], whole=page.next is None)

    def _found(self, blob: Blob) -> Found:
        content = self._content(blob) if blob.length <= min(LARGEST, self._bytes) else None
        self._bytes -= len(content or b"")
        return Found(blob.name, blob.length, blob.etag, times.iso(blob.modified_us), content)

    def _content(self, blob: Blob) -> bytes | None:
        """All of it; None when it cannot be read, or is another by now."""
        if not blob.length:
            return b""
        ref = BlobRef(self._container.account, self._container.container, blob.name)
        with contextlib.suppress(BlobError, OSError), contextlib.closing(self._store.read(ref, Conditions(), 0, None)) as reader:
            if reader.blob.etag == blob.etag:
                return b"".join(iter(lambda: reader.read(LARGEST), b""))
        return None
