"""What is measured, in which order, and with how many rounds.

Ratios are medians over pairs of rounds that take turns, so they say more than rates on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import baseline
import commands
import jobs
import meter
import million as queue
import on_postgres
import rounds
import storage
import table
from table import Line

from server import NOBODY, Broken, Server

PARTS = ("start", "idle", "latency", "no-op", "add", "unisolated")
LONG_PARTS = ("release", "graph", "million", "nodes", "jobs", "beside", "cli", "postgres", "storage")
"""Measured only when they are named."""
KEPT_PARTS = {"no-op", "add", "unisolated"}
"""Those with ratios that must not fall."""
SLOTS = 16


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int = 5
    starts: int = 3
    idle_s: float = 10.0
    singles: int = 150
    no_ops: int = 1_000
    adds: int = 20_000
    pairs_of_tasks: int = 100
    graph: int = 100_000
    queued: int = 1_000_000
    nodes: int = 200
    silence_s: float = 30.0
    jobs: int = 1_000
    waiting_jobs: int = 10_000
    beside: int = 50_000
    reads: int = 4_000
    blob_requests: int = 4_000
    blobs: int = 100_000
    blob_gb: int = 2
    messages: int = 200_000


QUICK = Size(
    pairs=2,
    starts=1,
    idle_s=4.0,
    singles=60,
    no_ops=500,
    adds=8_000,
    pairs_of_tasks=40,
    graph=10_000,
    queued=100_000,
    nodes=40,
    silence_s=5.0,
    jobs=200,
    waiting_jobs=1_000,
    beside=20_000,
    reads=1_000,
    blob_requests=1_000,
    blobs=20_000,
    blob_gb=1,
    messages=50_000,
)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="two pairs of short rounds: under a minute, and rough")
    options.add_argument("--pairs", type=int, help="pairs of rounds")
    options.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, *LONG_PARTS),
        default=PARTS,
        metavar="PART",
        help=f"some of: {', '.join(PARTS)}; and only when they are named: {', '.join(LONG_PARTS)}",
    )
    options.add_argument("--blob-gb", type=int, help="GB of the large blob of `storage` (2)")
    options.add_argument("--messages", type=int, help="messages of the long queue of `storage` (200,000)")
    options.add_argument("--record", action="store_true", help="write the ratios of this run down as those that must not fall")
    chosen = options.parse_args()
    size = QUICK if chosen.quick else Size()
    given = {name: value for name in ("pairs", "blob_gb", "messages") if (value := getattr(chosen, name))}
    size = Size(**{**vars(size), **given})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        lines = run(size, set(chosen.only))
        if chosen.record:
            baseline.write(lines)
        elif size.pairs >= baseline.FEWEST_PAIRS and not chosen.quick:
            hold(lines, size, set(chosen.only) & KEPT_PARTS)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; everything that was started has ended")
    except Broken as broken:
        sys.exit(f"\nthe benchmark broke off: {broken}")


def run(size: Size, parts: set[str]) -> list[Line]:
    """Measure once and print the table."""
    begun = time.monotonic()
    lines = list(measure(size, parts))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {size.pairs} pairs of rounds, ", end="")
    print(f"{time.monotonic() - begun:.0f} s, load {os.getloadavg()[0]:.1f}\n")
    print(table.text(lines), flush=True)
    return lines


def hold(lines: list[Line], size: Size, parts: set[str]) -> None:
    """Exit with 1 when a recorded ratio is lost in two runs of three; the further runs are made only when the first one looks so."""
    recorded = baseline.read()

    def again(fell: list[str]) -> list[Line]:
        say(f"more than a tenth under what was recorded: {', '.join(fell)}; once more")
        return run(size, parts)

    if parts == KEPT_PARTS and (unseen := baseline.unseen(lines, recorded)):
        say(f"recorded and not measured here: {', '.join(unseen)}")
    if gone := baseline.held(lines, again, recorded):
        sys.exit("\nslower than recorded in two runs: " + ", ".join(f"{name} ({recorded[name]:.2f} before)" for name in gone))


def measure(size: Size, parts: set[str]) -> Iterator[Line]:
    """Every figure of the parts."""
    if "graph" in parts:
        say(f"a graph of {size.graph:,} tasks on simulated nodes")
        yield from table.of_graph(rounds.child("graph.py", size.graph))
    if "million" in parts:
        yield from million(size)
    if "nodes" in parts:
        say(f"{size.nodes} nodes, of which a quarter falls silent")
        yield from table.of_nodes(rounds.child("nodes.py", "run", size.nodes, size.nodes // 4, size.silence_s))
    if "jobs" in parts:
        say(f"{size.jobs:,} jobs of different priorities, then {size.waiting_jobs:,} that wait")
        yield from jobs.waiting(size.jobs, SLOTS, run=True)
        yield from jobs.waiting(size.waiting_jobs, SLOTS, run=False)
    if "beside" in parts:
        say(f"a small job beside {size.beside:,} tasks that are added")
        yield from jobs.beside(size.beside)
    if "postgres" in parts:
        say(f"on PostgreSQL: {size.adds:,} tasks added, {size.no_ops:,} no-op tasks, reads by one server and by two")
        yield from on_postgres.lines(size.pairs, size.adds, size.no_ops, size.reads)
    if "storage" in parts:
        say("the storage endpoint, beside Azurite where `make bench-storage` installed it")
        yield from storage.lines(size.pairs, size.blob_requests, size.blobs, size.blob_gb, size.messages)
    if not parts - {"graph", "million", "nodes", "jobs", "beside", "postgres", "storage"}:
        return
    starts: list[float] = []
    for _ in range(size.starts - 1 if "start" in parts else 0):
        say("start-up")
        with Server() as server:
            starts.append(server.start_s)
    with Server() as server:
        starts.append(server.start_s)
        if "start" in parts:
            start = statistics.median(starts)
            yield Line("start to first answered request", f"{start:.2f} s", value=start, goals=(2.0,), unit=" s", floor=False)
        if "idle" in parts:
            yield from idle(server, size.idle_s)
        yield from busy(server, size, parts)
    if "unisolated" in parts and os.geteuid() == 0:
        with Server(NOBODY) as server:
            server.add_pool("pool", 1, SLOTS)
            yield no_ops(server, size)


def busy(server: Server, size: Size, parts: set[str]) -> Iterator[Line]:
    """The figures of a server with work, and its memory before and after."""
    server.add_pool("pool", 1, SLOTS)
    server.add_pool("empty", 0, 1)
    if "latency" in parts:
        say(f"add to first instruction, {size.singles} times {' '.join(rounds.DATE)}")
        yield from table.of_starting(rounds.starting(server, "pool", size.singles))
    if "no-op" in parts:
        yield no_ops(server, size)
    if "release" in parts:
        say(f"parent's exit to child's first instruction, {size.pairs_of_tasks} times")
        yield table.of_releasing(rounds.releasing(server, "pool", size.pairs_of_tasks))
    if "add" in parts:
        for kind in ("sequential", "random"):
            say(f"adding {size.adds:,} tasks with {kind} ids")
            yield table.of_adding(kind, rounds.adding(server, kind, size.pairs, size.adds))
    if "cli" in parts:
        say("the command line: starts, and a long list")
        yield from commands.lines(server)
    yield memory("after the runs", server)


def million(size: Size) -> Iterator[Line]:
    """The figures of a server with a long queue."""
    full = Server()
    try:
        say(f"a job of {size.queued:,} tasks")
        queue.fill(full.directory, size.queued)
    except BaseException:
        full.__exit__()
        raise
    with full, Server() as empty:
        say(f"its pages and counts; {size.no_ops:,} no-op tasks beside it and on an empty server")
        yield from queue.lines(full, empty, size.queued, size.pairs, size.no_ops)


def no_ops(server: Server, size: Size) -> Line:
    """No-op tasks on the node of a server, with whatever isolation its agent has."""
    facts = server.facts()[-1]
    how = "isolated" if facts.switches_users else "not isolated"
    say(f"{size.no_ops:,} no-op tasks, {how}: control by {facts.process_control}, {'own users' if facts.switches_users else 'one user'}")
    goals = (0.25, 0.35) if facts.switches_users else (0.4,)
    return table.of_completing(f"{how} ({facts.process_control})", rounds.completing(server, "pool", size.pairs, size.no_ops), goals)


def idle(server: Server, seconds: float) -> Iterator[Line]:
    """What a server with three nodes uses when there is nothing to do."""
    server.add_pool("three", 3, 2)
    say("an idle server with three nodes")
    time.sleep(2.0)
    agents = server.node_processes()
    ours, theirs = -meter.cpu(server.pid), -meter.cpu_of(agents)
    time.sleep(seconds)
    ours, theirs = ((each + used) / seconds * 100 for each, used in ((ours, meter.cpu(server.pid)), (theirs, meter.cpu_of(agents))))
    cpu = f"its three agents {theirs:.2f} %"
    yield Line("idle server with 3 nodes", f"{ours:.2f} % of a core", value=ours, goals=(2.0,), unit=" %", floor=False, cpu=cpu)
    yield memory("idle, 3 nodes", server)
    server.drop_pool("three")


def memory(when: str, server: Server) -> Line:
    """PSS of the server, and of an agent with its spawners."""
    agents = server.agents()
    each = meter.memory_mb(server.node_processes()) / len(agents)
    return Line(f"memory (PSS), {when}", f"server {meter.memory_mb([server.pid]):.0f} MB, agent with spawners {each:.0f} MB")


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"… {text}", file=sys.stderr, flush=True)
