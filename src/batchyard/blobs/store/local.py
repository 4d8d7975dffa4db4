"""A blob store in a directory: `catalogue.db` says what there is, `data/` holds the bytes under random names.

Invariant: metadata and content change in one SQLite transaction, after the bytes are on disk. A crash leaves the old or the
new blob; data files that the catalogue does not name are swept at the next start. One process owns the directory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from batchyard.blobs.base import (
    AccessPolicy,
    Blob,
    BlobDraft,
    BlobError,
    BlobKind,
    BlobPage,
    BlobRef,
    Block,
    BlockSource,
    Conditions,
    Container,
    ContainerPage,
    ContainerRef,
    ContentHeaders,
    ListQuery,
)
from batchyard.blobs.conditions import check_read, check_write
from batchyard.blobs.store import listing, rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles, sync_directory
from batchyard.blobs.store.readers import LocalReader, Part
from batchyard.blobs.store.uploads import AppendUpload, PutUpload, StageUpload

T = TypeVar("T")

log = logging.getLogger(__name__)

_PURGE_BATCH = 1000
_CHECK_BATCH = 1000
_MOST_LOGGED = 100


class LocalBlobStore:
    """BlobStore over a directory on a local disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RuntimeError(f"{directory} is in use by another process") from None
        self._closed = False
        self._catalogue = Catalogue(directory / "catalogue.db")
        self._files = DataFiles(directory / "data")
        sync_directory(directory)
        sync_directory(directory.parent)
        self._recover()

    def close(self) -> None:
        """Let go of the directory; nothing but a check may be under way."""
        self._closed = True
        self._catalogue.close()
        os.close(self._lock)

    # containers

    def create_container(self, ref: ContainerRef, metadata: Mapping[str, str], now_us: int) -> Container:
        """Add an empty container."""

        def work(tx: sqlite3.Connection) -> Container:
            try:
                tx.execute(
                    "INSERT INTO containers (account, name, etag, modified, metadata, policies) VALUES (?, ?, ?, ?, ?, '{}')",
                    (ref.account, ref.container, rows.new_etag(), now_us, rows.json_text(metadata)),
                )
            except sqlite3.IntegrityError:
                raise BlobError("ContainerAlreadyExists") from None
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)

    def container(self, ref: ContainerRef) -> Container:
        """Properties of a container."""
        with self._catalogue.reading() as tx:
            return rows.as_container(rows.container_row(tx, ref))

    def set_container_metadata(self, ref: ContainerRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Container:
        """Replace the metadata."""
        return self._change_container(ref, "metadata", rows.json_text(metadata), conditions, now_us)

    def set_policies(self, ref: ContainerRef, policies: Mapping[str, AccessPolicy], conditions: Conditions, now_us: int) -> Container:
        """Replace the stored access policies."""
        return self._change_container(ref, "policies", rows.json_text(policies), conditions, now_us)

    def delete_container(self, ref: ContainerRef, conditions: Conditions) -> None:
        """Remove a container: at once for everybody, then its blobs in batches."""

        def work(tx: sqlite3.Connection) -> int:
            row = rows.container_row(tx, ref)
            check_write(conditions, rows.version_of(row))
            tx.execute("UPDATE containers SET name = NULL WHERE id = ?", (row["id"],))
            return int(row["id"])

        self._purge(self._catalogue.write(work))

    def list_containers(self, account: str, query: ListQuery) -> ContainerPage:
        """One page of containers; the delimiter is not used."""
        end = listing.after_prefix(query.prefix)
        with self._catalogue.reading() as tx:
            found = tx.execute(
                "SELECT * FROM containers WHERE account = ? AND name >= ? AND (? IS NULL OR name < ?) ORDER BY name LIMIT ?",
                (account, max(query.start, query.prefix), end, end, query.limit + 1),
            ).fetchall()
        entries = [rows.as_container(row) for row in found]
        return ContainerPage(entries[: query.limit], entries[query.limit].name if len(entries) > query.limit else None)

    def list_blobs(self, ref: ContainerRef, query: ListQuery) -> BlobPage:
        """One page of blobs and common prefixes."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref)["id"]
            return listing.page(query, lambda start, end: rows.scan_blobs(tx, container, start, end))

    # reading blobs

    def blob(self, ref: BlobRef) -> Blob:
        """Properties of a blob."""
        with self._catalogue.reading() as tx:
            return rows.as_blob(rows.blob_row(tx, ref))

    def read(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> LocalReader:
        """Open bytes begin..end (exclusive); the reader keeps its version whatever happens to the blob."""
        with self._files.lock, self._catalogue.reading() as tx:
            row = rows.blob_row(tx, ref)
            blob = rows.as_blob(row)
            check_read(conditions, blob.etag, blob.modified_us)
            if begin and begin >= blob.length:
                raise BlobError("InvalidRange", headers={"content-range": f"bytes */{blob.length}"})
            stop = blob.length if end is None else min(end, blob.length)
            reader = LocalReader.open(tx, self._files, row["id"], blob, begin, stop)
        try:
            reader.check()
        except BaseException:
            reader.close()
            raise
        return reader

    def blocks(self, ref: BlobRef) -> tuple[Blob | None, Sequence[Block], Sequence[Block]]:
        """The blob (None when nothing is committed), its committed and its uncommitted blocks."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref.parent)["id"]
            row = rows.find_blob(tx, container, ref.name)
            staged = tx.execute("SELECT block, length FROM staged WHERE container = ? AND name = ? ORDER BY block", (container, ref.name))
            waiting = [Block(r["block"], r["length"]) for r in staged]
            if row is None:
                if not waiting:
                    raise BlobError("BlobNotFound")
                return None, [], waiting
            if row["kind"] != BlobKind.BLOCK:
                raise BlobError("InvalidBlobType")
            parts = tx.execute("SELECT block, length FROM segments WHERE blob = ? AND block IS NOT NULL ORDER BY start", (row["id"],))
            return rows.as_blob(row), [Block(r["block"], r["length"]) for r in parts], waiting

    # writing blobs

    def put(self, ref: BlobRef, draft: BlobDraft, conditions: Conditions) -> PutUpload:
        """Begin a new version of a blob; fails early when the commit is sure to fail."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref.parent)["id"]
            check_write(conditions, rows.version_of(rows.find_blob(tx, container, ref.name)))
        return PutUpload(self._catalogue, self._files, ref, draft, conditions)

    def stage(self, ref: BlobRef, block_id: str) -> StageUpload:
        """Begin an uncommitted block."""
        self.container(ref.parent)
        return StageUpload(self._catalogue, self._files, ref, block_id)

    def append(self, ref: BlobRef, conditions: Conditions, position: int | None, max_size: int | None) -> AppendUpload:
        """Begin a block at the end of an append blob."""
        self.blob(ref)
        return AppendUpload(self._catalogue, self._files, ref, conditions, position, max_size)

    def commit_blocks(
        self, ref: BlobRef, blocks: Sequence[tuple[BlockSource, str]], draft: BlobDraft, conditions: Conditions, now_us: int
    ) -> Blob:
        """Make the blob out of blocks; uncommitted blocks that are not named go."""

        def work(tx: sqlite3.Connection) -> tuple[Blob, set[str]]:
            container = rows.container_row(tx, ref.parent)["id"]
            old = rows.find_blob(tx, container, ref.name)
            check_write(conditions, rows.version_of(old))
            if old is not None and old["kind"] != BlobKind.BLOCK:
                raise BlobError("InvalidBlobType")
            chosen = rows.chosen_blocks(tx, container, ref.name, old["id"] if old is not None else None, blocks)
            gone = rows.drop_staged(tx, container, ref.name) + (rows.drop_version(tx, old["id"]) if old is not None else [])
            blob = rows.insert_blob(tx, container, ref.name, draft, sum(length for _, length, _ in chosen), now_us)
            start = 0
            for block, length, file in chosen:
                rows.insert_segment(tx, blob, start, length, file, None, block)
                start += length
            return rows.as_blob(rows.blob_row(tx, ref)), set(gone) - {file for _, _, file in chosen}

        return self._and_give_up(work)

    def copy(self, source: BlobRef, ref: BlobRef, metadata: Mapping[str, str] | None, conditions: Conditions, now_us: int) -> Blob:
        """Make `ref` the same as `source`, sharing the bytes on disk. Raises CannotVerifyCopySource when there is no source."""
        kept, parts = self._linked(source)
        draft = BlobDraft(kept.kind, kept.headers, kept.metadata if metadata is None else metadata)

        def work(tx: sqlite3.Connection) -> tuple[Blob, list[str]]:
            container = rows.container_row(tx, ref.parent)["id"]
            old = rows.find_blob(tx, container, ref.name)
            check_write(conditions, rows.version_of(old))
            gone = rows.drop_staged(tx, container, ref.name) + (rows.drop_version(tx, old["id"]) if old is not None else [])
            blob = rows.insert_blob(tx, container, ref.name, draft, kept.length, now_us)
            for part, file in parts:
                rows.insert_segment(tx, blob, part.start, part.length, file, part.inline, part.block)
            tx.execute("UPDATE blobs SET block_count = ? WHERE id = ?", (kept.block_count, blob))
            return rows.as_blob(rows.blob_row(tx, ref)), gone

        try:
            return self._and_give_up(work)
        except (BlobError, OSError):
            self._files.give_up(file for _, file in parts if file is not None)
            raise

    def _linked(self, source: BlobRef) -> tuple[Blob, list[tuple[Part, str | None]]]:
        """A blob and its parts, each with a second name for its data file; all of one version."""
        try:
            reader = self.read(source, Conditions(), 0, None)
        except BlobError as error:
            if error.status != 404:
                raise
            raise BlobError("CannotVerifyCopySource") from error
        parts: list[tuple[Part, str | None]] = []
        try:
            for part in reader.parts:
                parts.append((part, None if part.file is None else self._files.link(part.file)))
        except OSError:
            self._files.give_up(file for _, file in parts if file is not None)
            raise
        finally:
            reader.close()
        return reader.blob, parts

    def set_headers(self, ref: BlobRef, headers: ContentHeaders, conditions: Conditions, now_us: int) -> Blob:
        """Replace all content headers; what is not given is cleared."""
        return self._change_blob(ref, "headers", rows.json_text(headers), conditions, now_us)

    def set_metadata(self, ref: BlobRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Blob:
        """Replace the metadata."""
        return self._change_blob(ref, "metadata", rows.json_text(metadata), conditions, now_us)

    def delete_blob(self, ref: BlobRef, conditions: Conditions) -> None:
        """Remove a blob and its uncommitted blocks."""

        def work(tx: sqlite3.Connection) -> tuple[None, list[str]]:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version_of(row))
            return None, rows.drop_version(tx, row["id"]) + rows.drop_staged(tx, row["container"], ref.name)

        self._and_give_up(work)

    def expire_blocks(self, before_us: int) -> int:
        """Remove uncommitted blocks staged before that time (the service keeps them for a week); gives their number."""

        def work(tx: sqlite3.Connection) -> tuple[int, list[str]]:
            gone = [row["file"] for row in tx.execute("SELECT file FROM staged WHERE modified < ?", (before_us,))]
            tx.execute("DELETE FROM staged WHERE modified < ?", (before_us,))
            return len(gone), gone

        return self._and_give_up(work)

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the catalogue back to the disk; how many, fewer when there are no more."""
        return self._catalogue.shrink(pages)

    # inside

    def _and_give_up(self, work: Callable[[sqlite3.Connection], tuple[T, Sequence[str] | set[str]]]) -> T:
        result, gone = self._catalogue.write(work)
        self._files.give_up(gone)
        return result

    def _change_blob(self, ref: BlobRef, column: str, value: str, conditions: Conditions, now_us: int) -> Blob:
        def work(tx: sqlite3.Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version_of(row))
            return rows.touch_blob(tx, row, now_us, **{column: value})

        return self._catalogue.write(work)

    def _change_container(self, ref: ContainerRef, column: str, value: str, conditions: Conditions, now_us: int) -> Container:
        def work(tx: sqlite3.Connection) -> Container:
            row = rows.container_row(tx, ref)
            check_write(conditions, rows.version_of(row))
            tx.execute(
                f"UPDATE containers SET {column} = ?, etag = ?, modified = ? WHERE id = ?", (value, rows.new_etag(), now_us, row["id"])
            )
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)

    def _purge(self, container: int) -> None:
        finished = False
        while not finished:
            files, finished = self._catalogue.write(lambda tx: rows.purge_some(tx, container, _PURGE_BATCH))
            self._files.give_up(files)

    def _recover(self) -> None:
        """Finish what a crash interrupted."""
        with self._catalogue.reading() as tx:
            deleted = [row["id"] for row in tx.execute("SELECT id FROM containers WHERE name IS NULL")]
        for container in deleted:
            self._purge(container)
        self._files.sweep(self._known_files)

    def check(self) -> int:
        """Look for blobs whose parts are not as long as they are, and log them; how many. Ends early when the store is closed."""
        hurt = after = 0
        while not self._closed:
            with self._catalogue.reading() as tx:
                found, last = rows.incomplete(tx, after, _CHECK_BATCH)
            for blob in found:
                hurt += 1
                if hurt <= _MOST_LOGGED:
                    log.error("blob has lost its content: account=%s container=%s name=%r length=%d stored=%d; upload it again", *blob)
            if last is None:
                break
            after = last
        if hurt:
            log.error("%d blobs have lost content; reading them is answered with BlobContentLost", hurt)
        return hurt

    def _known_files(self, low: str, high: str) -> list[str]:
        with self._catalogue.reading() as tx:
            sql = "SELECT file FROM {} WHERE file >= ? AND file < ?"
            return [row["file"] for table in ("segments", "staged") for row in tx.execute(sql.format(table), (low, high))]
