"""How jobs end: on request, when their tasks are complete, when their wall clock is spent."""

from __future__ import annotations

from batchyard.engine import wakes
from batchyard.engine.changes.jobs import change_job
from batchyard.model.words import DisableJobOption
from batchyard.rules import transitions
from batchyard.rules.transitions import JobHappened
from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx


def disable_job(tx: Tx, job: JobRow, option: DisableJobOption, now: int, modified: int | None = None) -> JobRow:
    """Begin to disable a job: upkeep deals with what runs as the option says and then it is disabled (contract 2.3)."""
    job = change_job(
        tx,
        job,
        JobHappened.DISABLE_REQUESTED,
        now,
        cause=option,
        disable_option=option,
        modified=job.modified if modified is None else modified,
    )
    tx.wake(wakes.UPKEEP)
    return job


def end_job(tx: Tx, job: JobRow, reason: str, now: int, modified: int | None = None, *, forced: bool = False) -> JobRow:
    """Begin to end a job: upkeep ends what runs and then completes it; waiting tasks stay active for ever (contract 2.3)."""
    job = change_job(
        tx,
        job,
        JobHappened.TERMINATE_REQUESTED,
        now,
        cause=reason,
        terminate_reason=reason,
        deadline=None,
        forced=int(forced),
        modified=job.modified if modified is None else modified,
    )
    tx.wake(wakes.UPKEEP)
    return job


def end_when_complete(tx: Tx, job: JobRow, now: int) -> JobRow:
    """End a job that wishes so and has no task left to run; a job without tasks counts as complete (contract 3.9)."""
    if not job.ends_when_complete or not transitions.JOB.allows(job.state, JobHappened.TERMINATE_REQUESTED):
        return job
    tx.write()
    counts = job_rows.counts(tx, job.pk)
    return job if counts.active or counts.running else end_job(tx, job, "AllTasksComplete", now)
