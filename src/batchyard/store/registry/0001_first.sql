-- The accounts of a server and where the world of each lies. `due`: when a closed world has something to do; 0 while it may be open.
-- ${NAME}: integer key in arrival order, never given twice. Times are microseconds since 1970. A quota of NULL is the server's own.

CREATE TABLE account (
    pk ${NAME},
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    location TEXT NOT NULL,
    storage TEXT NOT NULL,
    created BIGINT NOT NULL,
    due BIGINT,
    dedicated_cores INTEGER,
    low_priority_cores INTEGER,
    pools INTEGER,
    active_jobs INTEGER
);
CREATE UNIQUE INDEX account_by_name ON account (lower(name));
CREATE UNIQUE INDEX account_by_storage ON account (lower(storage));
CREATE UNIQUE INDEX account_by_location ON account (location);
CREATE INDEX account_by_due ON account (due) WHERE due IS NOT NULL;
CREATE INDEX account_changing ON account (pk) WHERE state <> 'active';
