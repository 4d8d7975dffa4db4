-- Copies from other servers that are under way.
CREATE TABLE fetches (
    id TEXT PRIMARY KEY,
    blob INTEGER NOT NULL,
    url TEXT NOT NULL,
    etag TEXT NOT NULL
);
