"""Finding what a client names, or the contract's error."""

from __future__ import annotations

from batchyard.model.errors import BatchError
from batchyard.model.states import JobState
from batchyard.store import jobs as job_rows
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader

_CLOSED = {JobState.TERMINATING: "JobBeingTerminated", JobState.COMPLETED: "JobCompleted", JobState.DELETING: "JobBeingDeleted"}


def open_job(reader: Reader, job_id: str) -> JobRow:
    """Job that accepts changes. Raises JobNotFound, JobBeingTerminated, JobCompleted, JobBeingDeleted (contract 2.9)."""
    found = job(reader, job_id)
    if found.state in _CLOSED:
        raise BatchError(_CLOSED[found.state])
    return found


def job(reader: Reader, job_id: str) -> JobRow:
    """Job by id. Raises JobNotFound."""
    row = job_rows.find(reader, job_id)
    if row is None:
        raise BatchError("JobNotFound")
    return row
