"""Content on its way into a store: written to a data file first, made visible by one catalogue transaction."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from batchyard.blobs.base import MAX_BLOCKS, Blob, BlobDraft, BlobError, BlobKind, BlobRef
from batchyard.blobs.conditions import Conditions, check_write
from batchyard.blobs.errors import Fenced
from batchyard.blobs.store import keeping, rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles, Incoming
from batchyard.drivers.base import Connection

T = TypeVar("T")


class LocalUpload(Generic[T]):
    """The steps all uploads share; `_enter` is the transaction and gives the result and the files to remove."""

    inline = False

    def __init__(self, catalogue: Catalogue, files: DataFiles, ref: BlobRef) -> None:
        self._catalogue = catalogue
        self._files = files
        self._ref = ref
        self._content = Incoming(files, inline=self.inline)
        # A cancelled request aborts while its last write may still run in another thread.
        self._lock = threading.RLock()
        self._over = False

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._content.length

    def write(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        with self._lock:
            if self._over:
                raise RuntimeError("the upload is over")
            self._content.write(chunk)

    def md5(self) -> bytes:
        """MD5 of what was written so far."""
        return self._content.md5()

    def commit(self, now_us: int) -> T:
        """Make the content durable, then visible."""
        with self._lock:
            if self._over:
                raise RuntimeError("the upload is over")
            (result,) = commit_all(self._catalogue, [self], now_us)
        if isinstance(result, BaseException):
            raise result
        return result

    def sealed(self) -> BaseException | None:
        """Make the content durable; why that cannot be, and nothing is left then."""
        try:
            self._content.seal()
        except BaseException as error:
            self.settled(error)
            return error
        return None

    def settled(self, error: BaseException | None, gone: Sequence[str] = ()) -> None:
        """The upload is over."""
        if isinstance(error, BlobError | OSError | Fenced):
            self.abort()
        # On other database errors the commit may have reached the disk: the file stays, and is swept later if it did not.
        self._over = True
        self._files.give_up(gone)

    def abort(self) -> None:
        """Remove what was written."""
        with self._lock:
            if not self._over:
                self._over = True
                self._content.discard()

    def enter(self, tx: Connection, now_us: int) -> tuple[T, list[str]]:
        """Make the content visible within a transaction; the result, and files that nobody needs once it is on disk."""
        if self._content.name is not None:
            self._files.vouch(tx, [self._content.name])
        result, gone = self._enter(tx, now_us)
        self._files.doom(tx, gone)
        return result, gone

    def _enter(self, tx: Connection, now_us: int) -> tuple[T, list[str]]:
        raise NotImplementedError


def commit_all(catalogue: Catalogue, uploads: Sequence[LocalUpload[T]], now_us: int) -> list[T | BaseException]:
    """Make content durable, then visible, several in one transaction; in the place of a result, why there is none."""
    refused = [upload.sealed() for upload in uploads]
    ready = [upload for upload, error in zip(uploads, refused, strict=True) if error is None]
    entering = [partial(upload.enter, now_us=now_us) for upload in ready]
    entered = iter(catalogue.write_all(entering))
    found: list[T | BaseException] = []
    for upload, error in zip(uploads, refused, strict=True):
        outcome = error or next(entered)
        if isinstance(outcome, BaseException):
            upload.settled(outcome)
            found.append(outcome)
        else:
            upload.settled(None, outcome[1])
            found.append(outcome[0])
    return found


class PutUpload(LocalUpload[Blob]):
    """Put Blob: replaces the blob and its uncommitted blocks."""

    inline = True

    def __init__(self, catalogue: Catalogue, files: DataFiles, ref: BlobRef, draft: BlobDraft, conditions: Conditions) -> None:
        super().__init__(catalogue, files, ref)
        self._draft = draft
        self._conditions = conditions

    def _enter(self, tx: Connection, now_us: int) -> tuple[Blob, list[str]]:
        size = self.length if self._draft.size is None else self._draft.size
        blob, gone, _ = keeping.replace_blob(tx, self._ref, self._summed(), size, self._conditions, now_us)
        if self.length:
            rows.insert_segment(tx, blob["id"], 0, self.length, self._content.name, self._content.inline)
        return rows.as_blob(blob), gone

    def _summed(self) -> BlobDraft:
        """The draft with the MD5 of its content; that of an append or page blob would be wrong after the next write."""
        headers = self._draft.headers
        if self._draft.kind is not BlobKind.BLOCK or headers.md5 is not None:
            return self._draft
        return replace(self._draft, headers=replace(headers, md5=b64encode(self.md5()).decode()))


class StageUpload(LocalUpload[None]):
    """Put Block: content that waits for a block list."""

    def __init__(self, catalogue: Catalogue, files: DataFiles, ref: BlobRef, block_id: str, conditions: Conditions) -> None:
        super().__init__(catalogue, files, ref)
        self._block_id, self._conditions = block_id, conditions

    def _enter(self, tx: Connection, now_us: int) -> tuple[None, list[str]]:
        container = rows.container_row(tx, self._ref.parent)["id"]
        blob = rows.find_blob(tx, container, self._ref.name)
        if blob is not None and blob["kind"] != BlobKind.BLOCK:
            raise BlobError("InvalidBlobType")
        check_write(self._conditions, rows.version_of(blob))
        file = self._content.name
        if file is None:
            raise BlobError("InvalidHeaderValue", "A block may not be empty.")
        return None, rows.stage_block(tx, container, self._ref.name, self._block_id, self.length, file, now_us)


class AppendUpload(LocalUpload[tuple[Blob, int]]):
    """Append Block: one more segment at the end."""

    def __init__(
        self, catalogue: Catalogue, files: DataFiles, ref: BlobRef, conditions: Conditions, position: int | None, max_size: int | None
    ) -> None:
        super().__init__(catalogue, files, ref)
        self._conditions = conditions
        self._position = position
        self._max_size = max_size

    def _enter(self, tx: Connection, now_us: int) -> tuple[tuple[Blob, int], list[str]]:
        row = rows.blob_row(tx, self._ref)
        if row["kind"] != BlobKind.APPEND:
            raise BlobError("InvalidBlobType")
        check_write(self._conditions, rows.version_of(row))
        if rows.extras_of(row).sealed:
            raise BlobError("BlobIsSealed")
        start = row["length"]
        if self._position is not None and self._position != start:
            raise BlobError("AppendPositionConditionNotMet")
        if self._max_size is not None and start + self.length > self._max_size:
            raise BlobError("MaxBlobSizeConditionNotMet")
        if row["block_count"] >= MAX_BLOCKS:
            raise BlobError("BlockCountExceedsLimit")
        rows.insert_segment(tx, row["id"], start, self.length, self._content.name, None)
        blob = rows.touch_blob(tx, row, now_us, length=start + self.length, block_count=row["block_count"] + 1)
        return (blob, start), []
