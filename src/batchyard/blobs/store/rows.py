"""SQL of the local blob store: small functions over one connection, inside the caller's transaction."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import msgspec

from batchyard.blobs.base import (
    CURRENT,
    NO_EXTRAS,
    AccessPolicy,
    Blob,
    BlobDraft,
    BlobError,
    BlobKind,
    BlobRef,
    BlockSource,
    Container,
    ContainerRef,
    ContentHeaders,
    Deleted,
    Extras,
    Lease,
    ListQuery,
)
from batchyard.blobs.conditions import Version
from batchyard.blobs.leases import kept
from batchyard.blobs.store import slots

MAX_STAGED_BLOCKS = 100_000

_BLOB_COLUMNS = "id, container, name, snapshot, kind, length, etag, modified, created, headers, metadata, block_count, extras"
_BLOB_COLUMNS += ", version, deleted, until"
SEAM = "\0"
"""Between a name and a snapshot, in what starts a page of a listing with snapshots; no name holds it."""
_metadata = msgspec.json.Decoder(dict[str, str])
_policies = msgspec.json.Decoder(dict[str, AccessPolicy])
_headers = msgspec.json.Decoder(ContentHeaders)
_extras = msgspec.json.Decoder(Extras)
_lease = msgspec.json.Decoder(Lease)
_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> str:
    """JSON of a value type."""
    return _encode(value).decode()


def new_etag() -> str:
    """An entity tag, unquoted; random, so that two writes in one tick of a test clock differ."""
    return f"0x{secrets.randbits(60) | 1 << 60:X}"


def as_container(row: sqlite3.Row) -> Container:
    """Container of its row."""
    metadata, policies = _metadata.decode(row["metadata"]), _policies.decode(row["policies"])
    lease = _lease.decode(row["lease"]) if row["lease"] else None
    deleted = Deleted(row["deleted"], row["until"], row["version"]) if row["until"] is not None else None
    name = row["name"] if deleted is None else row["deleted_name"]
    return Container(name, row["etag"], row["modified"], metadata, policies, lease, row["access"], deleted)


def as_blob(row: sqlite3.Row) -> Blob:
    """Blob of its row."""
    return Blob(
        row["name"],
        BlobKind(row["kind"]),
        row["length"],
        row["etag"],
        row["modified"],
        row["created"],
        _headers.decode(row["headers"]),
        _metadata.decode(row["metadata"]),
        row["block_count"],
        extras_of(row),
        slots.snapshot_in(row["snapshot"]),
        row["version"],
        None if row["until"] is None else Deleted(row["deleted"], row["until"]),
        row["snapshot"],
    )


def extras_of(row: sqlite3.Row) -> Extras:
    """What few blobs have, of the blob of a row."""
    return _extras.decode(row["extras"]) if row["extras"] else NO_EXTRAS


def _extras_text(extras: Extras) -> str | None:
    return None if extras == NO_EXTRAS else json_text(extras)


def container_row(tx: sqlite3.Connection, ref: ContainerRef) -> sqlite3.Row:
    """Row of a container; raises ContainerNotFound."""
    row = tx.execute("SELECT * FROM containers WHERE account = ? AND name = ?", (ref.account, ref.container)).fetchone()
    if row is None:
        raise BlobError("ContainerNotFound")
    found: sqlite3.Row = row
    return found


def find_blob(tx: sqlite3.Connection, container: int, name: str, snapshot: str | None = None) -> sqlite3.Row | None:
    """Row of a committed blob or of one of its snapshots, None when there is none."""
    row: sqlite3.Row | None = tx.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name = ? AND snapshot = ?", (container, name, snapshot or CURRENT)
    ).fetchone()
    return row


def find_version(tx: sqlite3.Connection, container: int, name: str, version: str) -> sqlite3.Row | None:
    """Row of a version of a blob, None when there is none or it was deleted."""
    where = f"container = ? AND name = ? AND (snapshot = ? OR snapshot = '{CURRENT}') AND version = ?"
    row: sqlite3.Row | None = tx.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", (container, name, slots.VERSION + version, version)
    ).fetchone()
    return row


def slots_of(tx: sqlite3.Connection, container: int, name: str) -> list[sqlite3.Row]:
    """`id` and `snapshot` of all rows of a name."""
    return tx.execute("SELECT id, snapshot FROM blobs WHERE container = ? AND name = ? ORDER BY snapshot", (container, name)).fetchall()


def move(tx: sqlite3.Connection, blob: int, slot: str) -> None:
    """Put a row that was deleted back into another slot."""
    tx.execute("UPDATE blobs SET snapshot = ?, deleted = NULL, until = NULL WHERE id = ?", (slot, blob))


def blob_of_id(tx: sqlite3.Connection, blob: int) -> sqlite3.Row | None:
    """Row of a blob in a container that is there."""
    where = "id = ? AND container IN (SELECT id FROM containers WHERE name IS NOT NULL)"
    row: sqlite3.Row | None = tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", (blob,)).fetchone()
    return row


def blob_row(tx: sqlite3.Connection, ref: BlobRef) -> sqlite3.Row:
    """Row of a committed blob; raises ContainerNotFound or BlobNotFound."""
    container = container_row(tx, ref.parent)["id"]
    row = find_version(tx, container, ref.name, ref.version) if ref.version else find_blob(tx, container, ref.name, ref.snapshot)
    if row is None:
        raise BlobError("BlobNotFound")
    return row


def version_of(row: sqlite3.Row | None) -> Version | None:
    """What conditions are checked against."""
    return None if row is None else version(row)


def version(row: sqlite3.Row) -> Version:
    """What conditions are checked against, of a blob that there is."""
    extras = extras_of(row)
    pending = extras.copied is not None and extras.copied.status == "pending"
    return Version(row["etag"], row["modified"], extras.lease, extras.tags, pending=pending)


def container_version(row: sqlite3.Row) -> Version:
    """What conditions are checked against, of a container."""
    return Version(row["etag"], row["modified"], _lease.decode(row["lease"]) if row["lease"] else None, what="Container")


def scan_blobs(tx: sqlite3.Connection, container: int, start: str, end: str | None, query: ListQuery) -> Generator[Blob, None, None]:
    """Blobs in name order from `start` up to (not including) `end`; each behind what else is wanted of its name."""
    name, _, snapshot = start.partition(SEAM)
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
    if query.many:
        sql, first = f"(name, snapshot) >= (?, ?) AND {slots.listed(query)}", [name, snapshot]
    else:
        sql, first = f"name >= ? AND snapshot = '{CURRENT}'", [name]
    where = f"container = ? AND {sql} {upper} ORDER BY name, snapshot"
    cursor = tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", [container, *first, *values])
    try:
        for row in cursor:
            yield as_blob(row)
    finally:
        cursor.close()


def blobs_between(tx: sqlite3.Connection, container: int, start: str, end: str | None, limit: int) -> list[sqlite3.Row]:
    """Rows of the first blobs in name order from `start` up to (not including) `end`."""
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
    where = f"container = ? AND name >= ? AND snapshot = '{CURRENT}' {upper} ORDER BY name LIMIT ?"
    return tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", [container, start, *values, limit]).fetchall()


def expired(tx: sqlite3.Connection, now_us: int, limit: int) -> list[tuple[str, sqlite3.Row]]:
    """Blobs whose time is over, with the accounts they are in."""
    found = tx.execute(
        "SELECT b.id, c.account FROM blobs b JOIN containers c ON c.id = b.container"
        f" WHERE b.expires <= ? AND b.snapshot = '{CURRENT}' AND c.name IS NOT NULL ORDER BY b.expires LIMIT ?",
        (now_us, limit),
    ).fetchall()
    known = ((one["account"], blob_of_id(tx, one["id"])) for one in found)
    return [(account, row) for account, row in known if row is not None]


def place_of(blob: Blob, query: ListQuery) -> str:
    """Where a listing starts that goes on with this blob."""
    return f"{blob.name}{SEAM}{blob.slot}" if query.many else blob.name


def scan_uncommitted(tx: sqlite3.Connection, container: int, start: str, end: str | None) -> Generator[Blob, None, None]:
    """Names that have uncommitted blocks and no blob, in order, as blobs without content."""
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
    cursor = tx.execute(
        f"SELECT name, MAX(modified) AS modified FROM staged WHERE container = ? AND name >= ? {upper} AND NOT EXISTS (SELECT 1 FROM blobs"
        f" WHERE container = staged.container AND name = staged.name AND snapshot = '{CURRENT}') GROUP BY name ORDER BY name",
        [container, start.partition(SEAM)[0], *values],
    )
    try:
        for row in cursor:
            yield Blob(row["name"], BlobKind.BLOCK, 0, "", row["modified"], row["modified"], ContentHeaders(), {})
    finally:
        cursor.close()


def incomplete(tx: sqlite3.Connection, after: int, limit: int) -> tuple[list[tuple[str, str, str, int, int]], int | None]:
    """Among the next `limit` blobs those whose parts are not as long as they are: (account, container, name, length, stored).

    The second value is where to go on, None behind the last blob.
    """
    found = tx.execute(
        "SELECT id, container, name, kind, length, (SELECT COALESCE(SUM(length), 0) FROM segments WHERE blob = blobs.id) AS stored"
        " FROM blobs WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()
    hurt = []
    for row in found:
        if row["length"] != row["stored"] and row["kind"] != BlobKind.PAGE:
            box = tx.execute("SELECT account, name FROM containers WHERE id = ? AND name IS NOT NULL", (row["container"],)).fetchone()
            if box is not None:
                hurt.append((box["account"], box["name"], row["name"], row["length"], row["stored"]))
    return hurt, found[-1]["id"] if len(found) == limit else None


def insert_blob(
    tx: sqlite3.Connection,
    container: int,
    name: str,
    draft: BlobDraft,
    length: int,
    now_us: int,
    *,
    created_us: int | None = None,
    snapshot: str = CURRENT,
    etag: str | None = None,
    version: str | None = None,
) -> int:
    """Add the row of a new version and return its id."""
    cursor = tx.execute(
        "INSERT INTO blobs"
        " (container, name, snapshot, kind, length, etag, modified, created, headers, metadata, block_count, extras, version)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
        (
            container,
            name,
            snapshot,
            draft.kind,
            length,
            etag or new_etag(),
            now_us,
            now_us if created_us is None else created_us,
            json_text(draft.headers),
            json_text(draft.metadata),
            _extras_text(draft.extras),
            version,
        ),
    )
    assert cursor.lastrowid is not None
    _write_tags(tx, container, cursor.lastrowid, draft.extras.tags)
    return cursor.lastrowid


def insert_segment(
    tx: sqlite3.Connection,
    blob: int,
    start: int,
    length: int,
    file: str | None,
    inline: bytes | None,
    block: str | None = None,
    skip: int = 0,
) -> None:
    """Add a piece of content: a data file or, when small, the bytes."""
    sql = "INSERT INTO segments (blob, start, length, block, file, bytes, skip) VALUES (?, ?, ?, ?, ?, ?, ?)"
    tx.execute(sql, (blob, start, length, block, file, inline, skip))


def files_of(tx: sqlite3.Connection, blob: int) -> list[str]:
    """Names of the data files of a version."""
    return _files(tx.execute("SELECT file FROM segments WHERE blob = ? AND file IS NOT NULL", (blob,)))


def drop_version(tx: sqlite3.Connection, blob: int) -> list[str]:
    """Remove a version and return the names of its data files, which the caller gives up after the commit."""
    files = files_of(tx, blob)
    tx.execute("DELETE FROM segments WHERE blob = ?", (blob,))
    tx.execute("DELETE FROM tags WHERE blob = ?", (blob,))
    tx.execute("DELETE FROM blobs WHERE id = ?", (blob,))
    return files


def drop_staged(tx: sqlite3.Connection, container: int, name: str) -> list[str]:
    """Remove the uncommitted blocks of a blob and return their data files."""
    where = (container, name)
    files = _files(tx.execute("SELECT file FROM staged WHERE container = ? AND name = ?", where))
    if files:
        tx.execute("DELETE FROM staged WHERE container = ? AND name = ?", where)
    return files


def purge_some(tx: sqlite3.Connection, container: int, limit: int) -> tuple[list[str], bool]:
    """Remove up to `limit` blobs or staged blocks of a deleted container; gives their files and whether that was all."""
    files: list[str] = []
    blobs = tx.execute("SELECT id FROM blobs WHERE container = ? LIMIT ?", (container, limit)).fetchall()
    for row in blobs:
        files += drop_version(tx, row["id"])
    staged = tx.execute("SELECT rowid, file FROM staged WHERE container = ? LIMIT ?", (container, limit)).fetchall()
    tx.executemany("DELETE FROM staged WHERE rowid = ?", [(row["rowid"],) for row in staged])
    files += _files(staged)
    finished = not blobs and not staged
    if finished:
        tx.execute("DELETE FROM containers WHERE id = ? AND name IS NULL", (container,))
    return files, finished


def stage_block(tx: sqlite3.Connection, container: int, name: str, block: str, length: int, file: str, now_us: int) -> list[str]:
    """Add an uncommitted block; gives the file of one with the same id that it replaces."""
    count, first = tx.execute("SELECT COUNT(*), MIN(block) FROM staged WHERE container = ? AND name = ?", (container, name)).fetchone()
    if first is not None and len(first) != len(block):
        raise BlobError("InvalidBlobOrBlock", "The block IDs of a blob must all have the same length.")
    key = (container, name, block)
    replaced = _files(tx.execute("SELECT file FROM staged WHERE container = ? AND name = ? AND block = ?", key))
    if not replaced and count >= MAX_STAGED_BLOCKS:
        raise BlobError("UncommittedBlockCountExceedsLimit")
    tx.execute("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?)", (*key, length, now_us, file))
    return replaced


def chosen_blocks(
    tx: sqlite3.Connection, container: int, name: str, old: int | None, blocks: Sequence[tuple[BlockSource, str]]
) -> list[tuple[str, int, str]]:
    """(block id, length, file) of each entry of a block list; raises InvalidBlockList."""
    in_staged = tx.execute("SELECT block, length, file FROM staged WHERE container = ? AND name = ?", (container, name))
    staged = {row["block"]: row for row in in_staged}
    in_blob = tx.execute("SELECT block, length, file FROM segments WHERE blob = ? AND block IS NOT NULL", (old,))
    committed = {row["block"]: row for row in in_blob}
    places: Mapping[BlockSource, Mapping[str, sqlite3.Row]] = {
        BlockSource.UNCOMMITTED: staged,
        BlockSource.COMMITTED: committed,
        BlockSource.LATEST: {**committed, **staged},
    }
    try:
        rows = [places[source][block] for source, block in blocks]
    except KeyError:
        raise BlobError("InvalidBlockList") from None
    return [(row["block"], row["length"], row["file"]) for row in rows]


def touch_blob(tx: sqlite3.Connection, row: sqlite3.Row, now_us: int, **columns: str | int) -> Blob:
    """Change columns of a blob together with its tag and time."""
    extras = extras_of(row)
    if kept(extras.lease, now_us) is not extras.lease:
        write_extras(tx, row, replace(extras, lease=None))
    return _change(tx, row, {"etag": new_etag(), "modified": now_us, **columns})


def write_extras(tx: sqlite3.Connection, row: sqlite3.Row, extras: Extras) -> Blob:
    """Change what few blobs have, which is no new version of the blob."""
    if extras.tags != extras_of(row).tags:
        tx.execute("DELETE FROM tags WHERE blob = ?", (row["id"],))
        _write_tags(tx, row["container"], row["id"], extras.tags)
    return _change(tx, row, {"extras": _extras_text(extras)})


def _change(tx: sqlite3.Connection, row: sqlite3.Row, values: Mapping[str, str | int | None]) -> Blob:
    tx.execute(f"UPDATE blobs SET {', '.join(f'{name} = :{name}' for name in values)} WHERE id = :id", {**values, "id": row["id"]})
    changed = find_blob(tx, row["container"], row["name"], row["snapshot"])
    assert changed is not None
    return as_blob(changed)


def _write_tags(tx: sqlite3.Connection, container: int, blob: int, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [(container, blob, key, value) for key, value in tags.items()]
        tx.executemany("INSERT INTO tags (container, blob, key, value) VALUES (?, ?, ?, ?)", rows)


def snapshots_of(tx: sqlite3.Connection, container: int, name: str) -> list[sqlite3.Row]:
    """Rows of a blob's snapshots, the oldest first."""
    sql = f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name = ? AND {slots.SNAPSHOTS} ORDER BY snapshot"
    return tx.execute(sql, (container, name)).fetchall()


def scan_tagged(
    tx: sqlite3.Connection, account: str, container: str | None, after: tuple[str, str]
) -> Generator[tuple[str, Blob], None, None]:
    """Blobs that have tags, with their containers' names, ordered by both, behind the one named."""
    where, values = ("AND c.name = ?", [container]) if container is not None else ("", [])
    boxes = tx.execute(
        f"SELECT id, name FROM containers c WHERE account = ? AND name >= ? {where} ORDER BY name", [account, after[0], *values]
    ).fetchall()
    for box in boxes:
        names = tx.execute(
            f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name > ? AND snapshot = '{CURRENT}' AND extras IS NOT NULL"
            " AND EXISTS (SELECT 1 FROM tags WHERE blob = blobs.id) ORDER BY name",
            (box["id"], after[1] if box["name"] == after[0] else ""),
        )
        with closing(names):
            for row in names:
                yield box["name"], as_blob(row)


def _files(rows: Iterable[sqlite3.Row]) -> list[str]:
    return [row["file"] for row in rows]
