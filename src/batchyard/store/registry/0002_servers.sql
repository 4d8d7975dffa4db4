-- The servers that share the registry, which of them have the world of an account open, and what all of them have to know.
-- `seen` is by the database's clock: a server that has not said for the time of a lease that it lives counts as gone.

CREATE TABLE server (
    pk ${KEY},
    id TEXT NOT NULL UNIQUE,
    life TEXT NOT NULL,
    url TEXT NOT NULL,
    free INTEGER NOT NULL,
    seen BIGINT NOT NULL
);
CREATE TABLE opening (
    pk ${KEY},
    account_pk BIGINT NOT NULL,
    server TEXT NOT NULL,
    UNIQUE (account_pk, server)
);
CREATE INDEX opening_by_server ON opening (server);
CREATE TABLE secret (
    pk ${KEY},
    name TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL
);
