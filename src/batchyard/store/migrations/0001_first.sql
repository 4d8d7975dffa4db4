-- ${KEY}: integer key in arrival order; ${NAME}: the same and never given a second time, because others know it; ${BYTES}: binary text. Portable to SQLite and PostgreSQL otherwise.
-- Times are microseconds since 1970. Hot columns apart from bodies (the client's JSON, defaults filled in).

CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    next BIGINT NOT NULL
);

CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until BIGINT NOT NULL
);

CREATE TABLE pool (
    pk ${NAME},
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    state_time BIGINT NOT NULL,
    allocation_state TEXT NOT NULL,
    allocation_time BIGINT NOT NULL,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    target_dedicated INTEGER NOT NULL,
    target_low_priority INTEGER NOT NULL,
    slots_per_node INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    resize_timeout BIGINT NOT NULL,
    deallocation_option TEXT,
    resize_errors ${BYTES},
    body ${BYTES} NOT NULL
);
CREATE UNIQUE INDEX pool_by_id ON pool (lower(id));

CREATE TABLE node (
    pk ${NAME},
    pool_pk BIGINT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    state_time BIGINT NOT NULL,
    scheduling_state TEXT NOT NULL,
    dedicated INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    slots_used INTEGER NOT NULL DEFAULT 0,
    tasks_running INTEGER NOT NULL DEFAULT 0,
    tasks_run BIGINT NOT NULL DEFAULT 0,
    tasks_succeeded BIGINT NOT NULL DEFAULT 0,
    session BIGINT NOT NULL DEFAULT 0,
    last_seen BIGINT,
    allocated BIGINT NOT NULL,
    booted BIGINT,
    launches INTEGER NOT NULL DEFAULT 0,
    handle TEXT,
    facts ${BYTES},
    errors ${BYTES}
);
CREATE UNIQUE INDEX node_by_id ON node (pool_pk, lower(id));

CREATE TABLE job (
    pk ${NAME},
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    state_time BIGINT NOT NULL,
    previous_state TEXT,
    previous_time BIGINT,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    deadline BIGINT,
    pool_key TEXT NOT NULL,
    priority INTEGER NOT NULL,
    max_parallel INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    uses_dependencies INTEGER NOT NULL,
    ends_when_complete INTEGER NOT NULL,
    acts_on_failure INTEGER NOT NULL,
    terminate_reason TEXT,
    environment ${BYTES},
    body ${BYTES} NOT NULL
);
CREATE UNIQUE INDEX job_by_id ON job (lower(id));
CREATE INDEX job_by_pool ON job (pool_key, priority) WHERE state = 'active';
CREATE INDEX job_by_deadline ON job (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX job_changing ON job (pk) WHERE state IN ('terminating', 'deleting');

-- Kept in the transaction of every task transition, so a count never reads tasks.
CREATE TABLE job_counts (
    job_pk ${KEY},
    ready BIGINT NOT NULL DEFAULT 0,
    active BIGINT NOT NULL DEFAULT 0,
    running BIGINT NOT NULL DEFAULT 0,
    completed BIGINT NOT NULL DEFAULT 0,
    succeeded BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    active_slots BIGINT NOT NULL DEFAULT 0,
    running_slots BIGINT NOT NULL DEFAULT 0,
    completed_slots BIGINT NOT NULL DEFAULT 0,
    succeeded_slots BIGINT NOT NULL DEFAULT 0,
    failed_slots BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE task (
    pk ${KEY},
    job_pk BIGINT NOT NULL,
    id TEXT NOT NULL,
    number INTEGER,
    state TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    ready INTEGER NOT NULL,
    unmet INTEGER NOT NULL DEFAULT 0,
    satisfied INTEGER NOT NULL DEFAULT 0,
    slots INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    conditions ${BYTES},
    run INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    requeues INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    state_time BIGINT NOT NULL,
    previous_state TEXT,
    previous_time BIGINT,
    node_pk BIGINT,
    started BIGINT,
    ended BIGINT,
    last_retry BIGINT,
    last_requeue BIGINT,
    exit_code INTEGER,
    result TEXT,
    failure ${BYTES}
);
CREATE UNIQUE INDEX task_by_id ON task (job_pk, lower(id));
CREATE INDEX task_in_order ON task (job_pk, pk);
CREATE INDEX task_ready ON task (job_pk, pk) WHERE ready = 1;
CREATE INDEX task_on_node ON task (node_pk) WHERE state IN ('preparing', 'running');
CREATE INDEX task_running ON task (job_pk) WHERE state IN ('preparing', 'running');
CREATE INDEX task_by_number ON task (job_pk, number) WHERE number IS NOT NULL;

CREATE TABLE task_body (
    pk ${KEY},
    body ${BYTES} NOT NULL
);

-- One row per unmet dependency. `parent` is a task id in lower case, or `#n` for a number of a range.
CREATE TABLE dependency (
    job_pk BIGINT NOT NULL,
    parent TEXT NOT NULL,
    child BIGINT NOT NULL,
    PRIMARY KEY (job_pk, parent, child)
);

CREATE INDEX dependency_by_child ON dependency (child);

-- Ranges too wide to spell out: `remaining` numbers are not satisfied yet.
CREATE TABLE dependency_range (
    pk ${KEY},
    job_pk BIGINT NOT NULL,
    low BIGINT NOT NULL,
    high BIGINT NOT NULL,
    remaining BIGINT NOT NULL,
    child BIGINT NOT NULL
);
CREATE INDEX dependency_range_by_low ON dependency_range (job_pk, low);
CREATE INDEX dependency_range_by_child ON dependency_range (child);

-- Directories that a node still has to remove.
CREATE TABLE removal (
    pk ${NAME},
    node_pk BIGINT NOT NULL,
    directory TEXT NOT NULL
);
CREATE INDEX removal_by_node ON removal (node_pk);

CREATE TABLE event (
    pk ${KEY},
    at BIGINT NOT NULL,
    what TEXT NOT NULL,
    subject BIGINT NOT NULL,
    until BIGINT,
    happened TEXT NOT NULL,
    old TEXT,
    new TEXT,
    cause TEXT
);
CREATE INDEX event_by_subject ON event (what, subject);
CREATE INDEX event_by_time ON event (at);
