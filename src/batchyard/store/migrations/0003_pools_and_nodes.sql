-- Start tasks, node actions (reboot, reimage, deallocate, remove, preempt), recent tasks, sizes of nodes.

-- What happens to the node once its tasks have left it, how they leave, since when, and the time before which it waits.
ALTER TABLE node ADD COLUMN action TEXT;
ALTER TABLE node ADD COLUMN action_option TEXT;
ALTER TABLE node ADD COLUMN action_since BIGINT;
ALTER TABLE node ADD COLUMN action_after BIGINT;
-- The start task that the node booted with, and the keys of its last tasks, newest first, each followed by a comma.
ALTER TABLE node ADD COLUMN start_task ${BYTES};
ALTER TABLE node ADD COLUMN recent TEXT NOT NULL DEFAULT '';
-- What a node of its size gets, 0 for no limit, and where it comes from.
ALTER TABLE node ADD COLUMN cores INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN memory BIGINT NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN provider TEXT NOT NULL DEFAULT 'local';
-- What went wrong when it was launched last.
ALTER TABLE node ADD COLUMN launch_error TEXT;

-- A preparation that has to be made again, because its node was rebooted.
ALTER TABLE special_task ADD COLUMN stale INTEGER NOT NULL DEFAULT 0;
CREATE INDEX special_task_by_node ON special_task (node_pk, kind);
-- A problem keeps tasks from starting; the last launch that was tried; losses of a special task in a row.
ALTER TABLE node ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN tried BIGINT;
ALTER TABLE special_task ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
