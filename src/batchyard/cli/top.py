"""A picture of pools, nodes and running tasks, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from batchyard.cli import tables
from batchyard.cli.client import Client, Refused

PERIOD_S = 1.0
_MOST_TASKS = 50
_MOST_LOOKED_AT = 5000
"""How many tasks of a job are searched for running ones where the server cannot filter."""
_RUNNING = ("JOB", "TASK", "STATE", "NODE", "TOOK", "COMMAND")
_NODES = ("POOL", "NODE", "STATE", "SLOTS", "RUN")

Found = dict[str, Any]


@dataclass
class Picture:
    """What is there at a moment."""

    pools: list[Found]
    nodes: list[tuple[Found, Found]]
    """(pool, node)"""
    jobs: list[Found]
    """Those that are not completed, with their `taskCounts`."""
    running: list[tuple[str, Found]]
    """(job, task), the first of them."""


def look(batch: Client) -> Picture:
    """Ask the server. Raises Problem."""
    pools = list(batch.listed("pools"))
    nodes = [(pool, node) for pool in pools for node in _listed(batch, "PoolNotFound", "pools", pool["id"], "nodes")]
    jobs = [job for job in batch.listed("jobs") if job["state"] != "completed"]
    for job in jobs:
        job.update(_counts(batch, job["id"]))
    busy = (job["id"] for job in jobs if job.get("taskCounts", {}).get("running"))
    running = list(islice(((job, task) for job in busy for task in _running(batch, job)), _MOST_TASKS))
    return Picture(pools, nodes, jobs, running)


def _listed(batch: Client, gone: str, *path: str, **query: str) -> Iterator[Found]:
    """A list of something that may go meanwhile."""
    try:
        yield from batch.listed(*path, **query)
    except Refused as refused:
        if refused.error != gone:
            raise


def _counts(batch: Client, job: str) -> Found:
    try:
        return batch.get("jobs", job, "taskcounts")
    except Refused:  # it is being deleted
        return {}


def _running(batch: Client, job: str) -> Iterator[Found]:
    try:
        yield from _listed(batch, "JobNotFound", "jobs", job, "tasks", filter_="state eq 'running'")
    except Refused as refused:
        if refused.error != "UnsupportedQueryParameter":
            raise
        some = islice(_listed(batch, "JobNotFound", "jobs", job, "tasks"), _MOST_LOOKED_AT)
        yield from (task for task in some if task["state"] == "running")


def draw(picture: Picture) -> Any:
    """The picture as something that rich prints."""
    from rich.console import Group

    now = tables.now()
    slots = {pool["id"]: pool.get("taskSlotsPerNode", 1) for pool in picture.pools}
    nodes = [
        [pool["id"], tables.short(node["id"]), node["state"], f"{node.get('runningTaskSlotsCount', 0)}/{slots[pool['id']]}",
         node.get("totalTasksRun", 0)]
        for pool, node in picture.nodes
    ]  # fmt: skip
    tasks = []
    for job, task in picture.running:
        name, state, _, _, node, took, _, command = tables.task(task, now)
        tasks.append([job, name, state, node, took, command])
    return Group(
        tables.table(tables.POOLS, [tables.pool(pool, now) for pool in picture.pools]), "",
        tables.table(_NODES, nodes), "",
        tables.table(tables.JOBS, [tables.job(job, now) for job in picture.jobs]), "",
        tables.table(_RUNNING, tasks),
    )  # fmt: skip


def show(batch: Client, *, once: bool) -> None:
    """Draw until Ctrl-C: in place on a terminal, else a plain text a second."""
    console = tables.console()
    if once or not console.is_terminal:
        while True:
            with console.capture() as text:
                console.print(draw(look(batch)))
            print("\n".join(line.rstrip() for line in text.get().splitlines()), flush=True)
            if once:
                return
            print(flush=True)
            time.sleep(PERIOD_S)
    from rich.live import Live

    with Live(draw(look(batch)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(PERIOD_S)
            live.update(draw(look(batch)), refresh=True)
