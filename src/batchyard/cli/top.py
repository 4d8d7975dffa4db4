"""A picture of pools, nodes and running tasks, once or again and again."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from batchyard.cli import layout, streams, tables
from batchyard.cli.client import Client, Refused
from batchyard.cli.layout import Column

PERIOD_S = 1.0
_MOST_TASKS = 50
_MOST_LOOKED_AT = 5000
"""How many tasks of a job are searched for running ones where the server cannot filter."""
_HEADS = {column.head: column for column in (*tables.TASKS, *tables.NODES)}
_RUNNING = (
    Column("JOB", lambda found, now: found["job"], keep=8),
    *(_HEADS[head] for head in ("TASK", "STATE")),
    tables.TASKS[4],
    *(_HEADS[head] for head in ("TOOK", "COMMAND")),
)
_NODES = (
    Column("POOL", lambda found, now: found["pool"], keep=8),
    Column("NODE", lambda found, now: tables.short(found["id"]), keep=9),
    *(_HEADS[head] for head in ("STATE", "SLOTS", "RUN")),
)

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


def draw(picture: Picture) -> list[str]:
    """The picture as lines."""
    now = tables.now()
    slots = {pool["id"]: pool.get("taskSlotsPerNode", 1) for pool in picture.pools}
    nodes = [{**node, "pool": pool["id"], "taskSlotsPerNode": slots[pool["id"]]} for pool, node in picture.nodes]
    running = [{**task, "job": job} for job, task in picture.running]
    parts: tuple[tuple[tuple[Column, ...], Sequence[Found]], ...] = (
        (tables.POOLS, picture.pools),
        (_NODES, nodes),
        (tables.JOBS, picture.jobs),
        (_RUNNING, running),
    )
    shown: list[str] = []
    for columns, found in parts:
        chosen = tuple(column for column in columns if not column.wide)
        rows = [tables.cells(chosen, one, now) for one in found]
        shown += [*layout.lines(chosen, rows, streams.columns(sys.stdout), streams.paint, len(rows) + 1), ""]
    return shown[:-1]


def show(batch: Client, *, once: bool) -> None:
    """Draw until Ctrl-C: in place on a terminal, else a plain text a second."""
    if once:
        print("\n".join(draw(look(batch))), flush=True)
        return
    live = sys.stdout.isatty()
    before, after = ("\x1b[H", "\x1b[J") if live else ("", "\n")
    print("\x1b[?1049h" if live else "", end="")
    try:
        while True:
            clear = "\x1b[K\n" if live else "\n"
            lines = draw(look(batch))
            print(before + clear.join(lines[: shutil.get_terminal_size().lines - 1] if live else lines) + after, flush=True)
            time.sleep(PERIOD_S)
    finally:
        print("\x1b[?1049l" if live else "", end="", flush=True)
