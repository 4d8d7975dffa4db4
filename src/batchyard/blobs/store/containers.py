"""Containers of a local store, and what lists their blobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing

from batchyard.blobs.base import (
    AccessPolicy,
    Blob,
    BlobError,
    BlobPage,
    Conditions,
    Container,
    ContainerPage,
    ContainerRef,
    Lease,
    ListQuery,
)
from batchyard.blobs.conditions import check_change, check_write
from batchyard.blobs.leases import check_named
from batchyard.blobs.store import listing, rows
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.tags import CONTAINER, Matches
from batchyard.drivers.base import Connection


class Containers:
    """The part of a store that is about containers."""

    _catalogue: Catalogue
    on_deleted: Callable[[], object] = staticmethod(lambda: None)
    """Told when a container was deleted, whose blobs wait for `purge`."""

    def create_container(self, ref: ContainerRef, metadata: Mapping[str, str], now_us: int) -> Container:
        """Add an empty container."""

        def work(tx: Connection) -> Container:
            if rows.find_container(tx, ref) is not None:
                raise BlobError("ContainerAlreadyExists")
            tx.execute(
                "INSERT INTO containers (account, name, etag, modified, metadata, policies) VALUES (?, ?, ?, ?, ?, '{}')",
                (ref.account, ref.container, rows.new_etag(), now_us, rows.json_text(metadata)),
            )
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
        """Remove a container: at once for everybody; what it held goes in batches, see `purge`."""

        def work(tx: Connection) -> None:
            row = rows.container_row(tx, ref)
            check_write(conditions, rows.container_version(row))
            tx.execute("UPDATE containers SET name = NULL WHERE id = ?", (row["id"],))

        self._catalogue.write(work)
        self.on_deleted()

    def list_containers(self, account: str, query: ListQuery) -> ContainerPage:
        """One page of containers; the delimiter is not used."""
        end = listing.after_prefix(query.prefix)
        upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
        with self._catalogue.reading() as tx:
            found = tx.execute(
                f"SELECT {rows.BOX_COLUMNS} FROM containers WHERE account = ? AND name >= ? {upper} ORDER BY name LIMIT ?",
                (account, max(query.start, query.prefix), *values, query.limit + 1),
            ).fetchall()
        entries = [rows.as_container(row) for row in found]
        return ContainerPage(entries[: query.limit], entries[query.limit].name if len(entries) > query.limit else None)

    def list_blobs(self, ref: ContainerRef, query: ListQuery) -> BlobPage:
        """One page of blobs and common prefixes."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref)["id"]

            def scan(start: str, end: str | None) -> Generator[Blob, None, None]:
                found = rows.scan_blobs(tx, container, start, end, snapshots=query.snapshots)
                if not query.uncommitted:
                    return found
                return listing.merged(found, rows.scan_uncommitted(tx, container, start, end))

            return listing.page(query, scan)

    def find_tagged(
        self, account: str, container: str | None, wanted: Matches, start: str, limit: int
    ) -> tuple[list[tuple[str, Blob]], str | None]:
        """One page of blobs whose tags are as wanted, each with its container, and where the next one starts."""
        box, _, name = start.partition(rows.SEAM)
        found: list[tuple[str, Blob]] = []
        with self._catalogue.reading() as tx, closing(rows.scan_tagged(tx, account, container, (box, name))) as tagged:
            for place, blob in tagged:
                if not wanted({**blob.extras.tags, CONTAINER: place}):
                    continue
                found.append((place, blob))
                if len(found) == limit:
                    return found, f"{place}{rows.SEAM}{blob.name}"
        return found, None

    def lease_container(self, ref: ContainerRef, conditions: Conditions, act: Callable[[Lease | None], Lease | None]) -> Container:
        """Replace the lease of a container by what `act` makes of it, which may raise; its tag and time stay."""

        def work(tx: Connection) -> Container:
            row = rows.container_row(tx, ref)
            check_change(conditions, rows.container_version(row))
            lease = act(rows.container_version(row).lease)
            tx.execute("UPDATE containers SET lease = ? WHERE id = ?", (None if lease is None else rows.json_text(lease), row["id"]))
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)

    def _change_container(self, ref: ContainerRef, column: str, value: str, conditions: Conditions, now_us: int) -> Container:
        def work(tx: Connection) -> Container:
            row = rows.container_row(tx, ref)
            check_named(rows.container_version(row).lease, conditions.lease_id, now_us, "Container")
            check_change(conditions, rows.container_version(row))
            tx.execute(
                f"UPDATE containers SET {column} = ?, etag = ?, modified = ? WHERE id = ?", (value, rows.new_etag(), now_us, row["id"])
            )
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)
