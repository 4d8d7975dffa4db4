"""Containers of a local store, and what lists their blobs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace

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
from batchyard.blobs.store.services import properties_of
from batchyard.blobs.tags import CONTAINER, Matches
from batchyard.drivers.base import Connection, Row

_DAY_US = 86_400_000_000


class Containers:
    """The part of a store that is about containers."""

    _catalogue: Catalogue
    on_deleted: Callable[[], object] = staticmethod(lambda: None)
    """Told when a container was deleted, whose blobs wait for `purge`."""

    def create_container(self, ref: ContainerRef, metadata: Mapping[str, str], now_us: int, access: str | None = None) -> Container:
        """Add an empty container."""

        def work(tx: Connection) -> Container:
            if rows.find_container(tx, ref) is not None:
                raise BlobError("ContainerAlreadyExists")
            tx.execute(
                "INSERT INTO containers (account, name, etag, modified, metadata, policies, access) VALUES (?, ?, ?, ?, ?, '{}', ?)",
                (ref.account, ref.container, rows.new_etag(), now_us, rows.json_text(metadata), access),
            )
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)

    def container(self, ref: ContainerRef) -> Container:
        """Properties of a container."""
        with self._catalogue.reading() as tx:
            return rows.as_container(rows.container_row(tx, ref))

    def set_container_metadata(self, ref: ContainerRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Container:
        """Replace the metadata."""
        return self._change_container(ref, {"metadata": rows.json_text(metadata)}, conditions, now_us)

    def set_policies(
        self, ref: ContainerRef, policies: Mapping[str, AccessPolicy], conditions: Conditions, now_us: int, access: str | None = None
    ) -> Container:
        """Replace the stored access policies, and what readers without a key see."""
        return self._change_container(ref, {"policies": rows.json_text(policies), "access": access}, conditions, now_us)

    def delete_container(self, ref: ContainerRef, conditions: Conditions) -> None:
        """Remove a container: at once for everybody; what it held goes in batches, see `purge`."""

        def work(tx: Connection) -> None:
            row = rows.container_row(tx, ref)
            check_write(conditions, rows.container_version(row))
            policy = properties_of(tx, ref.account).deleted_containers
            if policy.enabled:
                until = conditions.now_us + (policy.days or 1) * _DAY_US
                sql = "UPDATE containers SET name = NULL, deleted_name = ?, deleted = ?, until = ?, version = ? WHERE id = ?"
                tx.execute(sql, (ref.container, conditions.now_us, until, secrets.token_hex(8).upper(), row["id"]))
            else:
                tx.execute("UPDATE containers SET name = NULL WHERE id = ?", (row["id"],))

        self._catalogue.write(work)
        self.on_deleted()

    def list_containers(self, account: str, query: ListQuery) -> ContainerPage:
        """One page of containers; the delimiter is not used."""
        end = listing.after_prefix(query.prefix)
        upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
        first, _, version = query.start.partition(rows.SEAM)
        with self._catalogue.reading() as tx:
            found = tx.execute(
                f"SELECT {rows.BOX_COLUMNS} FROM containers WHERE account = ? AND name >= ? {upper} ORDER BY name LIMIT ?",
                (account, max(first, query.prefix), *values, query.limit + 1),
            ).fetchall()
            found += self._deleted(tx, account, query, end) if query.deleted else []
        entries = sorted(map(rows.as_container, found), key=_place)
        entries = [entry for entry in entries if _place(entry) >= (first, version)]
        more = rows.SEAM.join(_place(entries[query.limit])).rstrip(rows.SEAM) if len(entries) > query.limit else None
        return ContainerPage(entries[: query.limit], more)

    @staticmethod
    def _deleted(tx: Connection, account: str, query: ListQuery, end: str | None) -> list[Row]:
        """Rows of deleted containers that are kept, from where the page starts; its first name may have been passed in part."""
        first, _, version = query.start.partition(rows.SEAM)
        upper, values = ("AND deleted_name < ?", [end]) if end is not None else ("", [])
        return tx.execute(
            f"SELECT {rows.BOX_COLUMNS} FROM containers WHERE account = ? AND (deleted_name > ? OR (deleted_name = ? AND version >= ?))"
            f" AND deleted_name >= ? {upper} ORDER BY deleted_name, version LIMIT ?",
            (account, first, first, version, query.prefix, *values, query.limit + 1),
        ).fetchall()

    def list_blobs(self, ref: ContainerRef, query: ListQuery) -> BlobPage:
        """One page of blobs and common prefixes."""
        with self._catalogue.reading() as tx:
            container = rows.container_row(tx, ref)["id"]

            def scan(start: str, end: str | None) -> Generator[Blob, None, None]:
                found = rows.scan_blobs(tx, container, start, end, query)
                if not query.uncommitted:
                    return found
                return listing.merged(found, rows.scan_uncommitted(tx, container, start, end))

            def is_marked(name: str) -> bool:
                row = rows.find_blob(tx, container, name)
                return row is not None and rows.as_blob(row).is_directory

            hierarchical = query.delimiter == "/" and properties_of(tx, ref.account).hierarchical
            return listing.page(replace(query, directories=hierarchical), scan, is_marked)

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

    def _change_container(self, ref: ContainerRef, values: Mapping[str, str | None], conditions: Conditions, now_us: int) -> Container:
        def work(tx: Connection) -> Container:
            row = rows.container_row(tx, ref)
            check_named(rows.container_version(row).lease, conditions.lease_id, now_us, "Container")
            check_change(conditions, rows.container_version(row))
            names = ", ".join(f"{column} = ?" for column in values)
            tx.execute(
                f"UPDATE containers SET {names}, etag = ?, modified = ? WHERE id = ?",
                (*values.values(), rows.new_etag(), now_us, row["id"]),
            )
            return rows.as_container(rows.container_row(tx, ref))

        return self._catalogue.write(work)


def _place(entry: Container) -> tuple[str, str]:
    """Where a container stands in a list: by its name, before those that had it and were deleted."""
    return entry.name, "" if entry.deleted is None else entry.deleted.version
