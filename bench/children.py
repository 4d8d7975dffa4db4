"""What runs in a process of its own, so that nothing else of the benchmark disturbs it; prints one line of JSON.

children.py add HOST PORT ACCOUNT KEY JOB KIND N SEED    collections of 100 over 8 connections
children.py insert DATABASE KIND N SEED                  yardstick 2: the same rows in a bare loop
children.py insert_postgres URL KIND N SEED              the same in PostgreSQL, by psycopg alone
children.py read HOST PORT ACCOUNT KEY JOB N             a task, and now and then a page of tasks, over 8 connections
children.py spawn N                                      yardstick 1: /bin/true, 16 in flight
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import selectors
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import bodies

if TYPE_CHECKING:
    from client import Account

CONNECTIONS = 8
SLOTS = 16


def add(host: str, port: str, account: str, key: str, job: str, kind: str, n: str, seed: str) -> dict[str, float]:
    """Add tasks as fast as the server takes them."""
    from client import Account

    server = Account(host, int(port), account, key)
    tasks = [bodies.body(name) for name in bodies.names(kind, int(n), int(seed))]
    requests = [server.request("POST", f"/jobs/{job}/addtaskcollection", each) for each in bodies.collections(tasks)]
    return _asked(server, requests)


def read(host: str, port: str, account: str, key: str, job: str, n: str) -> dict[str, float]:
    """Read as fast as the server answers: of ten requests nine are for a task, one is for a page of a hundred."""
    from client import Account

    server = Account(host, int(port), account, key)
    paths = [f"/jobs/{job}/tasks?maxresults=100" if at % 10 == 9 else f"/jobs/{job}/tasks/task-{at:07}" for at in range(int(n))]
    return _asked(server, [server.request("GET", path) for path in paths])


def _asked(server: Account, requests: list[bytes]) -> dict[str, float]:
    """Send requests over some connections, the next one when an answer is there."""
    from client import Connection, Refused

    waiting = iter(requests)
    connections = [Connection(server) for _ in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    begun, cpu = time.monotonic(), time.process_time()
    for connection, request in zip(connections, itertools.islice(waiting, CONNECTIONS), strict=False):
        connection.send(request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    while selector.get_map():
        for found, _ in selector.select():
            if b"clienterror" in found.data.receive():
                raise Refused("a task was refused")
            following = next(waiting, None)
            if following is None:
                selector.unregister(found.fileobj)
            else:
                found.data.send(following)
    return {"seconds": time.monotonic() - begun, "cpu": time.process_time() - cpu}


_PRAGMAS = ("journal_mode = wal", "synchronous = full", "cache_size = -65536")
_SCHEMA = """
create table if not exists task (
    seq integer primary key, job integer, id text, state integer, priority integer, ctime integer, exit integer
);
create table if not exists body (seq integer primary key, b blob);
create unique index if not exists task_id on task (job, id);
create index if not exists task_ready on task (priority desc, seq) where state = 0;
create index if not exists task_open on task (job, id) where state <> 3;
"""


def insert(database: str, kind: str, n: str, seed: str) -> dict[str, float]:
    """Insert the rows of a job, 100 per durable commit."""
    names = bodies.names(kind, int(n), int(seed))
    blobs = [bodies.body(name) for name in names]
    connection = sqlite3.connect(database, isolation_level=None)
    for pragma in _PRAGMAS:
        connection.execute(f"pragma {pragma}")
    connection.executescript(_SCHEMA)
    first = (connection.execute("select max(seq) from task").fetchone()[0] or 0) + 1
    begun, cpu = time.monotonic(), time.process_time()
    for at in range(0, len(names), bodies.PER_COLLECTION):
        some = range(at, min(at + bodies.PER_COLLECTION, len(names)))
        now = time.time_ns() // 1000
        connection.execute("begin immediate")
        connection.executemany("insert into task values (?, ?, ?, 0, 0, ?, null)", [(first + i, first, names[i], now) for i in some])
        connection.executemany("insert into body values (?, ?)", [(first + i, blobs[i]) for i in some])
        connection.execute("commit")
    return {"seconds": time.monotonic() - begun, "cpu": time.process_time() - cpu}


def insert_postgres(url: str, kind: str, n: str, seed: str) -> dict[str, float]:
    """Insert the rows of a job, 100 per durable commit; what is sent together goes as psycopg sends many rows."""
    import psycopg

    names = bodies.names(kind, int(n), int(seed))
    blobs = [bodies.body(name) for name in names]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = on")
        connection.execute(_SCHEMA.replace("integer", "bigint").replace("blob", "bytea"))
        first = (connection.execute("select max(seq) from task").fetchone() or [None])[0] or 0
        begun, cpu = time.monotonic(), time.process_time()
        for at in range(0, len(names), bodies.PER_COLLECTION):
            some = range(at + 1, min(at + bodies.PER_COLLECTION, len(names)) + 1)
            now = time.time_ns() // 1000
            with connection.transaction(), connection.cursor() as cursor:
                tasks = [(first + i, first, names[i - 1], now) for i in some]
                cursor.executemany("insert into task values (%s, %s, %s, 0, 0, %s, null)", tasks)
                cursor.executemany("insert into body values (%s, %s)", [(first + i, blobs[i - 1]) for i in some])
        return {"seconds": time.monotonic() - begun, "cpu": time.process_time() - cpu}


def spawn(n: str) -> dict[str, float]:
    """Start processes in a bare loop."""
    begun, live = time.monotonic(), 0
    for _ in range(int(n)):
        os.posix_spawn("/bin/true", ["/bin/true"], {})
        live += 1
        while live >= SLOTS:
            os.waitpid(-1, 0)
            live -= 1
    while live:
        os.waitpid(-1, 0)
        live -= 1
    seconds = time.monotonic() - begun
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seconds": seconds, "cpu": sum(each.ru_utime + each.ru_stime for each in used)}


if __name__ == "__main__":
    works: dict[str, Callable[..., dict[str, float]]] = {
        "add": add,
        "insert": insert,
        "insert_postgres": insert_postgres,
        "read": read,
        "spawn": spawn,
    }
    print(json.dumps(works[sys.argv[1]](*sys.argv[2:])))
