-- What filters find tasks by; tasks that run have an index already.

CREATE INDEX task_active ON task (job_pk, pk) WHERE state = 'active';
CREATE INDEX task_completed ON task (job_pk, pk) WHERE state = 'completed';
CREATE INDEX task_failed ON task (job_pk, pk) WHERE result = 'failure';
