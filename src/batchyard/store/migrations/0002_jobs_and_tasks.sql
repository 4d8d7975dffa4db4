-- Job managers, preparation and release tasks, disabling, retention, statistics.

ALTER TABLE job ADD COLUMN disable_option TEXT;
ALTER TABLE job ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN ends_with_manager INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN preemptible INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN preparation_id TEXT;
ALTER TABLE job ADD COLUMN release_id TEXT;

ALTER TABLE job_counts ADD COLUMN retries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN user_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN kernel_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN wall_us BIGINT NOT NULL DEFAULT 0;

ALTER TABLE task ADD COLUMN manager INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN exclusive INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN dedicated_only INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN wants_token INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN affinity TEXT;
ALTER TABLE task ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN retention BIGINT;
ALTER TABLE task ADD COLUMN expires BIGINT;
ALTER TABLE task ADD COLUMN user_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN kernel_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN wall_us BIGINT NOT NULL DEFAULT 0;

DROP INDEX job_changing;
CREATE INDEX job_changing ON job (pk) WHERE state IN ('disabling', 'enabling', 'terminating', 'deleting');
CREATE INDEX job_by_creation ON job (created);
DROP INDEX task_ready;
CREATE INDEX task_ready ON task (job_pk, slots, pk) WHERE ready = 1;
CREATE INDEX task_manager ON task (job_pk, manager) WHERE manager = 1;
CREATE INDEX task_expiring ON task (expires) WHERE expires IS NOT NULL;

-- One row per node and special task: job preparation and job release tasks.
CREATE TABLE special_task (
    pk ${KEY},
    job_pk BIGINT NOT NULL,
    node_pk BIGINT NOT NULL,
    kind TEXT NOT NULL,
    node_id TEXT NOT NULL,
    pool_id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    run INTEGER NOT NULL DEFAULT 1,
    retries INTEGER NOT NULL DEFAULT 0,
    started BIGINT NOT NULL,
    ended BIGINT,
    last_retry BIGINT,
    exit_code INTEGER,
    result TEXT,
    failure ${BYTES}
);
CREATE UNIQUE INDEX special_task_by_job ON special_task (job_pk, kind, node_pk);
CREATE INDEX special_task_running ON special_task (node_pk) WHERE state = 'running';
