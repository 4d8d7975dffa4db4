"""SQL of the local blob store: small functions over one connection, inside the caller's transaction."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence

import msgspec

from batchyard.blobs.base import (
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
)

MAX_STAGED_BLOCKS = 100_000

_BLOB_COLUMNS = "id, container, name, kind, length, etag, modified, created, headers, metadata, block_count"
_metadata = msgspec.json.Decoder(dict[str, str])
_policies = msgspec.json.Decoder(dict[str, AccessPolicy])
_headers = msgspec.json.Decoder(ContentHeaders)
_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> str:
    """JSON of a value type."""
    return _encode(value).decode()


def new_etag() -> str:
    """An entity tag, unquoted; random, so that two writes in one tick of a test clock differ."""
    return f"0x{secrets.randbits(60) | 1 << 60:X}"


def as_container(row: sqlite3.Row) -> Container:
    """Container of its row."""
    return Container(row["name"], row["etag"], row["modified"], _metadata.decode(row["metadata"]), _policies.decode(row["policies"]))


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
    )


def container_row(tx: sqlite3.Connection, ref: ContainerRef) -> sqlite3.Row:
    """Row of a container; raises ContainerNotFound."""
    row = tx.execute("SELECT * FROM containers WHERE account = ? AND name = ?", (ref.account, ref.container)).fetchone()
    if row is None:
        raise BlobError("ContainerNotFound")
    found: sqlite3.Row = row
    return found


def find_blob(tx: sqlite3.Connection, container: int, name: str) -> sqlite3.Row | None:
    """Row of a committed blob, None when there is none."""
    row: sqlite3.Row | None = tx.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name = ?", (container, name)
    ).fetchone()
    return row


def blob_row(tx: sqlite3.Connection, ref: BlobRef) -> sqlite3.Row:
    """Row of a committed blob; raises ContainerNotFound or BlobNotFound."""
    row = find_blob(tx, container_row(tx, ref.parent)["id"], ref.name)
    if row is None:
        raise BlobError("BlobNotFound")
    return row


def version_of(row: sqlite3.Row | None) -> tuple[str, int] | None:
    """What conditions are checked against."""
    return None if row is None else (row["etag"], row["modified"])


def scan_blobs(tx: sqlite3.Connection, container: int, start: str, end: str | None) -> Generator[Blob, None, None]:
    """Blobs in name order from `start` up to (not including) `end`."""
    upper, values = ("AND name < ?", [container, start, end]) if end is not None else ("", [container, start])
    cursor = tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name >= ? {upper} ORDER BY name", values)
    try:
        for row in cursor:
            yield as_blob(row)
    finally:
        cursor.close()


def incomplete(tx: sqlite3.Connection, after: int, limit: int) -> tuple[list[tuple[str, str, str, int, int]], int | None]:
    """Among the next `limit` blobs those whose parts are not as long as they are: (account, container, name, length, stored).

    The second value is where to go on, None behind the last blob.
    """
    found = tx.execute(
        "SELECT id, container, name, length, (SELECT COALESCE(SUM(length), 0) FROM segments WHERE blob = blobs.id) AS stored"
        " FROM blobs WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()
    hurt = []
    for row in found:
        if row["length"] != row["stored"]:
            box = tx.execute("SELECT account, name FROM containers WHERE id = ? AND name IS NOT NULL", (row["container"],)).fetchone()
            if box is not None:
                hurt.append((box["account"], box["name"], row["name"], row["length"], row["stored"]))
    return hurt, found[-1]["id"] if len(found) == limit else None


def insert_blob(tx: sqlite3.Connection, container: int, name: str, draft: BlobDraft, length: int, now_us: int) -> int:
    """Add the row of a new version and return its id."""
    cursor = tx.execute(
        "INSERT INTO blobs (container, name, kind, length, etag, modified, created, headers, metadata, block_count)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (container, name, draft.kind, length, new_etag(), now_us, now_us, json_text(draft.headers), json_text(draft.metadata)),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def insert_segment(
    tx: sqlite3.Connection, blob: int, start: int, length: int, file: str | None, inline: bytes | None, block: str | None = None
) -> None:
    """Add a piece of content: a data file or, when small, the bytes."""
    sql = "INSERT INTO segments (blob, start, length, block, file, bytes) VALUES (?, ?, ?, ?, ?, ?)"
    tx.execute(sql, (blob, start, length, block, file, inline))


def drop_version(tx: sqlite3.Connection, blob: int) -> list[str]:
    """Remove a version and return the names of its data files, which the caller gives up after the commit."""
    files = _files(tx.execute("SELECT file FROM segments WHERE blob = ? AND file IS NOT NULL", (blob,)))
    tx.execute("DELETE FROM segments WHERE blob = ?", (blob,))
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
    values = {"etag": new_etag(), "modified": now_us, **columns}
    tx.execute(f"UPDATE blobs SET {', '.join(f'{name} = :{name}' for name in values)} WHERE id = :id", {**values, "id": row["id"]})
    changed = find_blob(tx, row["container"], row["name"])
    assert changed is not None
    return as_blob(changed)


def _files(rows: Iterable[sqlite3.Row]) -> list[str]:
    return [row["file"] for row in rows]
