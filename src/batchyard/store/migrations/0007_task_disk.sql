-- How much of its disk a task of the node may take, in bytes; 0 for no limit.
ALTER TABLE node ADD COLUMN task_disk BIGINT NOT NULL DEFAULT 0;
