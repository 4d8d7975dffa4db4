"""Queues and their messages in one database: every operation is on disk before it is answered, a claim too.

What a get costs depends on how many messages it gives and not on how many there are: messages are found by the moment from which they
can be seen. Those whose time is over are passed over, and removed by `expire`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from batchyard.blobs.base import AccessPolicy, BlobError
from batchyard.blobs.queues.base import Message, Queue, QueuePage, QueueRef
from batchyard.blobs.queues.schema import SCHEMA
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.blobs.store.listing import after_prefix
from batchyard.blobs.store.services import Services
from batchyard.drivers.base import Connection, Row

T = TypeVar("T")

_metadata = msgspec.json.Decoder(dict[str, str])
_policies = msgspec.json.Decoder(dict[str, AccessPolicy])
_QUEUE_COLUMNS = "id, account, name, metadata, policies, messages"
_COLUMNS = "seq, id, text, inserted, expires, visible, dequeued, receipt"


class QueueStore(Services):
    """Queues of any number of storage accounts. Methods are thread-safe and may raise BlobError."""

    def __init__(self, location: Path | str) -> None:
        """`location` is a SQLite file, which one process has, or a schema of PostgreSQL, which servers may share."""
        if isinstance(location, Path):
            location.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._catalogue = Catalogue(location, SCHEMA)

    def close(self) -> None:
        """Let go of the database; nothing may be under way."""
        self._catalogue.close()

    # queues

    def create(self, ref: QueueRef, metadata: Mapping[str, str]) -> bool:
        """Add a queue; False when there is one with just this metadata. Raises QueueAlreadyExists."""

        def work(tx: Connection) -> bool:
            found = tx.execute("SELECT metadata FROM queues WHERE account = ? AND name = ?", (ref.account, ref.queue)).fetchone()
            if found is not None:
                if _metadata.decode(found["metadata"]) != metadata:
                    raise BlobError("QueueAlreadyExists")
                return False
            tx.execute(
                "INSERT INTO queues (account, name, metadata, policies, messages) VALUES (?, ?, ?, '{}', 0)",
                (ref.account, ref.queue, _json(metadata)),
            )
            return True

        return self._catalogue.write(work)

    def queue(self, ref: QueueRef) -> Queue:
        """Properties of a queue."""
        with self._catalogue.reading() as tx:
            return _as_queue(_row(tx, ref))

    def set_metadata(self, ref: QueueRef, metadata: Mapping[str, str]) -> None:
        """Replace the metadata."""
        self._with_queue(ref, lambda tx, queue: tx.execute("UPDATE queues SET metadata = ? WHERE id = ?", (_json(metadata), queue)))

    def set_policies(self, ref: QueueRef, policies: Mapping[str, AccessPolicy]) -> None:
        """Replace the stored access policies."""
        self._with_queue(ref, lambda tx, queue: tx.execute("UPDATE queues SET policies = ? WHERE id = ?", (_json(policies), queue)))

    def delete(self, ref: QueueRef) -> None:
        """Remove a queue: at once for everybody; its messages go in batches, see `purge`."""
        self._with_queue(ref, lambda tx, queue: tx.execute("UPDATE queues SET name = NULL WHERE id = ?", (queue,)))

    def queues(self, account: str, prefix: str, start: str, limit: int) -> QueuePage:
        """One page of queues."""
        end = after_prefix(prefix)
        upper, values = ("AND name < ?", [end]) if end is not None else ("", [])
        with self._catalogue.reading() as tx:
            found = tx.execute(
                f"SELECT {_QUEUE_COLUMNS} FROM queues WHERE account = ? AND name >= ? {upper} ORDER BY name LIMIT ?",
                (account, max(start, prefix), *values, limit + 1),
            ).fetchall()
        entries = tuple(_as_queue(row) for row in found)
        return QueuePage(entries[:limit], entries[limit].name if len(entries) > limit else None)

    # messages

    def put(self, ref: QueueRef, text: str, hidden_us: int, ttl_us: int | None, now_us: int) -> Message:
        """Add a message that is seen after `hidden_us` and is gone after `ttl_us` (None: never)."""

        def work(tx: Connection, queue: int) -> Message:
            expires = None if ttl_us is None else now_us + ttl_us
            message = Message(str(uuid.uuid4()), text, now_us, expires, now_us + hidden_us, 0, _receipt())
            tx.execute(
                "INSERT INTO messages (queue, id, text, inserted, expires, visible, dequeued, receipt) VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (queue, message.id, text, now_us, expires, message.visible_us, message.receipt),
            )
            _count(tx, queue, 1)
            return message

        return self._with_queue(ref, work)

    def get(self, ref: QueueRef, most: int, hidden_us: int, now_us: int) -> list[Message]:
        """Claim up to `most` messages: nobody else sees them for `hidden_us`."""

        def work(tx: Connection, queue: int) -> list[Message]:
            return [_claimed(tx, row, now_us + hidden_us) for row in _visible(tx, queue, most, now_us)]

        return self._with_queue(ref, work)

    def peek(self, ref: QueueRef, most: int, now_us: int) -> list[Message]:
        """Up to `most` messages that a get would give, which stay as they are."""
        with self._catalogue.reading() as tx:
            return [_as_message(row) for row in _visible(tx, _row(tx, ref)["id"], most, now_us)]

    def update(self, ref: QueueRef, message_id: str, receipt: str, text: str | None, hidden_us: int, now_us: int) -> Message:
        """Hide a claimed message for so long from now on, with another text if one is given."""

        def work(tx: Connection, queue: int) -> Message:
            row = _held(tx, queue, message_id, receipt, now_us)
            visible = now_us + hidden_us
            if row["expires"] is not None and visible > row["expires"]:
                raise BlobError("OutOfRangeQueryParameterValue", "The message would be hidden for longer than it lives.")
            new = {"text": row["text"] if text is None else text, "visible": visible, "receipt": _receipt(), "seq": row["seq"]}
            tx.execute("UPDATE messages SET text = :text, visible = :visible, receipt = :receipt WHERE seq = :seq", new)
            return _as_message(tx.execute(f"SELECT {_COLUMNS} FROM messages WHERE seq = ?", (row["seq"],)).fetchone())

        return self._with_queue(ref, work)

    def remove(self, ref: QueueRef, message_id: str, receipt: str, now_us: int) -> None:
        """Remove a claimed message for good."""

        def work(tx: Connection, queue: int) -> None:
            tx.execute("DELETE FROM messages WHERE seq = ?", (_held(tx, queue, message_id, receipt, now_us)["seq"],))
            _count(tx, queue, -1)

        self._with_queue(ref, work)

    def clear(self, ref: QueueRef) -> None:
        """Remove all messages: at once for everybody, from the file in batches, see `purge`."""

        def work(tx: Connection, queue: int) -> None:
            row = tx.execute(f"SELECT {_QUEUE_COLUMNS} FROM queues WHERE id = ?", (queue,)).fetchone()
            tx.execute("UPDATE queues SET name = NULL WHERE id = ?", (queue,))
            tx.execute(
                "INSERT INTO queues (account, name, metadata, policies, messages) VALUES (?, ?, ?, ?, 0)",
                (row["account"], row["name"], row["metadata"], row["policies"]),
            )

        self._with_queue(ref, work)

    # upkeep

    def expire(self, limit: int, now_us: int) -> bool:
        """Remove up to `limit` messages whose time is over; whether there may be more."""

        def work(tx: Connection) -> bool:
            found = tx.execute("SELECT seq, queue FROM messages WHERE expires <= ? ORDER BY expires LIMIT ?", (now_us, limit)).fetchall()
            for row in found:
                tx.execute("DELETE FROM messages WHERE seq = ?", (row["seq"],))
                _count(tx, row["queue"], -1)
            return len(found) == limit

        return self._catalogue.finds("SELECT 1 FROM messages WHERE expires <= ? LIMIT 1", now_us) and self._catalogue.write(work)

    def purge(self, limit: int) -> bool:
        """Remove up to `limit` messages of deleted queues; whether there may be more."""

        def work(tx: Connection) -> bool:
            queue = tx.execute("SELECT id FROM queues WHERE name IS NULL ORDER BY id LIMIT 1").fetchone()
            if queue is None:
                return False
            gone = tx.execute(
                "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages WHERE queue = ? LIMIT ?)", (queue["id"], limit)
            ).rowcount
            if not gone:
                tx.execute("DELETE FROM queues WHERE id = ?", (queue["id"],))
            return True

        return self._catalogue.finds("SELECT 1 FROM queues WHERE name IS NULL LIMIT 1") and self._catalogue.write(work)

    def shrink(self, pages: int) -> int:
        """Give up to `pages` free pages of the file back to the disk; how many."""
        return self._catalogue.shrink(pages)

    def _with_queue(self, ref: QueueRef, work: Callable[[Connection, int], T]) -> T:
        return self._catalogue.write(lambda tx: work(tx, _row(tx, ref)["id"]))


def _row(tx: Connection, ref: QueueRef) -> Row:
    row: Row | None = tx.execute(f"SELECT {_QUEUE_COLUMNS} FROM queues WHERE account = ? AND name = ?", (ref.account, ref.queue)).fetchone()
    if row is None:
        raise BlobError("QueueNotFound")
    return row


def _visible(tx: Connection, queue: int, most: int, now_us: int) -> list[Row]:
    """The messages that have been there to be seen for longest; a message that is over is never among them."""
    where = "queue = ? AND visible <= ? AND (expires IS NULL OR expires > ?)"
    sql = f"SELECT {_COLUMNS} FROM messages WHERE {where} ORDER BY visible, seq LIMIT ?"
    return tx.execute(sql, (queue, now_us, now_us, most)).fetchall()


def _claimed(tx: Connection, row: Row, visible_us: int) -> Message:
    receipt = _receipt()
    sql = "UPDATE messages SET visible = ?, dequeued = dequeued + 1, receipt = ? WHERE seq = ?"
    tx.execute(sql, (visible_us, receipt, row["seq"]))
    return Message(row["id"], row["text"], row["inserted"], row["expires"], visible_us, row["dequeued"] + 1, receipt)


def _held(tx: Connection, queue: int, message_id: str, receipt: str, now_us: int) -> Row:
    """The row of a message, for who got it last."""
    row: Row | None = tx.execute(f"SELECT {_COLUMNS} FROM messages WHERE queue = ? AND id = ?", (queue, message_id)).fetchone()
    if row is None or (row["expires"] is not None and row["expires"] <= now_us):
        raise BlobError("MessageNotFound")
    if not secrets.compare_digest(row["receipt"].encode(), receipt.encode()):
        raise BlobError("PopReceiptMismatch")
    return row


def _count(tx: Connection, queue: int, by: int) -> None:
    tx.execute("UPDATE queues SET messages = messages + ? WHERE id = ?", (by, queue))


def _receipt() -> str:
    return secrets.token_urlsafe(18)


def _as_queue(row: Row) -> Queue:
    return Queue(row["name"], _metadata.decode(row["metadata"]), _policies.decode(row["policies"]), row["messages"])


def _as_message(row: Row) -> Message:
    return Message(row["id"], row["text"], row["inserted"], row["expires"], row["visible"], row["dequeued"], row["receipt"])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
