-- Autoscale: the formula of a pool and when it is due, samples of a pool's counters, the last evaluations.

ALTER TABLE pool ADD COLUMN autoscale_formula TEXT;
ALTER TABLE pool ADD COLUMN autoscale_interval BIGINT;
ALTER TABLE pool ADD COLUMN autoscale_next BIGINT;
ALTER TABLE pool ADD COLUMN autoscale_run ${BYTES};
ALTER TABLE pool ADD COLUMN autoscale_enabled BIGINT;
ALTER TABLE pool ADD COLUMN autoscale_pending BIGINT;
CREATE INDEX pool_scaled ON pool (autoscale_next) WHERE autoscale_next IS NOT NULL;
CREATE INDEX job_of_pool ON job (pool_key, state);

-- One row per pool and 30 seconds; `at` is when these began.
CREATE TABLE autoscale_sample (
    pool_pk BIGINT NOT NULL,
    at BIGINT NOT NULL,
    active_tasks BIGINT NOT NULL,
    running_tasks BIGINT NOT NULL,
    succeeded_tasks BIGINT NOT NULL,
    failed_tasks BIGINT NOT NULL,
    active_task_slots BIGINT NOT NULL,
    running_task_slots BIGINT NOT NULL,
    task_slots_per_node BIGINT NOT NULL,
    current_dedicated_nodes BIGINT NOT NULL,
    current_low_priority_nodes BIGINT NOT NULL,
    preempted_node_count BIGINT NOT NULL,
    usable_node_count BIGINT NOT NULL,
    sample_node_count BIGINT NOT NULL,
    PRIMARY KEY (pool_pk, at)
);

CREATE TABLE autoscale_run (
    pk ${NAME},
    pool_pk BIGINT NOT NULL,
    body ${BYTES} NOT NULL
);
CREATE INDEX autoscale_run_by_pool ON autoscale_run (pool_pk, pk);
