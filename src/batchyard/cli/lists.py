"""The lists: jobs, tasks, nodes and pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from batchyard.cli import output, select, tables
from batchyard.cli.client import Client, Refused
from batchyard.cli.where import Query

Found = dict[str, Any]
Shown = Mapping[str, Any]


def jobs(batch: Client, *, jobs: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the jobs with their task counts."""
    wanted = select.named(select.query("job", pick), jobs)
    bare = shown["output"] in ("id", "name")

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in select.pages(batch, wanted, "jobs"):
            yield page if bare else counted(batch, page)

    output.show(pages, tables.JOBS, shown)


def counted(batch: Client, page: Sequence[msgspec.Raw]) -> list[msgspec.Raw]:
    """A page of jobs, each with its `taskCounts`."""
    from concurrent.futures import ThreadPoolExecutor

    found: list[Found] = [msgspec.json.decode(one) for one in page]
    with ThreadPoolExecutor(8) as several:
        for job, counts in zip(found, several.map(lambda job: counts_of(batch, job["id"]), found), strict=True):
            job["taskCounts"] = counts
    return [output.raw(job) for job in found]


def counts_of(batch: Client, job: str) -> Found:
    """Task counts of a job; none when it went meanwhile, or is being deleted."""
    try:
        counts: Found = batch.get("jobs", job, "taskcounts")["taskCounts"]
    except Refused:
        counts = {}
    return counts


def tasks(batch: Client, *, job: str, tasks: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the tasks of a job."""
    front, slash, back = job.rpartition("/")
    if slash:
        job, tasks = front, [back, *tasks]
    [where] = select.ids(batch, "jobs", [job])
    wanted = select.named(select.query("task", pick), tasks, ranges=True)
    path = ("jobs", where, "tasks")
    # What is not shown need not come: a page of tasks is then a fraction.
    fields = "id,displayName" if shown["output"] in ("id", "name") and not wanted.tests and wanted.sort is None else ""

    output.show(lambda: select.pages(batch, wanted, *path, select_=fields), tables.TASKS, shown)


def nodes(batch: Client, *, pool: str | None, shown: Shown, pick: select.Pick) -> None:
    """List the nodes of a pool, or of all."""
    wanted = select.query("node", pick)
    bare = pool is not None and shown["output"] not in ("table", "wide")  # as the service gives it

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for one in _pools(batch, pool):
            more = {"poolId": one["id"], "taskSlotsPerNode": one.get("taskSlotsPerNode", 1)}
            for page in select.pages(batch, wanted, "pools", one["id"], "nodes"):
                yield page if bare else [output.raw({**msgspec.json.decode(node), **more}) for node in page]

    output.show(pages, tables.NODES if pool else (tables.NODE_POOL, *tables.NODES), shown)


def _pools(batch: Client, pool: str | None) -> Iterator[Found]:
    if pool and not select.is_glob(pool):
        yield batch.get("pools", pool)
    else:
        yield from select.listed(batch, select.pattern(Query(), pool or "*"), "pools")


def pools(batch: Client, *, pools: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the pools."""
    wanted = select.named(select.query("pool", pick), pools)
    output.show(lambda: select.pages(batch, wanted, "pools"), tables.POOLS, shown)


def simple(
    batch: Client, columns: Sequence[Any], shown: Shown, *path: str, make: Callable[[Found], Found] | None = None, **query: str
) -> None:
    """Print a list as the service has it, or each entry as `make` makes it."""

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in batch.raw(*path, **query):
            yield page if make is None else [output.raw(make(msgspec.json.decode(one))) for one in page]

    output.show(pages, columns, shown)
