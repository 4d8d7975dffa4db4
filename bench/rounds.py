"""The measurements that have a yardstick: it and the server take turns, A B A B, so that both see the same noise."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bodies
import meter

from server import Broken, Server, wait_for

DATE = ["/usr/bin/date", "+%s.%N"]
"""The cheapest program of every system that writes CLOCK_REALTIME; its own start is inside the figure and in its yardstick."""


@dataclass
class Rounds:
    """Pairs of measurements of the same amount of work."""

    rates: list[float] = field(default_factory=list)
    """Per second, of the server."""
    yard_rates: list[float] = field(default_factory=list)
    yard_cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    """CPU seconds for each unit of work; the same below."""
    agent_cpu: list[float] = field(default_factory=list)
    task_cpu: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median of the ratios of the pairs."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.rates, self.yard_rates, strict=True))


def _child(*arguments: object) -> dict[str, float]:
    return child("children.py", *arguments)


def child(program: str, *arguments: object) -> dict[str, float]:
    """What a program beside this one measures in a process of its own. Raises Broken."""
    command = [sys.executable, "-B", str(Path(__file__).with_name(program)), *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Broken(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def adding(server: Server, kind: str, pairs: int, n: int, yard: tuple[str, object] | None = None) -> Rounds:
    """Tasks added in collections of 100 over 8 connections, against a bare durable insert loop of the same rows, in SQLite if not told."""
    seen = Rounds()
    program, place = yard or ("insert", server.directory / f"yardstick-{kind}.db")
    account = server.account
    for turn in range(-1, pairs):  # the first warms both up
        rows = _child(program, place, kind, n, turn)
        job = f"add-{kind}-{turn + 1}"
        server.add_job(job, "empty")
        before = meter.cpu(server.pid)
        added = _child("add", account.host, account.port, account.name, account.key, job, kind, n, turn)
        cpu = meter.cpu(server.pid) - before
        if server.counts(job)["active"] != n:
            raise Broken(f"{n} tasks were added, the job has {server.counts(job)}")
        if turn >= 0:
            seen.yard_rates.append(n / rows["seconds"])
            seen.yard_cpu.append(rows["cpu"] / n)
            seen.rates.append(n / added["seconds"])
            seen.server_cpu.append(cpu / n)
    return seen


def completing_on_both(one: Server, other: Server, pool: str, pairs: int, n: int) -> Rounds:
    """No-op tasks on one server against those on another; they take turns."""
    seen = Rounds()
    for turn in range(-1, pairs):
        rates = [n / _run_no_ops(server, pool, f"both-{turn + 1}", n) for server in (other, one)]
        if turn >= 0:
            seen.yard_rates.append(rates[0])
            seen.rates.append(rates[1])
    return seen


def completing(server: Server, pool: str, pairs: int, n: int, prefix: str = "") -> Rounds:
    """No-op tasks from the first request to the last completed one, against a bare loop of posix_spawn."""
    seen = Rounds()
    _run_no_ops(server, pool, f"{prefix}warm-up", 100)
    node = server.node_processes()
    for turn in range(pairs):
        bare = _child("spawn", n)
        before = meter.cpu(server.pid), meter.cpu_of(node), meter.cpu_of_waited(node)
        seconds = _run_no_ops(server, pool, f"{prefix}no-op-{turn + 1}", n)
        after = meter.cpu(server.pid), meter.cpu_of(node), meter.cpu_of_waited(node)
        seen.yard_rates.append(n / bare["seconds"])
        seen.yard_cpu.append(bare["cpu"] / n)
        seen.rates.append(n / seconds)
        for into, late, early in zip((seen.server_cpu, seen.agent_cpu, seen.task_cpu), after, before, strict=True):
            into.append((late - early) / n)
    return seen


def _run_no_ops(server: Server, pool: str, job: str, n: int) -> float:
    """Seconds that a job of no-op tasks takes."""
    server.add_job(job, pool)
    tasks = [json.dumps({"id": f"task-{number:07}", "commandLine": "/bin/true"}).encode() for number in range(n)]
    requests = [server.account.request("POST", f"/jobs/{job}/addtaskcollection", each) for each in bodies.collections(tasks)]
    begun = time.monotonic()
    for request in requests:
        server.connection.send(request)
        server.connection.receive()
    counts = wait_for(lambda: server.counts(job) if server.counts(job)["completed"] == n else None, "all tasks", seconds=300, every=0.04)
    seconds = time.monotonic() - begun
    if counts["succeeded"] != n:
        raise Broken(f"of {n} no-op tasks only {counts['succeeded']} succeeded")
    return seconds


@dataclass
class Latencies:
    """Milliseconds from the sending of a request to the time that its task read from the clock."""

    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    """The same program started by nobody but posix_spawn."""


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def starting(server: Server, pool: str, n: int) -> Latencies:
    """Single tasks on an idle pool; five more warm up."""
    server.add_job("latency", pool)
    [root] = server.directory.glob("nodes/*/root")
    seen = Latencies()
    for turn in range(-5, n):
        name = f"task-{turn + 5}"
        body = json.dumps({"id": name, "commandLine": " ".join(DATE)}).encode()
        request = server.account.request("POST", "/jobs/latency/tasks", body)
        bare = _bare_start()
        time.sleep(random.uniform(0.02, 0.05))
        sent = time.time()
        server.connection.send(request)
        server.connection.receive()
        time.sleep(0.025)
        text = wait_for(reader(root / f"workitems/latency/job-1/{name}/stdout.txt"), "a task", every=0.005)
        if turn >= 0:
            seen.ours.append((float(text) - sent) * 1000)
            seen.bare.append(bare)
    return seen


def releasing(server: Server, pool: str, n: int) -> Latencies:
    """Pairs of a task and one that waits for it: from the time that the first read as its last act to the time that the other read."""
    server.call("POST", "/jobs", {"id": "release", "poolInfo": {"poolId": pool}, "usesTaskDependencies": True})
    [root] = server.directory.glob("nodes/*/root")
    seen = Latencies()
    for turn in range(-5, n):
        names = [f"parent-{turn + 5}", f"child-{turn + 5}"]
        both: list[dict[str, Any]] = [{"id": name, "commandLine": " ".join(DATE)} for name in names]
        both[1]["dependsOn"] = {"taskIds": names[:1]}
        bare = _bare_start()
        server.call("POST", "/jobs/release/addtaskcollection", {"value": both})
        time.sleep(0.025)
        files = [root / f"workitems/release/job-1/{name}/stdout.txt" for name in (names[1], names[0])]
        late, early = (float(wait_for(reader(file), "a task", every=0.005)) for file in files)
        if turn >= 0:
            seen.ours.append((late - early) * 1000)
            seen.bare.append(bare)
    return seen


def reader(path: Path) -> Callable[[], str]:
    """Looks for the whole line that a task writes."""

    def read() -> str:
        try:
            text = path.read_text()
        except OSError:
            return ""
        return text if text.endswith("\n") else ""

    return read


def _bare_start() -> float:
    read, write = os.pipe()
    begun = time.time()
    pid = os.posix_spawn(DATE[0], DATE, {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    os.close(write)
    with open(read) as output:
        text = output.read()
    os.waitpid(pid, 0)
    return (float(text) - begun) * 1000
