"""Changes of the state of jobs."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import JOB, JobHappened
from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx


def change_job(tx: Tx, job: JobRow, happened: JobHappened, now: int, *, cause: str | None = None, **columns: Any) -> JobRow:
    """Move a job to the state that follows; the job as it is then. Raises IllegalChange, Conflict."""
    state = JOB.after(job.state, happened)
    columns |= {"state": state, "state_time": now, "previous_state": job.state, "previous_time": job.state_time}
    fresh = job_rows.set_state(tx, job, columns)
    tx.log(now, "job", job.pk, happened, old=job.state, new=state, cause=cause)
    return fresh
