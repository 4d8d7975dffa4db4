"""A job with a million tasks: its pages and counts, the server's start and memory, and what is left of the rate of no-op tasks.

All wait but a block in its third quarter, which is completed: who looks for it, or past it, has to skip what is of the other state.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bodies
import meter
import msgspec
import rounds
from table import Line

from batchyard.engine.auto_pools import auto_pools
from batchyard.engine.clock import Clock
from batchyard.engine.work import tasks
from batchyard.model.job import JobCreateContent
from batchyard.model.task import TaskCreateContent
from batchyard.server.state import open_account
from batchyard.store.db import Database
from batchyard.store.tasks import TaskLine, select
from server import Broken, Server

SLOTS = 16
PAGE = 1_000
COMPLETED = 2_000
"""Two pages of them."""
_PER_UNIT = 5_000
_READS = 31
_decoder = msgspec.json.Decoder(TaskCreateContent)


def fill(directory: Path, n: int) -> float:
    """Add n tasks to job `queued` of pool `pool`, which is not there yet, without a server; seconds that it took.

    COMPLETED of them are that. The others are ready, but each needs one slot more than a node has, so they are still there when it
    is measured beside them.
    """
    open_account(directory)
    clock, db = Clock(), Database(directory / "batchyard.db")
    begun = time.monotonic()
    try:
        db.call(auto_pools.add, msgspec.convert({"id": "queued", "poolInfo": {"poolId": "pool"}}, JobCreateContent), clock.now())
        for first in range(0, n, _PER_UNIT):
            some = [_decoder.decode(bodies.body(f"task-{number:07}")) for number in range(first, min(first + _PER_UNIT, n))]
            for task in some:
                task.required_slots = SLOTS + 1
            db.call(tasks.add, "queued", some, clock.now())
        for number in range(_block(n), _block(n) + COMPLETED):
            db.call(tasks.terminate, "queued", f"task-{number:07}", clock.now())
    finally:
        db.close()
    return time.monotonic() - begun


def _block(n: int) -> int:
    """Number of the first completed task."""
    return n * 3 // 4


def lines(server: Server, empty: Server, n: int, pairs: int, no_ops: int) -> Iterator[Line]:
    """The figures of a server with n waiting tasks, beside an empty one."""
    yield Line(f"start with {n:,} tasks queued", f"{server.start_s:.2f} s", value=server.start_s, goals=(2.0,), unit=" s", floor=False)
    yield from _pages(server, n)
    yield _counts(server, n)
    yield from _listed(server, n)
    for each in (server, empty):
        each.add_pool("pool", 1, SLOTS)
    full, bare = rounds.Rounds(), rounds.Rounds()
    for _ in range(pairs):
        for each, seen in ((empty, bare), (server, full)):
            one = rounds.completing(each, "pool", 1, no_ops, prefix=f"round-{len(seen.rates)}-")
            seen.rates += one.rates
            seen.server_cpu += one.server_cpu
    yield _no_ops(full, bare)
    with_them, without = (meter.memory_mb([each.pid]) for each in (server, empty))
    grown, text = (with_them - without) * 1e6 / n, f"{with_them:.0f} MB, empty {without:.0f} MB"
    yield Line("memory (PSS) for a million queued", f"{grown:.0f} MB", value=grown, goals=(60.0,), unit=" MB", floor=False, cpu=text)


def _median_ms(read: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        read()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e3


def _pages(server: Server, n: int) -> Iterator[Line]:
    """Pages of the list by their place, and by state."""
    places = {"first": "$skiptoken=0", "middle": f"$skiptoken={n // 2:x}", "last": f"$skiptoken={n - PAGE:x}"}
    taken = []
    for where, query in places.items():
        yield (line := _page(server, f"page of {PAGE:,} of {n:,} tasks, {where}", query))
        taken.append(line.value)
    ratio = taken[-1] / taken[0]
    yield Line("last page by the first", f"{ratio:.2f}", value=ratio, goals=(1.5,), floor=False)
    for state, after, where in (
        ("active", 0, "first"),
        ("active", _block(n) - PAGE // 2, "past the others"),
        ("completed", 0, "first"),
        ("completed", _block(n) + PAGE, "last"),
    ):
        yield _page(server, f"page of {PAGE:,} {state} tasks of {n:,}, {where}", f"$filter=state%20eq%20'{state}'&$skiptoken={after:x}")


def _page(server: Server, name: str, query: str) -> Line:
    """Against the bare rows: the same columns of the same tasks, selected by key from the same file into tuples."""
    request = server.account.request("GET", f"/jobs/queued/tasks?{query}")

    def read() -> bytes:
        server.connection.send(request)
        return server.connection.receive()

    shown = [item["id"] for item in msgspec.json.decode(read())["value"]]
    if len(shown) != PAGE:
        raise Broken(f"the {name} has {len(shown)} tasks")
    with contextlib.closing(sqlite3.connect(f"file:{server.directory}/batchyard.db?mode=ro", uri=True)) as database:
        keys = [database.execute("SELECT pk FROM task WHERE lower(id) = ? AND job_pk = 1", (each,)).fetchone()[0] for each in shown]
        bare = f"{select(TaskLine)} WHERE task.pk BETWEEN ? AND ? LIMIT ?"
        before, ours, theirs = meter.cpu(server.pid), [], []
        for _ in range(_READS):
            ours.append(_median_ms(read, 1))
            theirs.append(_median_ms(lambda: database.execute(bare, (keys[0], keys[-1], PAGE)).fetchall(), 1))
    cpu = (meter.cpu(server.pid) - before) / _READS * 1e3
    took, ratio = statistics.median(ours), statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    yard = f"bare rows {statistics.median(theirs):.1f} ms"
    return Line(name, f"{took:.1f} ms", yard, ratio, took, (10.0,), " ms", floor=False, cpu=f"server {cpu:.1f} ms")


def _listed(server: Server, n: int) -> Iterator[Line]:
    """`batchyard task list -o jsonl` of all of them: its rate, and how soon it begins."""
    words = [sys.executable, "-P", "-m", "batchyard.cli.main", "task", "list", "queued", "-o", "jsonl", "--dir", str(server.directory)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    begun = time.monotonic()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        rows = 1 if process.stdout.readline() else 0
        first, memory = time.monotonic() - begun, meter.memory_mb([process.pid])
        while piece := process.stdout.read(1 << 20):
            rows += piece.count(b"\n")
            if process.poll() is None:
                memory = max(memory, meter.memory_mb([process.pid]))
    if rows != n:
        raise Broken(f"the list of {n:,} tasks has {rows:,} rows")
    rate = n / (time.monotonic() - begun)
    yield Line(
        f"task list -o jsonl of {n:,} tasks", f"{rate:,.0f} rows/s", value=rate, goals=(20_000.0,), unit=" rows/s", cpu=f"{memory:.0f} MB"
    )
    yield Line("its first row", f"{first:.2f} s", value=first, goals=(1.0,), unit=" s", floor=False)


def _counts(server: Server, n: int) -> Line:
    if server.counts("queued")["active"] != n - COMPLETED:
        raise Broken(f"not all of {n:,} tasks are there: {server.counts('queued')}")
    took = _median_ms(lambda: server.counts("queued"), 201)
    return Line(f"task counts of {n:,} tasks", f"{took:.2f} ms", value=took, goals=(2.0,), unit=" ms", floor=False)


def _no_ops(full: rounds.Rounds, bare: rounds.Rounds) -> Line:
    ratio = statistics.median(ours / theirs for ours, theirs in zip(full.rates, bare.rates, strict=True))
    rates = [statistics.median(each.rates) for each in (full, bare)]
    cpu = [statistics.median(each.server_cpu) * 1e3 for each in (full, bare)]
    return Line(
        "no-op tasks while they are queued",
        f"{rates[0]:,.0f}/s",
        f"empty {rates[1]:,.0f}/s",
        ratio,
        ratio,
        (0.7,),
        cpu=f"server {cpu[0]:.2f} ms/task, empty {cpu[1]:.2f}",
    )
