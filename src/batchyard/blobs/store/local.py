"""A blob store in a directory: a catalogue says what there is, `data/` holds the bytes under random names.

Invariant: metadata and content change in one transaction, after the bytes are on disk. A crash leaves the old or the new blob; data
files that the catalogue does not name are swept. With a catalogue in a file, `catalogue.db`, one process owns the directory; with one
in PostgreSQL servers share both.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from batchyard.blobs.base import (
    ALWAYS,
    ARCHIVE,
    CURRENT,
    DIRECTORY,
    Blob,
    BlobDraft,
    BlobError,
    BlobKind,
    BlobRef,
    Block,
    BlockSource,
    Conditions,
    ContentHeaders,
    CopyDraft,
    Upload,
)
from batchyard.blobs.conditions import check_change, check_read, check_write
from batchyard.blobs.errors import Fenced, of_source
from batchyard.blobs.leases import check_named
from batchyard.blobs.store import keeping, rows, slots
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.containers import Containers
from batchyard.blobs.store.fetches import FetchRows
from batchyard.blobs.store.files import DataFiles
from batchyard.blobs.store.marks import Marks, as_copied
from batchyard.blobs.store.pages import Pages
from batchyard.blobs.store.paths import Paths
from batchyard.blobs.store.readers import LocalReader, Part
from batchyard.blobs.store.schema import SCHEMA
from batchyard.blobs.store.services import Services, properties_of
from batchyard.blobs.store.sharing import PLACE, SharedFiles
from batchyard.blobs.store.uploads import AppendUpload, PutUpload, StageUpload, commit_all
from batchyard.disk.trees import sync_directory
from batchyard.drivers.base import Connection, Row

T = TypeVar("T")
Twin = tuple[Blob, list[tuple[Part, str | None]]]
"""A blob and its parts, each with a second name for its data file."""

log = logging.getLogger(__name__)

_CHECK_BATCH = 1000
_MOST_LOGGED = 100
_TRIES = 5


class LocalBlobStore(Containers, FetchRows, Marks, Pages, Paths, Services):
    """BlobStore over a directory."""

    def __init__(self, directory: Path, catalogue: str | None = None) -> None:
        """`catalogue` is the URL of one in PostgreSQL; then all of its servers see this directory. Raises RuntimeError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock: int | None = None
        self._closed = False
        if catalogue is None:
            self._lock = _locked(directory)
            self._catalogue = Catalogue(directory / "catalogue.db", SCHEMA)
            self._files = DataFiles(directory / "data")
            self._recover()
        else:
            self._catalogue = Catalogue(catalogue, SCHEMA)
            try:
                self._files = SharedFiles(directory, self._catalogue)
            except BaseException:
                self._catalogue.close()
                raise
        sync_directory(directory)
        sync_directory(directory.parent)

    def close(self) -> None:
        """Let go of the directory; nothing but a check may be under way."""
        self._closed = True
        self._files.close()
        self._catalogue.close()
        if self._lock is not None:
            os.close(self._lock)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile no bytes go that a look into the catalogue finds."""
        with self._files.looking() as pin:
            pin.hold(("",))
        try:
            yield
        finally:
            pin.release()

    # reading blobs

    def blob(self, ref: BlobRef) -> Blob:
        """Properties of a blob or a snapshot."""
        with self._catalogue.reading() as tx:
            return rows.as_blob(rows.blob_row(tx, ref))

    def read(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> LocalReader:
        """Open bytes begin..end (exclusive); the reader keeps its version whatever happens to the blob."""
        met: int | None = None
        while True:
            found, reader = self._open(ref, conditions, begin, end)
            try:
                reader.check()
                return reader
            except BlobError:
                reader.close()
                # Only a server that was taken for dead meets files of a version that went meanwhile: then there is another one, or none.
                if not self._catalogue.shared or found == met:
                    raise
                met = found
            except BaseException:
                reader.close()
                raise

    def _open(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> tuple[int, LocalReader]:
        """The id of a version, and a reader of it."""
        with self._files.looking() as pin, self._catalogue.reading() as tx:
            row = rows.blob_row(tx, ref)
            blob = rows.as_blob(row)
            check_read(conditions, rows.version(row))
            if blob.extras.tier == ARCHIVE:
                raise BlobError("BlobArchived")
            if begin and begin >= blob.length:
                raise BlobError("InvalidRange", headers={"content-range": f"bytes */{blob.length}"})
            stop = blob.length if end is None else min(end, blob.length)
            return row["id"], LocalReader.open(tx, self._files, pin, (row["id"], blob), begin, stop)

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
            check_write(conditions, rows.version_of(rows.placed(tx, ref)[1]))
        return PutUpload(self._catalogue, self._files, ref, draft, conditions)

    def commit_all(self, uploads: Sequence[Upload[Blob]], now_us: int) -> list[Blob | BaseException]:
        """Commit what `put` began, in one transaction."""
        return commit_all(self._catalogue, cast("Sequence[PutUpload]", uploads), now_us)

    def stage(self, ref: BlobRef, block_id: str, conditions: Conditions = ALWAYS) -> StageUpload:
        """Begin an uncommitted block; of the conditions only the lease counts."""
        self.container(ref.parent)
        return StageUpload(self._catalogue, self._files, ref, block_id, conditions)

    def append(self, ref: BlobRef, conditions: Conditions, position: int | None, max_size: int | None) -> AppendUpload:
        """Begin a block at the end of an append blob."""
        self.blob(ref)
        return AppendUpload(self._catalogue, self._files, ref, conditions, position, max_size)

    def commit_blocks(
        self, ref: BlobRef, blocks: Sequence[tuple[BlockSource, str]], draft: BlobDraft, conditions: Conditions, now_us: int
    ) -> Blob:
        """Make the blob out of blocks; uncommitted blocks that are not named go."""
        links: list[str] = []

        def work(tx: Connection) -> tuple[Blob, set[str]]:
            container, old = rows.placed(tx, ref)
            check_write(conditions, rows.version_of(old))
            if old is not None and old["kind"] != BlobKind.BLOCK:
                raise BlobError("InvalidBlobType")
            chosen = rows.chosen_blocks(tx, container, ref.name, old["id"] if old is not None else None, blocks)
            length = sum(length for _, length, _ in chosen)
            blob, gone, stays = keeping.replace_blob(tx, ref, draft, length, conditions, now_us)
            if old is not None and stays:  # what is kept has the same data files, and each needs names of its own
                twins = self._twins(tx, links, set(rows.files_of(tx, old["id"])) & {file for _, _, file in chosen})
                chosen = [(block, length, twins.get(file, file)) for block, length, file in chosen]
            start = 0
            for block, length, file in chosen:
                rows.insert_segment(tx, blob["id"], start, length, file, None, block)
                start += length
            return rows.as_blob(blob), set(gone) - {file for _, _, file in chosen}

        return self._with_links(links, lambda: self._and_give_up(work))

    def _twins(self, tx: Connection, links: list[str], files: set[str]) -> dict[str, str]:
        """Second names of data files, which are noted in `links` as soon as they are there."""
        twins: dict[str, str] = {}
        for file in files:
            twins[file] = self._files.link(file)
            links.append(twins[file])
        self._files.vouch(tx, twins.values())
        return twins

    def copy(self, source: BlobRef, ref: BlobRef, draft: CopyDraft, given: tuple[Conditions, Conditions], now_us: int) -> Blob:
        """Make `ref` the same as `source`, sharing the bytes on disk; `given` are the conditions of the source and of `ref`.

        Raises CannotVerifyCopySource when there is no source.
        """
        of_source, conditions = given
        kept, parts = self._linked(source, of_source)
        made = as_copied(kept, draft, now_us)

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            row, gone, _ = keeping.replace_blob(tx, ref, made, kept.length, conditions, now_us)
            blob = row["id"]
            self._insert(tx, blob, parts)
            tx.execute("UPDATE blobs SET block_count = ? WHERE id = ?", (kept.block_count, blob))
            return rows.as_blob(rows.blob_row(tx, ref)), gone

        return self._with_links(_names(parts), lambda: self._and_give_up(work))

    def snapshot(self, ref: BlobRef, metadata: Mapping[str, str] | None, conditions: Conditions, now_us: int) -> Blob:
        """Keep what a blob is now under a time; raises unless it is still that when its parts have a second name."""
        kept, parts = self._linked(ref, Conditions())

        def work(tx: Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            check_change(conditions, rows.version(row))
            check_named(rows.extras_of(row).lease, conditions.lease_id, now_us, "Blob")
            if row["etag"] != kept.etag:
                raise BlobError("ConditionNotMet", "The blob changed while its snapshot was taken.")
            made = BlobDraft(kept.kind, kept.headers, metadata or kept.metadata, replace(kept.extras, lease=None))
            moment = slots.free_moment((found["snapshot"] for found in rows.slots_of(tx, row["container"], ref.name)), now_us)
            blob = rows.insert_blob(
                tx,
                row["container"],
                ref.name,
                made,
                kept.length,
                kept.modified_us,
                created_us=kept.created_us,
                snapshot=moment,
                etag=kept.etag,
            )["id"]
            self._insert(tx, blob, parts)
            tx.execute("UPDATE blobs SET block_count = ? WHERE id = ?", (kept.block_count, blob))
            return rows.as_blob(rows.blob_row(tx, replace(ref, snapshot=moment)))

        return self._with_links(_names(parts), lambda: self._catalogue.write(work))

    def _insert(self, tx: Connection, blob: int, parts: Sequence[tuple[Part, str | None]]) -> None:
        self._files.vouch(tx, [file for _, file in parts if file is not None])
        for part, file in parts:
            if not part.is_hole:
                rows.insert_segment(tx, blob, part.start, part.length, file, part.inline, part.block, part.skip)

    def _with_links(self, links: Sequence[str], work: Callable[[], T]) -> T:
        """Run what makes use of second names of data files; they go when it fails."""
        try:
            return work()
        except (BlobError, OSError, Fenced):
            self._files.remove(links)
            raise

    def _linked(self, source: BlobRef, conditions: Conditions) -> tuple[Blob, list[tuple[Part, str | None]]]:
        """A blob and its parts, each with a second name for its data file; all of one version."""
        try:
            reader = self.read(source, conditions, 0, None)
        except BlobError as error:
            raise of_source(error) from error
        parts: list[tuple[Part, str | None]] = []
        try:
            for part in reader.parts:
                parts.append((part, None if part.file is None else self._files.link(part.file)))
        except OSError:
            self._files.remove(_names(parts))
            raise
        finally:
            reader.close()
        return reader.blob, parts

    def set_headers(self, ref: BlobRef, headers: ContentHeaders, conditions: Conditions, now_us: int) -> Blob:
        """Replace all content headers; what is not given is cleared."""
        return self._change_blob(ref, "headers", rows.json_text(headers), conditions, now_us)

    def set_metadata(self, ref: BlobRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Blob:
        """Replace the metadata, which makes a new version where versions are kept; a directory stays one."""
        for _ in range(_TRIES):
            twin = self._linked(ref, Conditions()) if self.properties(ref.account).versions else None

            def work(tx: Connection, twin: Twin | None = twin) -> Blob | None:
                row = rows.blob_row(tx, ref)
                check_write(conditions, rows.version(row))
                mark = {DIRECTORY: "true"} if rows.as_blob(row).is_directory else {}
                text = rows.json_text({**mark, **metadata})
                found = properties_of(tx, ref.account)
                if not found.versions or row["snapshot"] != CURRENT:
                    return rows.touch_blob(tx, row, now_us, metadata=text)
                if twin is None or twin[0].etag != row["etag"]:
                    return None
                version = keeping.new_version(tx, found, row["container"], ref.name, now_us)
                self._keep_as_version(tx, row, twin)
                return rows.touch_blob(tx, row, now_us, metadata=text, version=version or "")

            links = [] if twin is None else _names(twin[1])
            changed = self._with_links(links, lambda: self._catalogue.write(work))
            if changed is not None:
                return changed
            self._files.remove(links)
        raise BlobError("ConditionNotMet", "The blob changed while its metadata was set.")

    def _keep_as_version(self, tx: Connection, row: Row, twin: Twin) -> None:
        """Put a second row of what a blob is now, with the data files' second names, among its versions."""
        blob, parts = twin
        taken = [found["snapshot"] for found in rows.slots_of(tx, row["container"], row["name"])]
        version = row["version"] or slots.free_moment(taken, row["modified"])
        made = BlobDraft(blob.kind, blob.headers, blob.metadata, replace(blob.extras, lease=None))
        copy = rows.insert_blob(
            tx,
            row["container"],
            blob.name,
            made,
            blob.length,
            blob.modified_us,
            created_us=blob.created_us,
            snapshot=slots.VERSION + version,
            etag=blob.etag,
            version=version,
        )["id"]
        self._insert(tx, copy, parts)
        tx.execute("UPDATE blobs SET block_count = ? WHERE id = ?", (blob.block_count, copy))

    def expire_blocks(self, before_us: int) -> int:
        """Remove uncommitted blocks staged before that time (the service keeps them for a week); gives their number."""

        def work(tx: Connection) -> tuple[int, list[str]]:
            gone = [row["file"] for row in tx.execute("SELECT file FROM staged WHERE modified < ?", (before_us,))]
            tx.execute("DELETE FROM staged WHERE modified < ?", (before_us,))
            return len(gone), gone

        return self._and_give_up(work)

    def purge(self, limit: int) -> bool:
        """Remove up to `limit` blobs of deleted containers for good; whether there may be more."""

        def work(tx: Connection) -> tuple[bool, list[str]]:
            row = tx.execute("SELECT id FROM containers WHERE name IS NULL AND until IS NULL ORDER BY id LIMIT 1").fetchone()
            if row is None:
                return False, []
            files, _ = rows.purge_some(tx, row["id"], limit)
            return True, files

        return self._catalogue.finds("SELECT 1 FROM containers WHERE name IS NULL AND until IS NULL LIMIT 1") and self._and_give_up(work)

    def oldest_block(self) -> int | None:
        """When the oldest of the uncommitted blocks was staged, None when there are none."""
        with self._catalogue.reading() as tx:
            (at,) = tx.execute("SELECT min(modified) FROM staged").fetchone()
        return None if at is None else int(at)

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the catalogue back to the disk; how many, fewer when there are no more."""
        return self._catalogue.shrink(pages)

    # inside

    def _change_blob(self, ref: BlobRef, column: str, value: str, conditions: Conditions, now_us: int) -> Blob:
        def work(tx: Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version(row))
            return rows.touch_blob(tx, row, now_us, **{column: value})

        return self._catalogue.write(work)

    def _recover(self) -> None:
        """Remove the data files that a crash left behind; containers on their way out are `purge`'s."""
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


def _names(parts: Sequence[tuple[Part, str | None]]) -> list[str]:
    """Second names of the data files of parts."""
    return [file for _, file in parts if file is not None]


def _locked(directory: Path) -> int:
    """The lock of a directory that no other process has. Raises RuntimeError."""
    if (directory / PLACE).exists():
        raise RuntimeError(f"the bytes in {directory} belong to a catalogue in PostgreSQL, which this one does not know")
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RuntimeError(f"{directory} is in use by another process") from None
    return lock
