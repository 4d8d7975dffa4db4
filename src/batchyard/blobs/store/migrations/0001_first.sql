-- The catalogue of blobs. ${KEY}, ${NAME}, ${BYTES}: drivers/migrations.py says what they mean. Times are microseconds since 1970.
-- Catalogues of before there were versions say 0 and hold all of this. Overwriting a blob makes a new row, so that `segments` of the
-- old and the new content never mix; ${NAME} never gives an id again.

CREATE TABLE IF NOT EXISTS containers (
    id ${NAME},
    account TEXT NOT NULL,
    name TEXT,
    etag TEXT NOT NULL,
    modified INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    policies TEXT NOT NULL,
    UNIQUE (account, name)
);
CREATE TABLE IF NOT EXISTS blobs (
    id ${NAME},
    container INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    length INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified INTEGER NOT NULL,
    created INTEGER NOT NULL,
    headers TEXT NOT NULL,
    metadata TEXT NOT NULL,
    block_count INTEGER NOT NULL,
    UNIQUE (container, name)
);
CREATE TABLE IF NOT EXISTS segments (
    blob INTEGER NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL,
    block TEXT,
    file TEXT,
    bytes ${BYTES},
    UNIQUE (blob, start)
);
CREATE TABLE IF NOT EXISTS staged (
    container INTEGER NOT NULL,
    name TEXT NOT NULL,
    block TEXT NOT NULL,
    length INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    file TEXT NOT NULL,
    UNIQUE (container, name, block)
);
CREATE INDEX IF NOT EXISTS segments_file ON segments (file) WHERE file IS NOT NULL;
CREATE INDEX IF NOT EXISTS staged_file ON staged (file);
CREATE INDEX IF NOT EXISTS staged_modified ON staged (modified);
CREATE INDEX IF NOT EXISTS containers_deleted ON containers (id) WHERE name IS NULL;
