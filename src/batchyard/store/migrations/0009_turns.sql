-- What placement finds jobs by, beside the counters that decide it: an index over both leads straight to who comes next.

-- `smallest`: no ready task of the job needs fewer slots; 0 while nobody has looked since the last one became ready.
ALTER TABLE job_counts ADD COLUMN smallest BIGINT NOT NULL DEFAULT 0;
-- Copies of what the job says; `open` is 1 while it is active.
ALTER TABLE job_counts ADD COLUMN pool_key TEXT NOT NULL DEFAULT '';
ALTER TABLE job_counts ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN max_parallel BIGINT NOT NULL DEFAULT -1;
ALTER TABLE job_counts ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN preemptible INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_counts ADD COLUMN prepares INTEGER NOT NULL DEFAULT 0;
UPDATE job_counts SET
    pool_key = (SELECT pool_key FROM job WHERE job.pk = job_pk),
    priority = (SELECT priority FROM job WHERE job.pk = job_pk),
    max_parallel = (SELECT max_parallel FROM job WHERE job.pk = job_pk),
    open = (SELECT CASE WHEN state = 'active' THEN 1 ELSE 0 END FROM job WHERE job.pk = job_pk),
    preemptible = (SELECT preemptible FROM job WHERE job.pk = job_pk),
    prepares = (SELECT CASE WHEN preparation_id IS NULL THEN 0 ELSE 1 END FROM job WHERE job.pk = job_pk)
    WHERE job_pk IN (SELECT pk FROM job);
-- Jobs of which a task may start, in the order of their turns: who runs less first, or who is older first.
CREATE INDEX job_waiting ON job_counts (pool_key, priority DESC, running, job_pk, smallest)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel);
CREATE INDEX job_waiting_by_age ON job_counts (pool_key, priority DESC, job_pk, smallest)
    WHERE ready > 0 AND open = 1 AND (max_parallel < 0 OR running < max_parallel);
-- Jobs whose running tasks may be pushed off a node.
CREATE INDEX job_yielding ON job_counts (pool_key, priority) WHERE preemptible = 1 AND running > 0 AND open = 1;
-- Job managers that ran before and wait to run again: hardly ever one.
CREATE INDEX task_restarted ON task (manager, job_pk) WHERE manager = 1 AND ready = 1 AND run > 0;
-- The node that is held for a task against its equals stays so until it starts: it goes before them.
ALTER TABLE task ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;
CREATE INDEX task_holding ON task (holds, job_pk) WHERE holds = 1 AND ready = 1;

-- taskSchedulingPolicy.jobDefaultOrder is creationtime.
ALTER TABLE pool ADD COLUMN oldest_first INTEGER NOT NULL DEFAULT 0;
UPDATE pool SET oldest_first = 1 WHERE CAST(body AS TEXT) LIKE '%"jobDefaultOrder":"creationtime"%';
