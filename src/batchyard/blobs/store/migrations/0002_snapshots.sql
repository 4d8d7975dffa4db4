-- Snapshots share a name with their blob, which has '~' there; `extras` is JSON, and NULL for the many blobs that have none.

CREATE TABLE blobs_next (
    id ${NAME},
    container INTEGER NOT NULL,
    name TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    kind TEXT NOT NULL,
    length INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified INTEGER NOT NULL,
    created INTEGER NOT NULL,
    headers TEXT NOT NULL,
    metadata TEXT NOT NULL,
    block_count INTEGER NOT NULL,
    extras TEXT,
    UNIQUE (container, name, snapshot)
);
INSERT INTO blobs_next
    SELECT id, container, name, '~', kind, length, etag, modified, created, headers, metadata, block_count, NULL FROM blobs;
DELETE FROM sqlite_sequence WHERE name = 'blobs_next'; -- SQLite
INSERT INTO sqlite_sequence SELECT 'blobs_next', seq FROM sqlite_sequence WHERE name = 'blobs'; -- SQLite
DROP TABLE blobs;
ALTER TABLE blobs_next RENAME TO blobs;
ALTER TABLE containers ADD COLUMN lease TEXT;
CREATE TABLE tags (
    container INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (blob, key)
);
CREATE INDEX tags_found ON tags (key, value, container, blob);
