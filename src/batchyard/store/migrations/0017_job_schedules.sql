-- Job schedules, and jobs that have a pool of their own.

CREATE TABLE job_schedule (
    pk ${NAME},
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    state_time BIGINT NOT NULL,
    previous_state TEXT,
    previous_time BIGINT,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    ended BIGINT,
    starts BIGINT,
    stops BIGINT,
    due BIGINT,
    look BIGINT,
    jobs BIGINT NOT NULL DEFAULT 0,
    newest_due BIGINT,
    missed BIGINT,
    missed_why TEXT,
    forced INTEGER NOT NULL DEFAULT 0,
    pool_id TEXT,
    pool_stale INTEGER NOT NULL DEFAULT 0,
    body ${BYTES} NOT NULL
);
CREATE UNIQUE INDEX job_schedule_by_id ON job_schedule (lower(id));
CREATE INDEX job_schedule_by_look ON job_schedule (look) WHERE look IS NOT NULL;
CREATE INDEX job_schedule_open ON job_schedule (pk) WHERE state NOT IN ('completed', 'deleting');

-- The schedule that made the job; the id of the pool that was made for it; why it could not be started.
ALTER TABLE job ADD COLUMN schedule_pk BIGINT;
ALTER TABLE job ADD COLUMN auto_pool TEXT;
ALTER TABLE job ADD COLUMN scheduling_error ${BYTES};
CREATE INDEX job_of_schedule ON job (schedule_pk, pk) WHERE schedule_pk IS NOT NULL;
