-- When the directory of a preparation or release task is to be removed; told when its job is completed.
ALTER TABLE special_task ADD COLUMN expires BIGINT;
CREATE INDEX special_task_by_expiry ON special_task (expires) WHERE expires IS NOT NULL;
