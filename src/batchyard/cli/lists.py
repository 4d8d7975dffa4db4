"""The lists: jobs, tasks, nodes and pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from batchyard.cli import output, select, tables
from batchyard.cli.client import Client, Refused
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem
from batchyard.cli.where import Query

Found = dict[str, Any]
Shown = Mapping[str, Any]


def jobs(batch: Client, *, jobs: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the jobs with their task counts."""
    words = select.with_last(batch, jobs, "jobs")
    wanted = select.named(select.query("job", pick), words)
    bare = shown["output"] in ("id", "name")

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in select.pages(batch, wanted, "jobs"):
            yield page if bare else counted(batch, page)

    show(pages, tables.JOBS, shown, sought(words, pick, "none of the jobs is called {}"))


def sought(words: Sequence[str], pick: select.Pick, nothing: str, *, ranges: bool = False) -> select.Sought:
    """What has to be in a list: all that was named, unless options choose among it."""
    return select.Sought(() if select.chosen(pick) or pick["limit"] else words, nothing.format, ranges=ranges)


def show(pages: Callable[[], Iterator[Sequence[msgspec.Raw]]], columns: Sequence[Column], shown: Shown, named: select.Sought) -> None:
    """Print a list. Raises Problem for what was named and is not in it; who watches may wait for that."""
    if shown["watch"]:
        output.show(pages, columns, shown)
        return
    output.show(lambda: named.seen(pages()), columns, shown)
    named.check()


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
    path = ("jobs", where, "tasks")
    words = select.with_last(batch, tasks, *path)
    wanted = select.named(select.query("task", pick), words, ranges=True)
    # What is not shown need not come: a page of tasks is then a fraction.
    fields = "id,displayName" if shown["output"] in ("id", "name") and not wanted.tests and wanted.sort is None else ""

    named = sought(words, pick, f"no task of {where} is called {{}}", ranges=True)
    show(lambda: select.pages(batch, wanted, *path, select_=fields), tables.TASKS, shown, named)


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
        return
    found = False
    for one in select.listed(batch, select.pattern(Query(), pool or "*"), "pools"):
        found = True
        yield one
    if pool and not found:
        raise Problem(f"none of the pools is called {pool}")


def pools(batch: Client, *, pools: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the pools."""
    words = select.with_last(batch, pools, "pools")
    wanted = select.named(select.query("pool", pick), words)
    show(lambda: select.pages(batch, wanted, "pools"), tables.POOLS, shown, sought(words, pick, "none of the pools is called {}"))


def simple(
    batch: Client, columns: Sequence[Any], shown: Shown, *path: str, make: Callable[[Found], Found] | None = None, **query: str
) -> None:
    """Print a list as the service has it, or each entry as `make` makes it."""

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in batch.raw(*path, **query):
            yield page if make is None else [output.raw(make(msgspec.json.decode(one))) for one in page]

    output.show(pages, columns, shown)
