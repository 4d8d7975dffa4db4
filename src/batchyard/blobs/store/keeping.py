"""What stays of blobs that were overwritten or deleted: earlier versions, and for a while what was deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from batchyard.blobs import leases
from batchyard.blobs.base import CURRENT, DIRECTORY, BlobDraft, BlobError, BlobRef, Conditions, Container, ContainerRef
from batchyard.blobs.conditions import Version, check_write
from batchyard.blobs.leases import kept
from batchyard.blobs.services import Properties, Retention
from batchyard.blobs.store import rows, slots
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.files import DataFiles
from batchyard.blobs.store.services import properties_of

T = TypeVar("T")

_DAY_US = 86_400_000_000


class Keeping:
    """The part of a store that is about deleting, and about what can be had back."""

    _catalogue: Catalogue
    _files: DataFiles

    def delete_blob(self, ref: BlobRef, conditions: Conditions, snapshots: str | None = None) -> bool:
        """Remove a blob and its uncommitted blocks, or one snapshot or version; whether that was for good.

        `snapshots`: "include" or "only"; without, there may be none.
        """

        def work(tx: sqlite3.Connection) -> tuple[bool, list[str]]:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version(row))
            found = properties_of(tx, ref.account)
            if ref.snapshot is not None or ref.version is not None:
                if row["snapshot"] == CURRENT:
                    raise BlobError("OperationNotAllowedOnRootBlob")
                return not found.deleted_blobs.enabled, let_go(tx, row, found.deleted_blobs, conditions.now_us)
            return self.remove(tx, row, found, snapshots, conditions.now_us)

        return self._and_give_up(work)

    @staticmethod
    def remove(tx: sqlite3.Connection, row: sqlite3.Row, found: Properties, snapshots: str | None, now_us: int) -> tuple[bool, list[str]]:
        """Delete a blob, its snapshots or both; whether that was for good, and the data files that nobody needs any more."""
        taken = rows.snapshots_of(tx, row["container"], row["name"])
        if taken and snapshots is None:
            raise BlobError("SnapshotsPresent")
        gone = [file for one in taken for file in let_go(tx, one, found.deleted_blobs, now_us)]
        if snapshots != "only":
            gone += rows.drop_staged(tx, row["container"], row["name"])
            if found.versions:
                become_version(tx, row)
            else:
                gone += let_go(tx, row, found.deleted_blobs, now_us)
        return not (found.versions or found.deleted_blobs.enabled), gone

    def undelete_blob(self, ref: BlobRef) -> None:
        """Have back what was deleted of a blob and is still kept. Raises BlobNotFound when there is nothing of that name."""

        def work(tx: sqlite3.Connection) -> None:
            container = rows.container_row(tx, ref.parent)["id"]
            there = {row["snapshot"]: row["id"] for row in rows.slots_of(tx, container, ref.name)}
            if not there:
                raise BlobError("BlobNotFound")
            for slot, blob in there.items():
                if slot == slots.DELETED_BLOB and CURRENT in there:
                    continue
                if slot.startswith(slots.DELETED):
                    rows.move(tx, blob, slot.removeprefix(slots.DELETED))
                elif slot.startswith(slots.DELETED_VERSION):
                    rows.move(tx, blob, slots.VERSION + slot.removeprefix(slots.DELETED_VERSION))

        self._catalogue.write(work)

    def restore_container(self, ref: ContainerRef, name: str, version: str) -> Container:
        """Have a deleted container back. Raises ContainerNotFound, and ContainerAlreadyExists when its name is taken."""

        def work(tx: sqlite3.Connection) -> Container:
            taken = tx.execute("SELECT 1 FROM containers WHERE account = ? AND name = ?", (ref.account, ref.container)).fetchone()
            if taken is not None:
                raise BlobError("ContainerAlreadyExists")
            sql = "SELECT id FROM containers WHERE account = ? AND deleted_name = ? AND version = ? AND name IS NULL"
            row = tx.execute(sql, (ref.account, name, version)).fetchone()
            if row is None:
                raise BlobError("ContainerNotFound")
            cleared = "deleted_name = NULL, deleted = NULL, until = NULL, version = NULL"
            tx.execute(f"UPDATE containers SET name = ?, {cleared} WHERE id = ?", (ref.container, row["id"]))
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)

    def expire_deleted(self, limit: int, now_us: int) -> bool:
        """Remove up to `limit` of what was kept, or there, for long enough; whether there may be more. Containers go on to `purge`."""

        def work(tx: sqlite3.Connection) -> tuple[bool, list[str]]:
            tx.execute("UPDATE containers SET until = NULL, deleted_name = NULL WHERE until <= ?", (now_us,))
            due = tx.execute("SELECT id FROM blobs WHERE until <= ? ORDER BY until LIMIT ?", (now_us, limit)).fetchall()
            gone = [file for row in due for file in rows.drop_version(tx, row["id"])]
            over = rows.expired(tx, now_us, limit)
            for account, row in over:
                _, files = self.remove(tx, row, properties_of(tx, account), "include", now_us)
                gone += files
            return limit in (len(due), len(over)), gone

        return self._and_give_up(work)

    def next_expiry(self) -> int | None:
        """When the first of what does not stay is due, None when there is nothing."""
        with self._catalogue.reading() as tx:
            columns = (("until", "blobs"), ("until", "containers"), ("expires", "blobs"))
            found = [tx.execute(f"SELECT min({column}) FROM {table}").fetchone()[0] for column, table in columns]
        return min((int(at) for at in found if at is not None), default=None)

    def _and_give_up(self, work: Callable[[sqlite3.Connection], tuple[T, Sequence[str] | set[str]]]) -> T:
        result, gone = self._catalogue.write(work)
        self._files.give_up(gone)
        return result


def make_room(tx: sqlite3.Connection, account: str, row: sqlite3.Row, now_us: int) -> tuple[list[str], bool]:
    """Take a blob out of the way of the one that overwrites it; the files that nobody needs any more, and whether it is kept."""
    found = properties_of(tx, account)
    if found.versions:
        become_version(tx, row)
        return [], True
    if not found.deleted_blobs.enabled:
        return rows.drop_version(tx, row["id"]), False
    _without_lease(tx, row)
    moment = slots.free_moment(_slots(tx, row), now_us)
    _keep(tx, row, slots.DELETED + moment, found.deleted_blobs, now_us)
    return [], True


def become_version(tx: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Make a blob an earlier version; one that was written before there were versions gets the time of its last change."""
    _without_lease(tx, row)
    version = row["version"] or slots.free_moment(_slots(tx, row), row["modified"])
    tx.execute("UPDATE blobs SET snapshot = ?, version = ? WHERE id = ?", (slots.VERSION + version, version, row["id"]))


