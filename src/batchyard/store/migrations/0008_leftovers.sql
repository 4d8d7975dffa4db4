-- Nodes where a task ran before it moved on, and left its directory; task 0 stands for the special tasks of the job.

CREATE TABLE leftover (
    job_pk BIGINT NOT NULL,
    task_pk BIGINT NOT NULL,
    node_pk BIGINT NOT NULL,
    PRIMARY KEY (job_pk, task_pk, node_pk)
);
CREATE INDEX leftover_by_node ON leftover (node_pk);
