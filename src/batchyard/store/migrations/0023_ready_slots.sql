-- Slots of the tasks that may start, kept as the other counters are: those of a multi-instance task count for all of its instances.
ALTER TABLE job_counts ADD COLUMN ready_slots BIGINT NOT NULL DEFAULT 0;
UPDATE job_counts SET ready_slots = (SELECT coalesce(sum(slots), 0) FROM task WHERE task.job_pk = job_counts.job_pk AND ready = 1);
