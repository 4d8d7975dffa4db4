-- What grants access to the account, as JSON, where its world has no directory of its own for it.
CREATE TABLE secret (
    pk ${KEY},
    name TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL
);

-- The server on whose machine a node is, or is to be; NULL where there is one server, and for nodes that are nobody's yet.
ALTER TABLE node ADD COLUMN server TEXT;
