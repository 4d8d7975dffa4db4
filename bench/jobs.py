"""Many jobs beside each other: what waiting jobs of different priorities cost, and a small job beside a large addition."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import bodies
import children
import meter
import rounds
from table import Line

from server import Broken, Server, wait_for

_SINGLES = 60


def waiting(jobs: int, slots: int, *, run: bool) -> Iterator[Line]:
    """So many jobs, of different priorities as far as there are any, against one job with as many tasks, on a server each."""
    each = 5 if run else 1
    (add_one, post_one, run_one, cpu_one), (add, post, rate, cpu) = (_trial(number, jobs, each, slots, run=run) for number in (1, jobs))
    name = f"{jobs:,} jobs of different priorities"
    yield Line(f"tasks added, {each} a request, {name} wait", f"{add:,.0f}/s", f"one job {add_one:,.0f}/s", add / add_one)
    for what, share in (("median", 0.5), ("p99", 0.99)):
        ours, theirs = rounds.percentile(post, share), rounds.percentile(post_one, share)
        yield Line(
            f"unrelated POST, {name} {'run' if run else 'wait'}, {what}", f"{ours:.1f} ms", f"one job {theirs:.1f} ms", ours / theirs
        )
    if run:
        yield Line(
            f"no-op tasks, {name}",
            f"{rate:,.0f}/s",
            f"one job {run_one:,.0f}/s",
            rate / run_one,
            rate / run_one,
            (0.7,),
            cpu=f"server {cpu:.2f} ms/task, one job {cpu_one:.2f}",
        )


def _trial(jobs: int, requests: int, each: int, slots: int, *, run: bool) -> tuple[float, list[float], float, float]:
    """Tasks added per second, milliseconds of unrelated requests, tasks run per second, CPU milliseconds of the server for each."""
    with Server() as server:
        server.add_pool("crowd", 0, slots)
        server.add_pool("other", 0, slots)
        server.add_job("other", "other")
        for number in range(jobs):
            priority = number % 2001 - 1000
            server.call("POST", "/jobs", {"id": f"job-{number}", "priority": priority, "poolInfo": {"poolId": "crowd"}})
        begun = time.monotonic()
        for number in range(requests):
            _add(server, f"job-{number % jobs}", range(number * each, (number + 1) * each))
        n = each * requests
        added = n / (time.monotonic() - begun)
        if run:
            return added, *_run(server, n)
        posts = []
        for nth in range(_SINGLES):
            _add(server, f"job-{nth % jobs}", range(n + nth, n + nth + 1))
            posts.append(_post(server, nth))
        return added, posts, 0.0, 0.0


def _add(server: Server, job: str, numbers: range) -> None:
    tasks = [json.dumps({"id": f"task-{nth}", "commandLine": "/bin/true"}).encode() for nth in numbers]
    for content in bodies.collections(tasks):
        server.connection.send(server.account.request("POST", f"/jobs/{job}/addtaskcollection", content))
        if b"clienterror" in server.connection.receive():
            raise Broken("a task was refused")


def _post(server: Server, nth: int) -> float:
    """Milliseconds to add a task to a job of another pool."""
    body = json.dumps({"id": f"task-{nth}", "commandLine": "/bin/true"}).encode()
    request = server.account.request("POST", "/jobs/other/tasks", body)
    begun = time.perf_counter()
    server.connection.send(request)
    server.connection.receive()
    return (time.perf_counter() - begun) * 1e3


def _run(server: Server, n: int) -> tuple[list[float], float, float]:
    """Milliseconds of unrelated requests meanwhile; rate and CPU milliseconds of the tasks on one node, from the first that ends."""
    with contextlib.closing(sqlite3.connect(f"file:{server.directory}/batchyard.db?mode=ro", uri=True)) as database:

        def completed() -> int:
            return int(database.execute("SELECT sum(completed) FROM job_counts").fetchone()[0])

        server.call("POST", "/pools/crowd/resize", {"targetDedicatedNodes": 1})
        first = wait_for(completed, "the first task", every=0.005)
        begun, cpu, posts = time.monotonic(), meter.cpu(server.pid), [_post(server, 0)]
        while (done := completed()) < n:
            if time.monotonic() > begun + 600:
                raise Broken(f"of {n} tasks {done} have run after 10 minutes")
            posts.append(_post(server, len(posts)))
            time.sleep(0.05)
        return posts, (n - first) / (time.monotonic() - begun), (meter.cpu(server.pid) - cpu) / (n - first) * 1e3


def beside(n: int) -> Iterator[Line]:
    """A job of one task on a node of its own while another client adds n tasks to another pool, over 8 connections."""
    with Server() as server:
        server.add_pool("small", 1, 4)
        server.add_pool("bulk", 0, 4)
        server.add_job("bulk", "bulk")
        [root] = server.directory.glob("nodes/*/root")
        quiet = [_small_job(server, root, f"quiet-{number}") for number in range(20)][5:]
        account = server.account
        context = multiprocessing.get_context("fork")
        adding = context.Process(
            target=children.add, args=(account.host, str(account.port), account.name, account.key, "bulk", "sequential", str(n), "1")
        )
        adding.start()
        wait_for(lambda: server.counts("bulk")["active"], "the first of them")
        begun, seen = time.monotonic(), []
        while adding.is_alive():
            seen.append(_small_job(server, root, f"small-{len(seen)}"))
        rate = n / (time.monotonic() - begun)
        adding.join()
        if server.counts("bulk")["active"] != n:
            raise Broken(f"{n} tasks were added, the job has {server.counts('bulk')}")
    for what, share, goals in (("median", 0.5, ()), ("p99", 0.99, (100.0,))):
        ours, alone = rounds.percentile(seen, share), rounds.percentile(quiet, share)
        yield Line(
            f"small job beside {n:,} tasks that are added, {what}",
            f"{ours:.0f} ms",
            f"alone {alone:.0f} ms",
            ours / alone,
            ours,
            goals,
            " ms",
            floor=False,
            cpu=f"of {len(seen)}; worst {max(seen):.0f} ms; meanwhile {rate:,.0f} tasks/s added",
        )


def _small_job(server: Server, root: Path, name: str) -> float:
    """Milliseconds from the request for the job to the time that its task reads."""
    sent = time.time()
    server.call("POST", "/jobs", {"id": name, "poolInfo": {"poolId": "small"}})
    server.call("POST", f"/jobs/{name}/tasks", {"id": "task", "commandLine": " ".join(rounds.DATE)})
    text = wait_for(rounds.reader(root / f"workitems/{name}/job-1/task/stdout.txt"), "a task", every=0.005)
    return (float(text) - sent) * 1e3
