"""`batchyard job`: jobs are made, held, ended and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from batchyard.cli import bodies, daily, lists, output, select, tables
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Usage
from batchyard.cli.streams import confirmed, many
from batchyard.cli.where import Query

Shown = Mapping[str, Any]


def _common(pool: str | None, priority: int | None, parallel: int | None, retries: int | None, metadata: list[str]) -> dict[str, Any]:
    return {
        "poolInfo": {"poolId": pool},
        "priority": priority,
        "maxParallelTasks": parallel,
        "constraints": {"maxTaskRetryCount": retries},
        "metadata": bodies.pairs(metadata, "--metadata"),
    }


def create(
    batch: Client,
    *,
    name: str | None,
    pool: str | None,
    priority: int | None,
    parallel: int | None,
    retries: int | None,
    metadata: list[str],
    no_dependencies: bool,
    file: str | None,
    dry_run: bool | None,
) -> None:
    """Add a job."""
    body = bodies.named(bodies.laid(file, _common(pool, priority, parallel, retries, metadata)), name, "job")
    if not body.get("poolInfo"):
        raise Usage("say on which pool it runs: --pool POOL")
    body.setdefault("usesTaskDependencies", not no_dependencies)
    if bodies.send(batch, "job", body, "jobs", dry=bool(dry_run)):
        print(body["id"])


def show(batch: Client, *, jobs: Sequence[str], shown: Shown) -> None:
    """Show jobs."""
    found = [{**batch.get("jobs", one), "taskCounts": lists.counts_of(batch, one)} for one in select.ids(batch, "jobs", jobs)]
    output.entries(found, tables.JOBS, shown)


def update(
    batch: Client,
    *,
    job: str,
    pool: str | None,
    priority: int | None,
    parallel: int | None,
    retries: int | None,
    metadata: list[str],
    replace: bool,
    file: str | None,
    dry_run: bool | None,
) -> None:
    """Change a job."""
    body = bodies.laid(file, _common(pool, priority, parallel, retries, metadata))
    if not body:
        raise Usage("say what to change, with options or with a file")
    what, method = ("job replace", "PUT") if replace else ("job update", "PATCH")
    bodies.send(batch, what, body, "jobs", job, method=method, dry=bool(dry_run))


def delete(batch: Client, *, jobs: Sequence[str], force: bool, yes: bool | None) -> None:
    """Delete jobs and their tasks."""
    found = select.ids(batch, "jobs", jobs)
    tasks = sum(sum(counts.get(name, 0) for name in ("active", "running", "completed")) for counts in map(_counts(batch), found))
    called = f"the job {found[0]}" if len(found) == 1 else many(len(found), "job")
    if tasks:
        confirmed(f"Delete {called} with {many(tasks, 'task')} and their files?", yes=bool(yes))
    for job in found:
        batch.delete("jobs", job, force="true" if force else "")
        print(f"the job {job} is being deleted")


def _counts(batch: Client) -> Any:
    return lambda job: lists.counts_of(batch, job)


def enable(batch: Client, *, jobs: Sequence[str]) -> None:
    """Let the tasks of a job start again."""
    for job in select.ids(batch, "jobs", jobs):
        batch.post("jobs", job, "enable")
        print(f"the job {job} is enabled")


def disable(batch: Client, *, jobs: Sequence[str], wanted: str, yes: bool | None) -> None:
    """Let no task of a job start."""
    for job in select.ids(batch, "jobs", jobs):
        running = lists.counts_of(batch, job).get("running", 0)
        if running and wanted != "wait":
            confirmed(f"Disable the job {job}? The work of {many(running, 'running task')} is lost.", yes=bool(yes))
        batch.post("jobs", job, "disable", body={"disableTasks": wanted})
        print(f"the job {job} is disabled")


def terminate(batch: Client, *, jobs: Sequence[str], reason: str | None, force: bool, yes: bool | None) -> None:
    """End jobs and all their tasks."""
    for job in select.ids(batch, "jobs", jobs):
        daily.end_job(batch, job, reason, force=force, yes=bool(yes))


def wait(batch: Client, *, job: str) -> int:
    """Wait for all tasks of a job; 1 when any failed."""
    [where] = select.ids(batch, "jobs", [job])
    batch.get("jobs", where)
    return daily.wait_for_job(batch, where)


def retry(batch: Client, *, job: str) -> None:
    """Run all failed tasks of a job again."""
    [where] = select.ids(batch, "jobs", [job])
    daily.retry(batch, job=where, tasks=(), pick={**select.NO_PICK, "failed": True})


def progress(batch: Client, *, jobs: Sequence[str], shown: Shown) -> None:
    """Say how far jobs have come."""

    words = select.with_last(batch, jobs, "jobs")

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in select.pages(batch, select.named(Query(), words), "jobs", select_="id,state"):
            yield [output.raw(_progress(msgspec.json.decode(one))) for one in lists.counted(batch, page)]

    lists.show(pages, tables.PROGRESS, shown, lists.sought(words, select.NO_PICK, "none of the jobs is called {}"))


def _progress(job: dict[str, Any]) -> dict[str, Any]:
    counts = job.get("taskCounts") or {}
    done, left = counts.get("completed", 0), counts.get("active", 0) + counts.get("running", 0)
    return {**job, "percent": 100 * done // (done + left) if done + left else 0}


def _special(kind: str, name: str) -> Any:
    return lambda found, now: (found.get(f"job{kind}TaskExecutionInfo") or {}).get(name, "")


_PREPARATION = (
    Column("POOL", lambda found, now: found.get("poolId", ""), keep=8),
    Column("NODE", lambda found, now: found.get("nodeId", ""), keep=9),
    *(
        Column(head, _special(kind, name), number=name == "exitCode", keep=7 - at)
        for kind in ("Preparation", "Release")
        for at, (head, name) in enumerate(((kind.upper(), "state"), ("EXIT", "exitCode")))
    ),
)


def preparation(batch: Client, *, job: str, shown: Shown) -> None:
    """Show how preparation and release tasks went, per node."""
    lists.simple(batch, _PREPARATION, shown, "jobs", job, "jobpreparationandreleasetaskstatus")
