"""The tables of queues."""

from __future__ import annotations

from batchyard.blobs.store import services
from batchyard.blobs.store.catalogue import Schema

_TABLES = (
    """CREATE TABLE queues (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, name TEXT, metadata TEXT NOT NULL, policies TEXT NOT NULL,
        messages INTEGER NOT NULL, UNIQUE (account, name))""",
    """CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL, inserted INTEGER NOT NULL,
        expires INTEGER, visible INTEGER NOT NULL, dequeued INTEGER NOT NULL, receipt TEXT NOT NULL, UNIQUE (queue, id))""",
    "CREATE INDEX messages_visible ON messages (queue, visible, seq)",
    "CREATE INDEX messages_expires ON messages (expires) WHERE expires IS NOT NULL",
    "CREATE INDEX queues_deleted ON queues (id) WHERE name IS NULL",
)
SCHEMA = Schema((_TABLES, (services.TABLE,)))
