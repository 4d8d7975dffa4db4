"""Which job or task a person means by a few words."""

from __future__ import annotations

from typing import Any

from batchyard.cli.client import Client, Refused
from batchyard.cli.problem import Problem

DEFAULT = "default"
"""Id of the pool and the job of those who name none."""


def the_task(batch: Client, name: str, job: str | None) -> tuple[str, str]:
    """(job, task) of `TASK` or `JOB/TASK`; a bare task is looked for in the default job first, then in all. Raises Problem."""
    front, slash, back = name.rpartition("/")
    if slash or job:
        where, task = (front, back) if slash else (job or "", name)
        batch.get("jobs", where, "tasks", task)
        return where, task
    if _has(batch, DEFAULT, name):
        return DEFAULT, name
    found = [one["id"] for one in batch.listed("jobs") if one["id"] != DEFAULT and _has(batch, one["id"], name)]
    if not found:
        raise Problem(f"no job has a task {name}")
    if len(found) > 1:
        raise Problem(f"several jobs have a task {name}; say which: " + ", ".join(f"{one}/{name}" for one in found[:5]))
    return found[0], name


def job_or_task(batch: Client, name: str, job: str | None) -> tuple[str, str | None]:
    """(job, task), the task None when a job is meant. Raises Problem."""
    if not job and "/" not in name and _exists(batch, "JobNotFound", "jobs", name):
        return name, None
    try:
        return the_task(batch, name, job)
    except Problem:
        if job or "/" in name:
            raise
        raise Problem(f"there is no job {name}, and no job has a task {name}") from None


def _has(batch: Client, job: str, task: str) -> bool:
    return _exists(batch, "TaskNotFound", "jobs", job, "tasks", task)


def _exists(batch: Client, missing: str, *path: str) -> bool:
    try:
        found: dict[str, Any] = batch.get(*path)
    except Refused as refused:
        if refused.error in (missing, "JobNotFound", "InvalidUri"):
            return False
        raise
    return bool(found)
