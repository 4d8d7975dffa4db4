-- Tokens by which machines join a pool, of which only a hash is kept, and the nodes that were joined with them.

CREATE TABLE join_token (
    pk ${NAME},
    id TEXT NOT NULL UNIQUE,
    pool_pk BIGINT NOT NULL,
    hash TEXT NOT NULL,
    uses INTEGER NOT NULL,
    uses_left INTEGER NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT,
    version BIGINT NOT NULL DEFAULT 1
);
CREATE INDEX join_token_of_pool ON join_token (pool_pk, pk);

-- A join is named by who joins, so that one whose answer was lost is answered again and uses the token up once.
CREATE TABLE node_join (
    pk ${KEY},
    token_pk BIGINT NOT NULL,
    name TEXT NOT NULL,
    node_pk BIGINT NOT NULL,
    UNIQUE (token_pk, name)
);
CREATE INDEX node_join_by_node ON node_join (node_pk);
