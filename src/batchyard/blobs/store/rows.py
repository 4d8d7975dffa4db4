"""SQL of the blob store: small functions over one connection, inside the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
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
from batchyard.drivers.base import Answer, Connection, Row

MAX_STAGED_BLOCKS = 100_000
_FIRST_PART, _LARGEST_PART = 16, 1024

_BLOB_COLUMNS = "id, container, name, snapshot, kind, length, etag, modified, created, headers, metadata, block_count, extras"
_BLOB_COLUMNS += ", version, deleted, until"
BOX_COLUMNS = "id, account, name, etag, modified, metadata, policies, lease, access, deleted_name, deleted, until, version"
_BOX = f"SELECT {BOX_COLUMNS} FROM containers WHERE account = ? AND name = ?"
_BLOB_IN = (
    f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = (SELECT id FROM containers WHERE account = ? AND name = ?)"
    " AND name = ? AND snapshot = ?"
)
_VERSION_IN = (
    f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = (SELECT id FROM containers WHERE account = ? AND name = ?)"
    f" AND name = ? AND (snapshot = ? OR snapshot = '{CURRENT}') AND version = ?"
)
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


def as_container(row: Row) -> Container:
    """Container of its row."""
    metadata, policies = _metadata.decode(row["metadata"]), _policies.decode(row["policies"])
    lease = _lease.decode(row["lease"]) if row["lease"] else None
    deleted = Deleted(row["deleted"], row["until"], row["version"]) if row["until"] is not None else None
    name = row["name"] if deleted is None else row["deleted_name"]
    return Container(name, row["etag"], row["modified"], metadata, policies, lease, row["access"], deleted)


def as_blob(row: Row) -> Blob:
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


def extras_of(row: Row) -> Extras:
    """What few blobs have, of the blob of a row."""
    return _extras.decode(row["extras"]) if row["extras"] else NO_EXTRAS


def _extras_text(extras: Extras) -> str | None:
    return None if extras == NO_EXTRAS else json_text(extras)


def container_row(tx: Connection, ref: ContainerRef) -> Row:
    """Row of a container; raises ContainerNotFound."""
    row = find_container(tx, ref)
    if row is None:
        raise BlobError("ContainerNotFound")
    return row


def find_container(tx: Connection, ref: ContainerRef) -> Row | None:
    """Row of a container, None when there is none."""
    row: Row | None = tx.execute(_BOX, (ref.account, ref.container)).fetchone()
    return row


def find_blob(tx: Connection, container: int, name: str, snapshot: str | None = None) -> Row | None:
    """Row of a committed blob or of one of its snapshots, None when there is none."""
    row: Row | None = tx.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name = ? AND snapshot = ?", (container, name, snapshot or CURRENT)
    ).fetchone()
    return row


def slots_of(tx: Connection, container: int, name: str) -> list[Row]:
    """`id` and `snapshot` of all rows of a name."""
    return tx.execute("SELECT id, snapshot FROM blobs WHERE container = ? AND name = ? ORDER BY snapshot", (container, name)).fetchall()


def move(tx: Connection, blob: int, slot: str) -> None:
    """Put a row that was deleted back into another slot."""
    tx.execute("UPDATE blobs SET snapshot = ?, deleted = NULL, until = NULL WHERE id = ?", (slot, blob))


def blob_of_id(tx: Connection, blob: int) -> Row | None:
    """Row of a blob in a container that is there."""
    where = "id = ? AND container IN (SELECT id FROM containers WHERE name IS NOT NULL)"
    row: Row | None = tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", (blob,)).fetchone()
    return row


def blob_row(tx: Connection, ref: BlobRef) -> Row:
    """Row of a committed blob, of a snapshot or a version; raises ContainerNotFound or BlobNotFound."""
    row = placed(tx, ref)[1]
    if row is None:
        raise BlobError("BlobNotFound")
    return row


def deleted_asked(tx: Connection, ref: BlobRef) -> Answer:
    """Asks for the row of what was deleted of a blob and is kept in its place."""
    return tx.execute(_BLOB_IN, (ref.account, ref.container, ref.name, slots.DELETED_BLOB))


def placed(tx: Connection, ref: BlobRef) -> tuple[int, Row | None]:
    """The id of a blob's container, and the blob's row when there is one; both are asked for at once. Raises ContainerNotFound."""
    container = tx.execute(_BOX, (ref.account, ref.container))
    if ref.version:
        blob = tx.execute(_VERSION_IN, (ref.account, ref.container, ref.name, slots.VERSION + ref.version, ref.version))
    else:
        blob = tx.execute(_BLOB_IN, (ref.account, ref.container, ref.name, ref.snapshot or CURRENT))
    box, found = container.fetchone(), blob.fetchone()
    if box is None:
        raise BlobError("ContainerNotFound")
    return box["id"], found


def version_of(row: Row | None) -> Version | None:
    """What conditions are checked against."""
    return None if row is None else version(row)


def version(row: Row) -> Version:
    """What conditions are checked against, of a blob that there is."""
    extras = extras_of(row)
    pending = extras.copied is not None and extras.copied.status == "pending"
    return Version(row["etag"], row["modified"], extras.lease, extras.tags, pending=pending)


def container_version(row: Row) -> Version:
    """What conditions are checked against, of a container."""
    return Version(row["etag"], row["modified"], _lease.decode(row["lease"]) if row["lease"] else None, what="Container")


def scan_blobs(tx: Connection, container: int, start: str, end: str | None, query: ListQuery) -> Generator[Blob, None, None]:
    """Blobs in name order from `start` up to (not including) `end`; each behind what else is wanted of its name."""
    name, _, snapshot = start.partition(SEAM)
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
    sql = f"(name, snapshot) {{}} (?, ?) AND {slots.listed(query)}" if query.many else f"name {{}} ? AND snapshot = '{CURRENT}'"

    def part(after: Row | None, limit: int) -> Answer:
        begin, beyond = ((name, snapshot), ">=") if after is None else ((after["name"], after["snapshot"]), ">")
        where = f"container = ? AND {sql.format(beyond)} {upper} ORDER BY name, snapshot LIMIT ?"
        first = begin if query.many else begin[:1]
        return tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", [container, *first, *values, limit])

    for row in _in_parts(part):
        yield as_blob(row)


def blobs_between(tx: Connection, container: int, start: str, end: str | None, limit: int) -> list[Row]:
    """Rows of the first blobs in name order from `start` up to (not including) `end`."""
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
    where = f"container = ? AND name >= ? AND snapshot = '{CURRENT}' {upper} ORDER BY name LIMIT ?"
    return tx.execute(f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE {where}", [container, start, *values, limit]).fetchall()


def expired(tx: Connection, now_us: int, limit: int) -> list[tuple[str, Row]]:
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


def scan_uncommitted(tx: Connection, container: int, start: str, end: str | None) -> Generator[Blob, None, None]:
    """Names that have uncommitted blocks and no blob, in order, as blobs without content."""
    upper, values = ("AND name < ?", [end]) if end is not None else ("", [])

    def part(after: Row | None, limit: int) -> Answer:
        begin, beyond = (start.partition(SEAM)[0], ">=") if after is None else (after["name"], ">")
        return tx.execute(
            f"SELECT name, MAX(modified) AS modified FROM staged WHERE container = ? AND name {beyond} ? {upper}"
            " AND NOT EXISTS (SELECT 1 FROM blobs"
            f" WHERE container = staged.container AND name = staged.name AND snapshot = '{CURRENT}') GROUP BY name ORDER BY name LIMIT ?",
            [container, begin, *values, limit],
        )

    for row in _in_parts(part):
        yield Blob(row["name"], BlobKind.BLOCK, 0, "", row["modified"], row["modified"], ContentHeaders(), {})


def _in_parts(part: Callable[[Row | None, int], Answer]) -> Generator[Row, None, None]:
    """Rows in order, asked for part by part behind the last one: a database may give all of an answer at once."""
    last: Row | None = None
    limit = _FIRST_PART
    while True:
        count = 0
        for row in part(last, limit):
            count += 1
            last = row
            yield row
        if count < limit:
            return
        limit = min(4 * limit, _LARGEST_PART)


def incomplete(tx: Connection, after: int, limit: int) -> tuple[list[tuple[str, str, str, int, int]], int | None]:
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
    tx: Connection,
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
) -> Row:
    """Add the row of a new version; the row."""
    made: Row = tx.execute(
        "INSERT INTO blobs"
        " (container, name, snapshot, kind, length, etag, modified, created, headers, metadata, block_count, extras, version)"
        f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?) RETURNING {_BLOB_COLUMNS}",
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
    ).fetchone()
    _write_tags(tx, container, made["id"], draft.extras.tags)
    return made


def insert_segment(
    tx: Connection,
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


def files_of(tx: Connection, blob: int) -> list[str]:
    """Names of the data files of a version."""
    return files_in(tx.execute("SELECT file FROM segments WHERE blob = ? AND file IS NOT NULL", (blob,)))


def drop_version(tx: Connection, blob: int) -> list[str]:
    """Remove a version and return the names of its data files, which the caller gives up after the commit."""
    return files_in(clear_version(tx, blob))


def clear_version(tx: Connection, blob: int) -> Answer:
    """Remove a version; the answer has the names of its data files."""
    tx.execute("DELETE FROM tags WHERE blob = ?", (blob,))
    tx.execute("DELETE FROM blobs WHERE id = ?", (blob,))
    return tx.execute("DELETE FROM segments WHERE blob = ? RETURNING file", (blob,))


def drop_staged(tx: Connection, container: int, name: str) -> list[str]:
    """Remove the uncommitted blocks of a blob and return their data files."""
    return files_in(clear_staged(tx, container, name))


def clear_staged(tx: Connection, container: int, name: str) -> Answer:
    """Remove the uncommitted blocks of a blob; the answer has the names of their data files."""
    return tx.execute("DELETE FROM staged WHERE container = ? AND name = ? RETURNING file", (container, name))


def purge_some(tx: Connection, container: int, limit: int) -> tuple[list[str], bool]:
    """Remove up to `limit` blobs or staged blocks of a deleted container; gives their files and whether that was all."""
    files: list[str] = []
    blobs = tx.execute("SELECT id FROM blobs WHERE container = ? LIMIT ?", (container, limit)).fetchall()
    for row in blobs:
        files += drop_version(tx, row["id"])
    staged = tx.execute("SELECT name, block, file FROM staged WHERE container = ? LIMIT ?", (container, limit)).fetchall()
    if staged:
        gone = [(container, row["name"], row["block"]) for row in staged]
        tx.executemany("DELETE FROM staged WHERE container = ? AND name = ? AND block = ?", gone)
    files += files_in(staged)
    finished = not blobs and not staged
    if finished:
        tx.execute("DELETE FROM containers WHERE id = ? AND name IS NULL", (container,))
    return files, finished


def stage_block(tx: Connection, container: int, name: str, block: str, length: int, file: str, now_us: int) -> list[str]:
    """Add an uncommitted block; gives the file of one with the same id that it replaces."""
    count, first = tx.execute("SELECT COUNT(*), MIN(block) FROM staged WHERE container = ? AND name = ?", (container, name)).fetchone()
    if first is not None and len(first) != len(block):
        raise BlobError("InvalidBlobOrBlock", "The block IDs of a blob must all have the same length.")
    key = (container, name, block)
    replaced = files_in(tx.execute("SELECT file FROM staged WHERE container = ? AND name = ? AND block = ?", key))
    if not replaced and count >= MAX_STAGED_BLOCKS:
        raise BlobError("UncommittedBlockCountExceedsLimit")
    tx.execute(
        "INSERT INTO staged (container, name, block, length, modified, file) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (container, name, block)"
        " DO UPDATE SET length = excluded.length, modified = excluded.modified, file = excluded.file",
        (*key, length, now_us, file),
    )
    return replaced


def chosen_blocks(
    tx: Connection, container: int, name: str, old: int | None, blocks: Sequence[tuple[BlockSource, str]]
) -> list[tuple[str, int, str]]:
    """(block id, length, file) of each entry of a block list; raises InvalidBlockList."""
    in_staged = tx.execute("SELECT block, length, file FROM staged WHERE container = ? AND name = ?", (container, name))
    staged = {row["block"]: row for row in in_staged}
    in_blob = tx.execute("SELECT block, length, file FROM segments WHERE blob = ? AND block IS NOT NULL", (old,))
    committed = {row["block"]: row for row in in_blob}
    places: Mapping[BlockSource, Mapping[str, Row]] = {
        BlockSource.UNCOMMITTED: staged,
        BlockSource.COMMITTED: committed,
        BlockSource.LATEST: {**committed, **staged},
    }
    try:
        rows = [places[source][block] for source, block in blocks]
    except KeyError:
        raise BlobError("InvalidBlockList") from None
    return [(row["block"], row["length"], row["file"]) for row in rows]


def touch_blob(tx: Connection, row: Row, now_us: int, **columns: str | int) -> Blob:
    """Change columns of a blob together with its tag and time."""
    extras = extras_of(row)
    if kept(extras.lease, now_us) is not extras.lease:
        write_extras(tx, row, replace(extras, lease=None))
    return _change(tx, row, {"etag": new_etag(), "modified": now_us, **columns})


def write_extras(tx: Connection, row: Row, extras: Extras) -> Blob:
    """Change what few blobs have, which is no new version of the blob."""
    if extras.tags != extras_of(row).tags:
        tx.execute("DELETE FROM tags WHERE blob = ?", (row["id"],))
        _write_tags(tx, row["container"], row["id"], extras.tags)
    return _change(tx, row, {"extras": _extras_text(extras)})


def _change(tx: Connection, row: Row, values: Mapping[str, str | int | None]) -> Blob:
    tx.execute(f"UPDATE blobs SET {', '.join(f'{name} = :{name}' for name in values)} WHERE id = :id", {**values, "id": row["id"]})
    changed = find_blob(tx, row["container"], row["name"], row["snapshot"])
    assert changed is not None
    return as_blob(changed)


def _write_tags(tx: Connection, container: int, blob: int, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [(container, blob, key, value) for key, value in tags.items()]
        tx.executemany("INSERT INTO tags (container, blob, key, value) VALUES (?, ?, ?, ?)", rows)


def snapshots_of(tx: Connection, container: int, name: str) -> list[Row]:
    """Rows of a blob's snapshots, the oldest first."""
    sql = f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name = ? AND {slots.SNAPSHOTS} ORDER BY snapshot"
    return tx.execute(sql, (container, name)).fetchall()


def scan_tagged(tx: Connection, account: str, container: str | None, after: tuple[str, str]) -> Generator[tuple[str, Blob], None, None]:
    """Blobs that have tags, with their containers' names, ordered by both, behind the one named."""
    where, values = ("AND c.name = ?", [container]) if container is not None else ("", [])
    boxes = tx.execute(
        f"SELECT id, name FROM containers c WHERE account = ? AND name >= ? {where} ORDER BY name", [account, after[0], *values]
    ).fetchall()
    for box in boxes:

        def part(last: Row | None, limit: int, box: Row = box) -> Answer:
            begin = last["name"] if last is not None else after[1] if box["name"] == after[0] else ""
            return tx.execute(
                f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE container = ? AND name > ? AND snapshot = '{CURRENT}' AND extras IS NOT NULL"
                " AND EXISTS (SELECT 1 FROM tags WHERE blob = blobs.id) ORDER BY name LIMIT ?",
                (box["id"], begin, limit),
            )

        for row in _in_parts(part):
            yield box["name"], as_blob(row)


def files_in(rows: Iterable[Row]) -> list[str]:
    """Names of the data files that rows have."""
    return [row["file"] for row in rows if row["file"] is not None]
