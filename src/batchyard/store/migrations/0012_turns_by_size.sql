-- Placement finds jobs by what their smallest task needs, each size in the order of turns: those that find no room are not even passed by.
DROP INDEX job_waiting;
DROP INDEX job_waiting_by_age;
CREATE INDEX job_by_size ON job_counts (pool_key, smallest, priority DESC, running, job_pk)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel);
CREATE INDEX job_by_size_and_age ON job_counts (pool_key, smallest, priority DESC, job_pk)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel);

-- `smallest` is -1 while the job may not run where there is room; `looked` is when that was last found.
ALTER TABLE job_counts ADD COLUMN looked BIGINT NOT NULL DEFAULT 0;
CREATE INDEX job_barred ON job_counts (pool_key, looked)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel) AND smallest = -1;

-- 1 where a manager that ran before may wait to run again.
ALTER TABLE job_counts ADD COLUMN restarted INTEGER NOT NULL DEFAULT 0;
UPDATE job_counts SET restarted = 1 WHERE job_pk IN (SELECT job_pk FROM task WHERE manager = 1 AND ready = 1 AND run > 0);
CREATE INDEX job_restarted ON job_counts (pool_key, priority DESC, running, job_pk)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel) AND restarted = 1;
DROP INDEX task_restarted;
