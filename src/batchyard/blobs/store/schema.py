"""The tables of the catalogue of blobs."""

from __future__ import annotations

from batchyard.blobs.base import CURRENT
from batchyard.blobs.store import services
from batchyard.blobs.store.catalogue import Schema

# Overwriting a blob makes a new row, so that `segments` of the old and the new content never mix; AUTOINCREMENT never reuses an id.
_FIRST = (
    """CREATE TABLE IF NOT EXISTS containers (
        id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, name TEXT, etag TEXT NOT NULL, modified INTEGER NOT NULL,
        metadata TEXT NOT NULL, policies TEXT NOT NULL, UNIQUE (account, name))""",
    """CREATE TABLE IF NOT EXISTS blobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, container INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, length INTEGER NOT NULL,
        etag TEXT NOT NULL, modified INTEGER NOT NULL, created INTEGER NOT NULL, headers TEXT NOT NULL, metadata TEXT NOT NULL,
        block_count INTEGER NOT NULL, UNIQUE (container, name))""",
    """CREATE TABLE IF NOT EXISTS segments (
        blob INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL, block TEXT, file TEXT, bytes BLOB, UNIQUE (blob, start))""",
    """CREATE TABLE IF NOT EXISTS staged (
        container INTEGER NOT NULL, name TEXT NOT NULL, block TEXT NOT NULL, length INTEGER NOT NULL, modified INTEGER NOT NULL,
        file TEXT NOT NULL, UNIQUE (container, name, block))""",
    "CREATE INDEX IF NOT EXISTS segments_file ON segments (file) WHERE file IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS staged_file ON staged (file)",
    "CREATE INDEX IF NOT EXISTS staged_modified ON staged (modified)",
    "CREATE INDEX IF NOT EXISTS containers_deleted ON containers (id) WHERE name IS NULL",
)
# Snapshots share a name with their blob, so the table is made anew; `extras` is JSON, and NULL for the many blobs that have none.
_SECOND = (
    """CREATE TABLE blobs_next (
        id INTEGER PRIMARY KEY AUTOINCREMENT, container INTEGER NOT NULL, name TEXT NOT NULL, snapshot TEXT NOT NULL, kind TEXT NOT NULL,
        length INTEGER NOT NULL, etag TEXT NOT NULL, modified INTEGER NOT NULL, created INTEGER NOT NULL, headers TEXT NOT NULL,
        metadata TEXT NOT NULL, block_count INTEGER NOT NULL, extras TEXT, UNIQUE (container, name, snapshot))""",
    f"""INSERT INTO blobs_next SELECT id, container, name, '{CURRENT}', kind, length, etag, modified, created, headers,
        metadata, block_count, NULL FROM blobs""",
    "DELETE FROM sqlite_sequence WHERE name = 'blobs_next'",
    "INSERT INTO sqlite_sequence SELECT 'blobs_next', seq FROM sqlite_sequence WHERE name = 'blobs'",
    "DROP TABLE blobs",
    "ALTER TABLE blobs_next RENAME TO blobs",
    "ALTER TABLE containers ADD COLUMN lease TEXT",
    "CREATE TABLE tags (container INTEGER NOT NULL, blob INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (blob, key))",
    "CREATE INDEX tags_found ON tags (key, value, container, blob)",
)
_THIRD = (services.TABLE,)
_FOURTH = ("ALTER TABLE containers ADD COLUMN access TEXT",)
# What was overwritten or deleted and is kept; store/slots.py says what column `snapshot` is then.
_FIFTH = (
    "ALTER TABLE blobs ADD COLUMN version TEXT",
    "ALTER TABLE blobs ADD COLUMN deleted INTEGER",
    "ALTER TABLE blobs ADD COLUMN until INTEGER",
    "CREATE INDEX blobs_until ON blobs (until) WHERE until IS NOT NULL",
    "ALTER TABLE containers ADD COLUMN deleted_name TEXT",
    "ALTER TABLE containers ADD COLUMN deleted INTEGER",
    "ALTER TABLE containers ADD COLUMN until INTEGER",
    "ALTER TABLE containers ADD COLUMN version TEXT",
    "CREATE INDEX containers_kept ON containers (account, deleted_name) WHERE deleted_name IS NOT NULL",
)
# Part of a data file, of what was written at once into a page blob.
_SIXTH = ("ALTER TABLE segments ADD COLUMN skip INTEGER NOT NULL DEFAULT 0",)
_SEVENTH = ("CREATE TABLE fetches (id TEXT PRIMARY KEY, blob INTEGER NOT NULL, url TEXT NOT NULL, etag TEXT NOT NULL)",)
_EIGHTH = ("ALTER TABLE blobs ADD COLUMN expires INTEGER", "CREATE INDEX blobs_expires ON blobs (expires) WHERE expires IS NOT NULL")
SCHEMA = Schema((_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH))
