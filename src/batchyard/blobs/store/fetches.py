"""Copies from elsewhere that are under way: the blob is there, empty and pending, and a row says where its content comes from."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

from batchyard.blobs.base import Blob, BlobDraft, BlobError, BlobRef, Conditions, Fetch
from batchyard.blobs.store import keeping, rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles
from batchyard.blobs.store.giving import Giving
from batchyard.blobs.store.uploads import LocalUpload
from batchyard.drivers.base import Connection, Row


class FetchRows(Giving):
    """The part of a store that is about these."""

    def begin_fetch(self, ref: BlobRef, draft: BlobDraft, source: tuple[str, str], conditions: Conditions, most: int) -> Blob:
        """Make an empty blob whose content will come from a URL with an entity tag. Raises ServerBusy when `most` are under way."""

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            (count,) = tx.execute("SELECT COUNT(*) FROM fetches").fetchone()
            if count >= most:
                raise BlobError("ServerBusy", "Too many copies from elsewhere are under way.", headers={"retry-after": "5"})
            blob, gone, _ = keeping.replace_blob(tx, ref, draft, 0, conditions, conditions.now_us)
            copied = draft.extras.copied
            assert copied is not None
            tx.execute(
                "INSERT INTO fetches (id, blob, url, etag, owner) VALUES (?, ?, ?, ?, ?)",
                (copied.id, blob["id"], *source, self._files.owner),
            )
            return rows.as_blob(blob), gone

        return self._and_give_up(work)

    def fetches(self) -> list[str]:
        """Ids of the copies that were under way when their server ended, and are this one's from now on."""
        left = "owner NOT IN (SELECT id FROM session WHERE beats >= 0)"
        if not self._catalogue.finds(f"SELECT 1 FROM fetches WHERE {left} LIMIT 1"):
            return []
        sql = f"UPDATE fetches SET owner = ? WHERE {left} RETURNING id"
        return self._catalogue.write(lambda tx: [row["id"] for row in tx.execute(sql, (self._files.owner,))])

    def fetch(self, copy: str) -> Fetch | None:
        """A copy that is under way; None for one that was aborted or whose blob is gone."""
        with self._catalogue.reading() as tx:
            row = tx.execute("SELECT id, blob, url, etag FROM fetches WHERE id = ?", (copy,)).fetchone()
            if row is None or _target(tx, row["blob"]) is None:
                return None
            return Fetch(row["id"], row["url"], row["etag"])

    def note_progress(self, copy: str, progress: str) -> bool:
        """Say how far a copy is; whether it is still wanted."""

        def work(tx: Connection) -> bool:
            row = _pending(tx, copy)
            if row is None:
                return False
            extras = rows.extras_of(row)
            assert extras.copied is not None
            rows.write_extras(tx, row, replace(extras, copied=replace(extras.copied, progress=progress)))
            return True

        return self._catalogue.write(work)

    def fetched(self, copy: str) -> FetchUpload:
        """Begin to take in the content; commit raises NoPendingCopyOperation for a copy that was aborted meanwhile."""
        return FetchUpload(self._catalogue, self._files, copy)

    def end_fetch(self, copy: str, status: str, why: str, now_us: int) -> bool:
        """End a copy without content, `aborted` or `failed`; whether it was under way."""

        def work(tx: Connection) -> bool:
            row = _pending(tx, copy)
            if row is not None:
                extras = rows.extras_of(row)
                assert extras.copied is not None
                copied = replace(extras.copied, status=status, description=why or None, completed_us=now_us)
                rows.write_extras(tx, row, replace(extras, copied=copied))
            return bool(tx.execute("DELETE FROM fetches WHERE id = ?", (copy,)).rowcount) and row is not None

        return self._catalogue.write(work)

    def abort_copy(self, ref: BlobRef, copy: str, lease_id: str | None, now_us: int) -> None:
        """Abort a copy. Raises NoPendingCopyOperation, CopyIdMismatch, and what the lease says."""
        with self._catalogue.reading() as tx:
            row = rows.blob_row(tx, ref)
            now = rows.version(row)
            copied = rows.extras_of(row).copied
        if copied is None or copied.status != "pending":
            raise BlobError("NoPendingCopyOperation")
        if copied.id != copy:
            raise BlobError("CopyIdMismatch")
        keeping.check_lease(now, lease_id, now_us)
        if not self.end_fetch(copy, "aborted", "", now_us):
            raise BlobError("NoPendingCopyOperation")


class FetchUpload(LocalUpload[Blob]):
    """The content of a copy from elsewhere."""

    inline = True

    def __init__(self, catalogue: Catalogue, files: DataFiles, copy: str) -> None:
        super().__init__(catalogue, files, BlobRef("", "", ""))
        self._copy = copy

    def _enter(self, tx: Connection, now_us: int) -> tuple[Blob, list[str]]:
        row = _pending(tx, self._copy)
        if row is None:
            raise BlobError("NoPendingCopyOperation")
        if self.length:
            rows.insert_segment(tx, row["id"], 0, self.length, self._content.name, self._content.inline)
        extras = rows.extras_of(row)
        assert extras.copied is not None
        done = replace(extras.copied, status="success", progress=f"{self.length}/{self.length}", completed_us=now_us)
        rows.write_extras(tx, row, replace(extras, copied=done))
        tx.execute("DELETE FROM fetches WHERE id = ?", (self._copy,))
        row = _target(tx, row["id"])
        assert row is not None
        headers = replace(rows.as_blob(row).headers, md5=b64encode(self.md5()).decode())
        return rows.touch_blob(tx, row, now_us, length=self.length, headers=rows.json_text(headers)), []


def _target(tx: Connection, blob: int) -> Row | None:
    """The row of a blob whose container is still there."""
    return rows.blob_of_id(tx, blob)


def _pending(tx: Connection, copy: str) -> Row | None:
    """The row of the blob that a copy under way fills."""
    found = tx.execute("SELECT blob FROM fetches WHERE id = ?", (copy,)).fetchone()
    row = None if found is None else _target(tx, found["blob"])
    copied = None if row is None else rows.extras_of(row).copied
    return row if copied is not None and copied.id == copy and copied.status == "pending" else None