def let_go(tx: sqlite3.Connection, row: sqlite3.Row, policy: Retention, now_us: int) -> list[str]:
    """Delete a blob, snapshot or version, for good or for a while; the files that nobody needs any more."""
    if not policy.enabled:
        return rows.drop_version(tx, row["id"])
    slot = row["snapshot"]
    deleted = slots.DELETED_VERSION + slot.removeprefix(slots.VERSION) if slot.startswith(slots.VERSION) else slots.DELETED + slot
    _without_lease(tx, row)
    _keep(tx, row, deleted, policy, now_us)
    return []


def check_lease(now: Version, lease_id: str | None, now_us: int) -> None:
    """Raise unless who names this lease, or none, may write."""
    leases.check_write(now.lease, lease_id, now_us, now.what)


def make_way(tx: sqlite3.Connection, container: int, name: str, now_us: int) -> None:
    """Before a blob is made where one was deleted and is kept: that one becomes a deleted snapshot."""
    row = rows.find_blob(tx, container, name, slots.DELETED_BLOB)
    if row is not None:
        moment = slots.free_moment(_slots(tx, row), now_us)
        tx.execute("UPDATE blobs SET snapshot = ? WHERE id = ?", (slots.DELETED + moment, row["id"]))


def new_version(tx: sqlite3.Connection, account: str, container: int, name: str, now_us: int) -> str | None:
    """The id of a version that is being written; None where no versions are kept."""
    if not properties_of(tx, account).versions:
        return None
    return slots.free_moment((row["snapshot"] for row in rows.slots_of(tx, container, name)), now_us)


def _keep(tx: sqlite3.Connection, row: sqlite3.Row, slot: str, policy: Retention, now_us: int) -> None:
    until = now_us + (policy.days or 1) * _DAY_US
    tx.execute("UPDATE blobs SET snapshot = ?, deleted = ?, until = ? WHERE id = ?", (slot, now_us, until, row["id"]))


def _slots(tx: sqlite3.Connection, row: sqlite3.Row) -> list[str]:
    return [found["snapshot"] for found in rows.slots_of(tx, row["container"], row["name"])]


def _without_lease(tx: sqlite3.Connection, row: sqlite3.Row) -> None:
    extras = rows.extras_of(row)
    if extras.lease is not None:
        rows.write_extras(tx, row, replace(extras, lease=None))


def replace_blob(
    tx: sqlite3.Connection, ref: BlobRef, draft: BlobDraft, length: int, conditions: Conditions, now_us: int
) -> tuple[int, list[str], bool]:
    """The id of a new blob in place of the one that there is, if any, the data files that nobody needs any more, and whether that is kept.

    Raises unless the conditions hold. A lease outlives what it is on.
    """
    container = rows.container_row(tx, ref.parent)["id"]
    old = rows.find_blob(tx, container, ref.name)
    check_write(conditions, rows.version_of(old))
    gone, stays = rows.drop_staged(tx, container, ref.name), False
    version = new_version(tx, ref.account, container, ref.name, now_us)
    if old is not None:
        draft = replace(draft, extras=replace(draft.extras, lease=kept(rows.extras_of(old).lease, now_us)))
        more, stays = make_room(tx, ref.account, old, now_us)
        gone += more
    else:
        make_way(tx, container, ref.name, now_us)
    make_parents(tx, ref, now_us)
    return rows.insert_blob(tx, container, ref.name, draft, length, now_us, version=version), gone, stays


def make_parents(tx: sqlite3.Connection, ref: BlobRef, now_us: int) -> None:
    """The directories above a blob, where the account has a hierarchy and they have no blob yet."""
    if "/" not in ref.name or not properties_of(tx, ref.account).hierarchical:
        return
    container, parts = rows.container_row(tx, ref.parent)["id"], ref.name.split("/")
    for count in range(len(parts) - 1, 0, -1):
        name = "/".join(parts[:count])
        if not name or rows.find_blob(tx, container, name) is not None:
            return
        make_way(tx, container, name, now_us)
        rows.insert_blob(tx, container, name, BlobDraft(metadata={DIRECTORY: "true"}), 0, now_us)
