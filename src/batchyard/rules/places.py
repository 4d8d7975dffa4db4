"""Where tasks lie below a node's root, for the server that names directories and the agent that makes them (contract 4.1)."""

from __future__ import annotations


def job_directory(job_id: str) -> str:
    """Directory of a job below the node's root; `schedule:job-n` is a directory of the schedule."""
    schedule, colon, run = job_id.partition(":")
    return f"workitems/{schedule}/{run if colon else 'job-1'}"


def task_directory(job_id: str, task_id: str) -> str:
    """Directory of a task below the node's root."""
    return f"{job_directory(job_id)}/{task_id}"
