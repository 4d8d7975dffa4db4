-- What filters find tasks by. Tasks that are ready or run have an index already, so adding a task that is ready costs nothing more.

CREATE INDEX task_blocked ON task (job_pk, pk) WHERE state = 'active' AND ready = 0;
CREATE INDEX task_completed ON task (job_pk, pk) WHERE state = 'completed';
CREATE INDEX task_failed ON task (job_pk, pk) WHERE result = 'failure';
