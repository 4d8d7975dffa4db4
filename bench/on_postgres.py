"""What PostgreSQL costs: adds beside a bare psycopg loop of the same rows, no-op tasks beside SQLite, and how often a unit waits for it.

The database is one of its own that syncs to disk, on a socket of this machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bodies
import rounds
from table import Line, rate

from server import Broken, Server

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_SLOTS = 16


def lines(pairs: int, adds: int, no_ops: int, reads: int) -> Iterator[Line]:
    """The figures of servers on a database that is made for them."""
    sys.path[:0] = [str(_TESTS), str(_TESTS / "engine")]
    import postgres

    cluster = postgres.Cluster(postgres.room())
    os.environ[postgres.OWN] = cluster.url
    try:
        yield from _trips()
        with tempfile.TemporaryDirectory(prefix="batchyard-bench-") as blobs:
            database = ["--database", f"{cluster.url}&schema=bench", "--blobs", blobs]
            with Server(options=database) as server:
                yield from _adding(server, pairs, adds, cluster.url)
                with Server() as plain:
                    yield _completing(server, plain, pairs, no_ops)
                with Server(options=database) as other:
                    yield from _reading(server, other, reads)
    finally:
        cluster.stop()


def _adding(server: Server, pairs: int, n: int, url: str) -> Iterator[Line]:
    server.add_pool("empty", 0, 1)
    for kind in ("sequential", "random"):
        seen = rounds.adding(server, kind, pairs, n, ("insert_postgres", url))
        cpu = f"server {statistics.median(seen.server_cpu) * 1e6:.0f} µs/task, yardstick {statistics.median(seen.yard_cpu) * 1e6:.0f}"
        yard = f"psycopg loop {rate(seen.yard_rates)}"
        yield Line(f"tasks added on PostgreSQL, {kind} ids", rate(seen.rates), yard, seen.ratio, seen.ratio, (0.25,), cpu=cpu)


def _completing(server: Server, plain: Server, pairs: int, n: int) -> Line:
    for each in (server, plain):
        each.add_pool("pool", 1, _SLOTS)
    seen = rounds.completing_on_both(server, plain, "pool", pairs, n)
    return Line("no-op tasks on PostgreSQL", rate(seen.rates), f"on SQLite {rate(seen.yard_rates)}", seen.ratio, seen.ratio, (0.5,))


def _reading(one: Server, other: Server, n: int) -> Iterator[Line]:
    """The same two readers, at one server and each at its own."""
    one.add_job("read", "empty")
    names = bodies.names("sequential", n, 0)
    for each in bodies.collections([bodies.body(name) for name in names]):
        one.connection.send(one.account.request("POST", "/jobs/read/addtaskcollection", each))
        one.connection.receive()
    rates = []
    for servers in ([one, one], [one, other]):
        begun = time.monotonic()
        readers = [_reader(server, n) for server in servers]
        for reader in readers:
            _, error = reader.communicate()
            if reader.returncode:
                raise Broken(error.decode()[-2000:])
        rates.append(2 * n / (time.monotonic() - begun))
    of = f"{os.cpu_count()} cores for both, the database and who asks"
    yield Line("reads by two servers on PostgreSQL", f"{rates[1]:,.0f}/s", f"by one {rates[0]:,.0f}/s", rates[1] / rates[0], cpu=of)


def _reader(server: Server, n: int) -> subprocess.Popen[bytes]:
    account = server.account
    words = ["read", account.host, account.port, account.name, account.key, "read", n]
    command = [sys.executable, "-B", str(Path(__file__).with_name("children.py")), *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _trips() -> Iterator[Line]:
    """How often a unit of work waits for the database, its commit included, when it is alone in it."""
    from engine_world import SETTING, World, ended

    import databases
    from batchyard.engine.nodes import nodes
    from batchyard.model.sync import Sync

    databases.choose(databases.POSTGRES)
    world = World()
    try:
        [agent] = world.working_pool(slots=_SLOTS)
        world.job()
        world.add(*(f"early-{n}" for n in range(4 * _SLOTS)))
        world.schedule()
        agent.sync()

        def report() -> None:
            agent.number += 1
            said = Sync(session=agent.session, number=agent.number, has=[*agent.has], ended=[ended(agent.has[0])])
            world.run(nodes.hear, agent.node_pk, said, SETTING, world.now, refill=True)

        units: list[tuple[str, Callable[[], Any]]] = [
            ("a task is added", lambda: world.add("one")),
            ("100 are added", lambda: world.add(*(f"many-{n}" for n in range(100)))),
            ("one ends, the next starts", report),
            ("a job is patched", lambda: world.patch(priority=1)),
            ("nothing is done", lambda: world.run(lambda tx: None)),
        ]
        found = [f"{name} {_counted(world, unit)}" for name, unit in units]
        yield Line("round trips of a unit with its commit", ", ".join(found))
    finally:
        world.close()
        databases.clear()


def _counted(world: Any, unit: Callable[[], Any]) -> int:
    connection = world.db.driver.journal.connection
    before = connection.round_trips
    unit()
    return int(connection.round_trips - before)
