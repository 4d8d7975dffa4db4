-- The storage accounts of a server. Each lies with the world of one account: the one that is linked to it (`account.storage`) in the
-- world's own place, the others in places that are called by their `pk`, which is never given twice. Their keys are the world's.
-- `server`: which one makes it, while it is being made.

CREATE TABLE storage (
    pk ${NAME},
    name TEXT NOT NULL,
    account_pk BIGINT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created BIGINT NOT NULL,
    server TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX storage_by_name ON storage (lower(name));
CREATE INDEX storage_by_account ON storage (account_pk);
CREATE INDEX storage_changing ON storage (pk) WHERE state <> 'active';
INSERT INTO storage (name, account_pk, state, created) SELECT storage, pk, 'active', created FROM account ORDER BY pk;
