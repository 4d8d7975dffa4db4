"""Blobs as files in directories: what needs more than one row at a time, each in one transaction.

A directory is a blob without content whose metadata say so, as Azure's tools write them, or just what other names begin with. Where the
account is hierarchical, the directories above every new blob are made with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchyard.blobs.base import CURRENT, Blob, BlobDraft, BlobError, BlobKind, BlobRef, Conditions
from batchyard.blobs.conditions import check_change, check_read, check_write
from batchyard.blobs.leases import check_write as check_lease
from batchyard.blobs.leases import is_locked
from batchyard.blobs.store import keeping, rows, slots
from batchyard.blobs.store.keeping import Keeping
from batchyard.blobs.store.listing import after_prefix
from batchyard.blobs.store.services import properties_of
from batchyard.drivers.base import Connection, Row


class Paths(Keeping):
    """The part of a store that is about these."""

    def path(self, ref: BlobRef) -> Blob | None:
        """A file or directory; None for a directory that is only what other names begin with. Raises BlobNotFound."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref.parent)["id"]
            row = rows.find_blob(tx, container, ref.name)
            if row is None and not _has_children(tx, container, ref.name):
                raise BlobError("BlobNotFound")
            return None if row is None else rows.as_blob(row)

    def make_directory(self, ref: BlobRef, draft: BlobDraft, conditions: Conditions, now_us: int) -> Blob:
        """Make a directory; one that is there stays, with new metadata. Raises PathAlreadyExists where there is a file."""

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            container = rows.container_row(tx, ref.parent)["id"]
            old = rows.find_blob(tx, container, ref.name)
            if old is not None and not rows.as_blob(old).is_directory:
                raise BlobError("PathAlreadyExists")
            if old is None and conditions.if_none_match == "*" and _has_children(tx, container, ref.name):
                raise BlobError("PathAlreadyExists")
            made, gone, _ = keeping.replace_blob(tx, ref, draft, 0, conditions, now_us)
            return rows.as_blob(made), gone

        return self._and_give_up(work)

    def rename(self, source: BlobRef, ref: BlobRef, given: tuple[Conditions, Conditions], now_us: int) -> Blob | None:
        """Give a file, or a directory with all below it, another name, in one step; `given` are the conditions of source and target.

        A file in the target's place is overwritten, an empty directory too. Raises SourcePathNotFound, PathAlreadyExists,
        InvalidSourceOrDestination.
        """

        def work(tx: Connection) -> tuple[Blob | None, list[str]]:
            move = _Move.of(tx, source, ref)
            move.check(tx, given, now_us)
            gone = move.make_room(tx, ref, now_us)
            move.carry_out(tx, now_us)
            keeping.make_parents(tx, ref, now_us)
            row = rows.find_blob(tx, move.target, ref.name)
            return None if row is None else rows.as_blob(row), gone

        return self._and_give_up(work)

    def delete_tree(self, ref: BlobRef, conditions: Conditions, limit: int, *, recursive: bool) -> bool:
        """Delete up to `limit` blobs of a directory, or a file; whether there may be more. Raises BlobNotFound, DirectoryNotEmpty."""

        def work(tx: Connection) -> tuple[bool, list[str]]:
            container = rows.container_row(tx, ref.parent)["id"]
            row = rows.find_blob(tx, container, ref.name) if ref.name else None
            if row is not None:
                check_write(conditions, rows.version(row))
            found = _below(tx, container, ref.name, limit)
            if row is None and not found and ref.name:
                raise BlobError("BlobNotFound")
            if found and not recursive:
                raise BlobError("DirectoryNotEmpty")
            properties, gone = properties_of(tx, ref.account), list[str]()
            for one in [*found, *([row] if row is not None and len(found) < limit else [])]:
                if one is not row:
                    check_lease(rows.extras_of(one).lease, None, conditions.now_us, "Blob")
                _, files = self.remove(tx, one, properties, "include", conditions.now_us)
                gone += files
            return len(found) >= limit, gone

        return self._and_give_up(work)

    def flush(self, ref: BlobRef, blocks: Sequence[str], end: int, conditions: Conditions, now_us: int) -> Blob:
        """Put staged blocks, named in their order, behind the content, which then has `end` bytes. Raises InvalidFlushPosition."""

        def work(tx: Connection) -> tuple[Blob, list[str]]:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version(row))
            if row["kind"] != BlobKind.BLOCK:
                raise BlobError("InvalidBlobType")
            where = "container = ? AND name = ? AND block = ?"
            at = row["length"]
            for block in blocks:
                found = tx.execute(f"SELECT length, file FROM staged WHERE {where}", (row["container"], ref.name, block)).fetchone()
                if found is None:
                    raise BlobError("InvalidFlushPosition")
                rows.insert_segment(tx, row["id"], at, found["length"], found["file"], None)
                tx.execute(f"DELETE FROM staged WHERE {where}", (row["container"], ref.name, block))
                at += found["length"]
            if at != end:
                raise BlobError("InvalidFlushPosition")
            gone = rows.drop_staged(tx, row["container"], ref.name)
            headers = rows.json_text(replace(rows.as_blob(row).headers, md5=None)) if blocks else row["headers"]
            return rows.touch_blob(tx, row, now_us, length=end, headers=headers), gone

        return self._and_give_up(work)


