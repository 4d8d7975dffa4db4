-- Multi-instance tasks: one task, an instance of it on each of several nodes at once (contract 3.10).

-- `instances`: how many; 0 for an ordinary task. Its `slots` are those of all instances together.
ALTER TABLE task ADD COLUMN instances INTEGER NOT NULL DEFAULT 0;
-- Instances of the present run whose coordination command has yet to succeed; until none is left the command line does not start.
ALTER TABLE task ADD COLUMN unready INTEGER NOT NULL DEFAULT 0;
-- Since when nodes are kept free for it, with pauses; NULL while that has not been since it ran last.
ALTER TABLE task ADD COLUMN held_since BIGINT;
DROP INDEX task_ready;
CREATE INDEX task_ready ON task (job_pk, instances, slots, pk) WHERE ready = 1;

-- enableInterNodeCommunication.
ALTER TABLE pool ADD COLUMN inter_node INTEGER NOT NULL DEFAULT 0;
UPDATE pool SET inter_node = 1 WHERE CAST(body AS TEXT) LIKE '%"enableInterNodeCommunication":true%';

-- The instances of the newest run, the primary's among them as number 0; what the node is called outlasts the node.
CREATE TABLE instance (
    pk ${KEY},
    task_pk BIGINT NOT NULL,
    number BIGINT NOT NULL,
    run BIGINT NOT NULL,
    node_pk BIGINT NOT NULL,
    node_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL,
    version BIGINT NOT NULL DEFAULT 1,
    state_time BIGINT NOT NULL,
    previous_state TEXT,
    previous_time BIGINT,
    ready INTEGER NOT NULL DEFAULT 0,
    told INTEGER NOT NULL DEFAULT 0,
    started BIGINT,
    ended BIGINT,
    exit_code BIGINT,
    result TEXT,
    failure ${BYTES},
    retention BIGINT,
    expires BIGINT
);
CREATE UNIQUE INDEX instance_by_task ON instance (task_pk, number);
CREATE INDEX instance_on_node ON instance (node_pk) WHERE state <> 'completed';
CREATE INDEX instance_expiring ON instance (expires) WHERE expires IS NOT NULL;
