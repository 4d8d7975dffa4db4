"""How jobs end: on request, when their tasks are complete, when their wall clock is spent."""

from __future__ import annotations

from batchyard.engine import wakes
from batchyard.model.words import DisableJobOption
from batchyard.rules import transitions
from batchyard.rules.transitions import JobHappened
from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobRow
from batchyard.store.tx import Tx


def change(tx: Tx, job: JobRow, happened: JobHappened, now: int, *, cause: str | None = None, **changes: object) -> None:
    """Move a job to the state that follows."""
    state = transitions.JOB.after(job.state, happened)
    job_rows.move(tx, job, state=state, state_time=now, previous_state=job.state, previous_time=job.state_time, **changes)
    tx.log(now, "job", job.pk, happened, old=job.state, new=state, cause=cause)


def disable_job(tx: Tx, job: JobRow, option: DisableJobOption, now: int, modified: int | None = None) -> None:
    """Begin to disable a job: upkeep deals with what runs as the option says and then it is disabled (contract 2.3)."""
    change(
        tx, job, JobHappened.DISABLE_REQUESTED, now, cause=option,
        disable_option=option, modified=job.modified if modified is None else modified,
    )  # fmt: skip
    tx.wake(wakes.UPKEEP)


def end_job(tx: Tx, job: JobRow, reason: str, now: int, modified: int | None = None, *, forced: bool = False) -> None:
    """Begin to end a job: upkeep ends what runs and then completes it; waiting tasks stay active for ever (contract 2.3)."""
    change(
        tx, job, JobHappened.TERMINATE_REQUESTED, now, cause=reason,
        terminate_reason=reason, deadline=None, forced=int(forced), modified=job.modified if modified is None else modified,
    )  # fmt: skip
    tx.wake(wakes.UPKEEP)


def end_when_complete(tx: Tx, job_pk: int, now: int) -> None:
    """End a job that wishes so and has no task left to run; a job without tasks counts as complete (contract 3.9)."""
    job = job_rows.get(tx, job_pk)
    if not job.ends_when_complete or not transitions.JOB.allows(job.state, JobHappened.TERMINATE_REQUESTED):
        return
    tx.flush()
    counts = job_rows.counts(tx, job_pk)
    if counts.active == 0 and counts.running == 0:
        end_job(tx, job, "AllTasksComplete", now)
