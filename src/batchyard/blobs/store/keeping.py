"""What stays of blobs that were overwritten or deleted: earlier versions, and for a while what was deleted."""

from __future__ import annotations

from dataclasses import replace

from batchyard.blobs import leases
from batchyard.blobs.base import CURRENT, DIRECTORY, BlobDraft, BlobError, BlobRef, Conditions, Container, ContainerRef
from batchyard.blobs.conditions import Version, check_write
from batchyard.blobs.leases import kept
from batchyard.blobs.services import Properties, Retention
from batchyard.blobs.store import rows, services, slots
from batchyard.blobs.store.giving import Giving
from batchyard.blobs.store.services import properties_of
from batchyard.drivers.base import Connection, Row

_DAY_US = 86_400_000_000


class Keeping(Giving):
    """The part of a store that is about deleting, and about what can be had back."""

    def delete_blob(self, ref: BlobRef, conditions: Conditions, snapshots: str | None = None) -> bool:
        """Remove a blob and its uncommitted blocks, or one snapshot or version; whether that was for good.

        `snapshots`: "include" or "only"; without, there may be none.
        """

        def work(tx: Connection) -> tuple[bool, list[str]]:
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
    def remove(tx: Connection, row: Row, found: Properties, snapshots: str | None, now_us: int) -> tuple[bool, list[str]]:
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

        def work(tx: Connection) -> None:
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

        def work(tx: Connection) -> Container:
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

        def work(tx: Connection) -> tuple[bool, list[str]]:
            tx.execute("UPDATE containers SET until = NULL, deleted_name = NULL WHERE until <= ?", (now_us,))
            due = tx.execute("SELECT id FROM blobs WHERE until <= ? ORDER BY until LIMIT ?", (now_us, limit)).fetchall()
            gone = [file for row in due for file in rows.drop_version(tx, row["id"])]
            over = rows.expired(tx, now_us, limit)
            for account, row in over:
                _, files = self.remove(tx, row, properties_of(tx, account), "include", now_us)
                gone += files
            return limit in (len(due), len(over)), gone

        due = self.next_expiry()
        return due is not None and due <= now_us and self._and_give_up(work)

    def next_expiry(self) -> int | None:
        """When the first of what does not stay is due, None when there is nothing."""
        with self._catalogue.reading() as tx:
            columns = (("until", "blobs"), ("until", "containers"), ("expires", "blobs"))
            found = [tx.execute(f"SELECT min({column}) FROM {table}").fetchone()[0] for column, table in columns]
        return min((int(at) for at in found if at is not None), default=None)


def make_room(tx: Connection, found: Properties, row: Row, now_us: int) -> list[str]:
    """Take a blob out of the way of the one that overwrites it; the files that nobody needs any more."""
    if found.versions:
        become_version(tx, row)
        return []
    if not found.deleted_blobs.enabled:
        return rows.drop_version(tx, row["id"])
    _without_lease(tx, row)
    moment = slots.free_moment(_slots(tx, row), now_us)
    _keep(tx, row, slots.DELETED + moment, found.deleted_blobs, now_us)
    return []


def become_version(tx: Connection, row: Row) -> None:
    """Make a blob an earlier version; one that was written before there were versions gets the time of its last change."""
    _without_lease(tx, row)
    version = row["version"] or slots.free_moment(_slots(tx, row), row["modified"])
    tx.execute("UPDATE blobs SET snapshot = ?, version = ? WHERE id = ?", (slots.VERSION + version, version, row["id"]))


def let_go(tx: Connection, row: Row, policy: Retention, now_us: int) -> list[str]:
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


def make_way(tx: Connection, container: int, name: str, now_us: int) -> None:
    """Before a blob is made where one was deleted and is kept: that one becomes a deleted snapshot."""
    row = rows.find_blob(tx, container, name, slots.DELETED_BLOB)
    if row is not None:
        _out_of_the_way(tx, row, now_us)


def _out_of_the_way(tx: Connection, row: Row, now_us: int) -> None:
    moment = slots.free_moment(_slots(tx, row), now_us)
    tx.execute("UPDATE blobs SET snapshot = ? WHERE id = ?", (slots.DELETED + moment, row["id"]))


def new_version(tx: Connection, found: Properties, container: int, name: str, now_us: int) -> str | None:
    """The id of a version that is being written; None where no versions are kept."""
    if not found.versions:
        return None
    return slots.free_moment((row["snapshot"] for row in rows.slots_of(tx, container, name)), now_us)


def _keep(tx: Connection, row: Row, slot: str, policy: Retention, now_us: int) -> None:
    until = now_us + (policy.days or 1) * _DAY_US
    tx.execute("UPDATE blobs SET snapshot = ?, deleted = ?, until = ? WHERE id = ?", (slot, now_us, until, row["id"]))


def _slots(tx: Connection, row: Row) -> list[str]:
    return [found["snapshot"] for found in rows.slots_of(tx, row["container"], row["name"])]


def _without_lease(tx: Connection, row: Row) -> None:
    extras = rows.extras_of(row)
    if extras.lease is not None:
        rows.write_extras(tx, row, replace(extras, lease=None))


def replace_blob(
    tx: Connection, ref: BlobRef, draft: BlobDraft, length: int, conditions: Conditions, now_us: int
) -> tuple[Row, list[str], bool]:
    """The row of a new blob in place of the one that there is, if any, the data files that nobody needs any more, and whether that is kept.

    Raises unless the conditions hold. A lease outlives what it is on.
    """
    answer, hidden = services.asked_for(tx, ref.account), rows.deleted_asked(tx, ref)
    container, old = rows.placed(tx, replace(ref, snapshot=None, version=None))
    found, deleted = services.properties_in(answer), hidden.fetchone()
    check_write(conditions, rows.version_of(old))
    gone = [rows.clear_staged(tx, container, ref.name)]
    version, stays = new_version(tx, found, container, ref.name, now_us), False
    if old is not None:
        draft = replace(draft, extras=replace(draft.extras, lease=kept(rows.extras_of(old).lease, now_us)))
        stays = found.versions or found.deleted_blobs.enabled
        if stays:
            make_room(tx, found, old, now_us)
        else:
            gone.append(rows.clear_version(tx, old["id"]))
    elif deleted is not None:
        _out_of_the_way(tx, deleted, now_us)
    _make_parents(tx, found, ref, container, now_us)
    made = rows.insert_blob(tx, container, ref.name, draft, length, now_us, version=version)
    return made, [file for answer in gone for file in rows.files_in(answer)], stays


def make_parents(tx: Connection, ref: BlobRef, now_us: int) -> None:
    """The directories above a blob, where the account has a hierarchy and they have no blob yet."""
    _make_parents(tx, properties_of(tx, ref.account), ref, rows.container_row(tx, ref.parent)["id"], now_us)


def _make_parents(tx: Connection, found: Properties, ref: BlobRef, container: int, now_us: int) -> None:
    if "/" not in ref.name or not found.hierarchical:
        return
    parts = ref.name.split("/")
    for count in range(len(parts) - 1, 0, -1):
        name = "/".join(parts[:count])
        if not name or rows.find_blob(tx, container, name) is not None:
            return
        make_way(tx, container, name, now_us)
        rows.insert_blob(tx, container, name, BlobDraft(metadata={DIRECTORY: "true"}), 0, now_us)
