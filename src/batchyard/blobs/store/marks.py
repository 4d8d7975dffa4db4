"""What is said of a blob without being a new version of it: its lease, its tags, its tier, its seal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from batchyard.blobs.base import ARCHIVE, Blob, BlobDraft, BlobError, BlobKind, BlobRef, Conditions, CopyDraft, Extras, Lease
from batchyard.blobs.conditions import Version, check_change, check_write
from batchyard.blobs.leases import check_named
from batchyard.blobs.store import rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.drivers.base import Connection, Row


class Marks:
    """The part of a store that is about these."""

    _catalogue: Catalogue

    def lease_blob(self, ref: BlobRef, conditions: Conditions, act: Callable[[Lease | None], Lease | None]) -> Blob:
        """Replace the lease of a blob by what `act` makes of it, which may raise."""
        return self._mark(ref, lambda extras, _: replace(extras, lease=act(extras.lease)), lambda now: check_change(conditions, now))

    def set_tags(self, ref: BlobRef, tags: Mapping[str, str], conditions: Conditions) -> Blob:
        """Replace all tags."""
        return self._mark(ref, lambda extras, _: replace(extras, tags=tags), lambda now: _check_lease_and_tags(conditions, now))

    def set_tier(self, ref: BlobRef, tier: str, conditions: Conditions, now_us: int) -> tuple[Blob, bool]:
        """Note the tier of a block blob; whether it came out of the archive, which takes no time here."""
        was_archived = False

        def change(extras: Extras, row: Row) -> Extras:
            nonlocal was_archived
            if row["kind"] != BlobKind.BLOCK:
                raise BlobError("InvalidBlobType")
            was_archived = extras.tier == ARCHIVE and tier != ARCHIVE
            return replace(extras, tier=tier, tier_changed_us=now_us)

        return self._mark(ref, change, lambda now: _check_lease_and_tags(conditions, now)), was_archived

    def set_expiry(self, ref: BlobRef, expiry: Callable[[int], int | None], conditions: Conditions) -> Blob:
        """Let a blob be gone from a time on, None for never, which `expiry` makes of when it was created."""

        def work(tx: Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            check_write(conditions, rows.version(row))
            at = expiry(row["created"])
            tx.execute("UPDATE blobs SET expires = ? WHERE id = ?", (at, row["id"]))
            return rows.write_extras(tx, row, replace(rows.extras_of(row), expires_us=at))

        return self._catalogue.write(work)

    def seal(self, ref: BlobRef, conditions: Conditions, position: int | None, now_us: int) -> Blob:
        """Let nothing more be added to an append blob."""

        def work(tx: Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            if row["kind"] != BlobKind.APPEND:
                raise BlobError("InvalidBlobType")
            check_write(conditions, rows.version(row))
            if position is not None and position != row["length"]:
                raise BlobError("AppendPositionConditionNotMet")
            if rows.extras_of(row).sealed:
                return rows.as_blob(row)
            rows.write_extras(tx, row, replace(rows.extras_of(row), sealed=True))
            return rows.touch_blob(tx, rows.blob_row(tx, ref), now_us)

        return self._catalogue.write(work)

    def _mark(self, ref: BlobRef, change: Callable[[Extras, Row], Extras], check: Callable[[Version], None]) -> Blob:
        def work(tx: Connection) -> Blob:
            row = rows.blob_row(tx, ref)
            check(rows.version(row))
            return rows.write_extras(tx, row, change(rows.extras_of(row), row))

        return self._catalogue.write(work)


def _check_lease_and_tags(conditions: Conditions, now: Version) -> None:
    """Who names a lease must hold it, and nobody has to; of the other conditions those on tags count."""
    check_named(now.lease, conditions.lease_id, conditions.now_us, now.what)
    if conditions.if_tags is not None and not conditions.if_tags(now.tags):
        raise BlobError("ConditionNotMet")


def as_copied(source: Blob, draft: CopyDraft, now_us: int) -> BlobDraft:
    """What a copy of that blob is. Raises InvalidBlobType when it may not be of that kind."""
    if draft.must_be is not None and source.kind is not draft.must_be:
        raise BlobError("InvalidBlobType")
    extras = Extras(
        copied=replace(draft.copied, progress=f"{source.length}/{source.length}"),
        tags=source.extras.tags if draft.tags is None else draft.tags,
        tier=draft.tier or (source.extras.tier if source.extras.tier != ARCHIVE else None),
        tier_changed_us=now_us if draft.tier else None,
        sequence=source.extras.sequence,
    )
    headers = source.headers if draft.headers is None else replace(draft.headers, md5=draft.headers.md5 or source.headers.md5)
    return BlobDraft(source.kind, headers, source.metadata if draft.metadata is None else draft.metadata, extras)