@dataclass(frozen=True, slots=True)
class _Move:
    """A rename: the rows of the two names."""

    origin: int
    target: int
    name: str
    to: str
    row: Row | None
    in_place: Row | None

    @classmethod
    def of(cls, tx: Connection, source: BlobRef, ref: BlobRef) -> _Move:
        """Look both up; raises SourcePathNotFound."""
        origin, target = rows.container_row(tx, source.parent)["id"], rows.container_row(tx, ref.parent)["id"]
        row = rows.find_blob(tx, origin, source.name)
        if row is None and not _has_children(tx, origin, source.name):
            raise BlobError("SourcePathNotFound")
        return cls(origin, target, source.name, ref.name, row, rows.find_blob(tx, target, ref.name))

    @property
    def is_file(self) -> bool:
        """Whether it is a file that moves."""
        return self.row is not None and not rows.as_blob(self.row).is_directory

    def check(self, tx: Connection, given: tuple[Conditions, Conditions], now_us: int) -> None:
        """Raise unless the conditions hold and the target is free, or may be overwritten."""
        of_source, of_target = given
        if self.origin == self.target and (self.name == self.to or self.to.startswith(f"{self.name}/")):
            raise BlobError("InvalidSourceOrDestination")
        if self.row is not None:
            check_lease(rows.extras_of(self.row).lease, of_source.lease_id, now_us, "Blob")
            check_read(replace(of_source, lease_id=None), rows.version(self.row))
            check_change(Conditions(), rows.version(self.row))
        check_write(of_target, rows.version_of(self.in_place))
        taken = _has_children(tx, self.target, self.to)
        directory = self.in_place is not None and rows.as_blob(self.in_place).is_directory
        if taken or (self.in_place is not None and directory == self.is_file):
            raise BlobError("PathAlreadyExists")
        if not self.is_file:
            for one in _leased(tx, self.origin, self.name, now_us):
                raise BlobError("LeaseIdMissing", f"There is a lease on {one!r}, which would move.")
            self._check_leftovers(tx)

    def _check_leftovers(self, tx: Connection) -> None:
        """Raise where what was deleted below the target, and is kept, stands in the way."""
        cut, moved = len(self.name) + 1, "b.name = ? || substr(a.name, CAST(? AS INTEGER))"
        found = tx.execute(
            f"SELECT 1 FROM blobs a WHERE a.container = ? AND a.name >= ? AND a.name < ? AND EXISTS (SELECT 1 FROM blobs b"
            f" WHERE b.container = ? AND {moved} AND b.snapshot = a.snapshot) LIMIT 1",
            (self.origin, f"{self.name}/", f"{self.name}0", self.target, self.to, cut),
        ).fetchone()
        if found is not None:
            raise BlobError("PathAlreadyExists", "What was deleted below the target is still kept.")

    def make_room(self, tx: Connection, ref: BlobRef, now_us: int) -> list[str]:
        """Take what is in the target's place away; the data files that nobody needs any more."""
        gone = rows.drop_staged(tx, self.target, self.to)
        if self.in_place is not None:
            return gone + keeping.make_room(tx, properties_of(tx, ref.account), self.in_place, now_us)
        keeping.make_way(tx, self.target, self.to, now_us)
        return gone

    def carry_out(self, tx: Connection, now_us: int) -> None:
        """Give the rows their new names; tags go along."""
        if self.row is not None:
            extras = rows.extras_of(self.row)
            if extras.lease is not None:  # it was on the name that is no more
                rows.write_extras(tx, self.row, replace(extras, lease=None))
            wanted = f"(snapshot = '{CURRENT}' OR {slots.SNAPSHOTS})" if self.in_place is None else f"snapshot = '{CURRENT}'"
            sql = f"UPDATE blobs SET container = ?, name = ? WHERE container = ? AND name = ? AND {wanted}"
            tx.execute(sql, (self.target, self.to, self.origin, self.name))
            tx.execute("UPDATE blobs SET etag = ?, modified = ? WHERE id = ?", (rows.new_etag(), now_us, self.row["id"]))
            tx.execute(
                "UPDATE staged SET container = ?, name = ? WHERE container = ? AND name = ?", (self.target, self.to, self.origin, self.name)
            )
        if not self.is_file:
            below = (f"{self.name}/", f"{self.name}0")  # "0" follows "/"
            moved = "container = ?, name = ? || substr(name, CAST(? AS INTEGER))"
            for table in ("blobs", "staged"):
                sql = f"UPDATE {table} SET {moved} WHERE container = ? AND name >= ? AND name < ?"
                tx.execute(sql, (self.target, self.to, len(self.name) + 1, self.origin, *below))
        if self.origin != self.target:
            tx.execute(
                "UPDATE tags SET container = ? WHERE container = ? AND blob IN (SELECT id FROM blobs WHERE container = ?)",
                (self.target, self.origin, self.target),
            )


def _has_children(tx: Connection, container: int, name: str) -> bool:
    return bool(_below(tx, container, name, 1))


def _below(tx: Connection, container: int, name: str, limit: int) -> list[Row]:
    """Rows of blobs below a directory, in order; an empty name is the container itself."""
    return rows.blobs_between(tx, container, f"{name}/" if name else "", after_prefix(f"{name}/") if name else None, limit)


def _leased(tx: Connection, container: int, name: str, now_us: int) -> list[str]:
    """Names of blobs below a directory that only the holder of a lease may move."""
    found = tx.execute(
        "SELECT name, extras FROM blobs WHERE container = ? AND name >= ? AND name < ? AND extras IS NOT NULL",
        (container, f"{name}/", f"{name}0"),
    )
    return [row["name"] for row in found if is_locked(rows.extras_of(row).lease, now_us)]
