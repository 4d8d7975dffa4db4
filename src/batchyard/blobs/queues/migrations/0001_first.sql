-- Queues and their messages. ${NAME}: drivers/migrations.py says what it means. Times are microseconds since 1970.

CREATE TABLE queues (
    id ${NAME},
    account TEXT NOT NULL,
    name TEXT,
    metadata TEXT NOT NULL,
    policies TEXT NOT NULL,
    messages INTEGER NOT NULL,
    UNIQUE (account, name)
);
CREATE TABLE messages (
    seq ${NAME},
    queue INTEGER NOT NULL,
    id TEXT NOT NULL,
    text TEXT NOT NULL,
    inserted INTEGER NOT NULL,
    expires INTEGER,
    visible INTEGER NOT NULL,
    dequeued INTEGER NOT NULL,
    receipt TEXT NOT NULL,
    UNIQUE (queue, id)
);
CREATE INDEX messages_visible ON messages (queue, visible, seq);
CREATE INDEX messages_expires ON messages (expires) WHERE expires IS NOT NULL;
CREATE INDEX queues_deleted ON queues (id) WHERE name IS NULL;
