"""What a server does by itself: its loops work only while it holds the lease, and its log moves into the database."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conftest import Server, wait_for

from batchyard.cli.client import Client
from batchyard.engine.loops import LEASE_S
from batchyard.model import times
from batchyard.server.state import DATABASE
from batchyard.store import leases
from batchyard.store.db import Database
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
_POOL: dict[str, Any] = {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE}
_WORK = {
    "scheduler": "SELECT at FROM event WHERE what = 'task' AND new IN ('preparing', 'running')",
    "capacity": "SELECT allocated FROM node WHERE id <> 'idle'",
    "upkeep": "SELECT at FROM event WHERE what = 'job' AND new = 'completed'",
    "autoscale": "SELECT autoscale_next FROM pool WHERE autoscale_next > 0",
}
"""When each loop did something, or, once it did, what is due next."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own with a pool without nodes, `pool`; its clock can be moved."""
    running = Server("--test-clock", nodes=4)
    with Client(running.endpoint, running.account, running.key) as batch:
        batch.post("pools", body={"id": "pool", **_POOL})
        wait_for(lambda: batch.get("pools", "pool")["allocationState"] == "steady", "the pool")
    yield running
    running.stop()


def ask(server: Server, sql: str) -> list[int]:
    """What a query finds in the database of a running server."""
    with contextlib.closing(sqlite3.connect(f"file:{server.directory / DATABASE}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute(sql)]


def held_by_another(tx: Tx) -> int:
    """Let another server hold the lease for an hour, and leave something to do; until when, in microseconds."""
    now = times.micros(datetime.now(UTC)) + int(LEASE_S * 1e6)
    assert leases.acquire(tx, "loops", "another", now, 3600)
    tx.insert("node", pool_pk=1, id="idle", state="idle", state_time=0, scheduling_state="enabled", dedicated=1, slots=1, allocated=0)
    assert tx.changed(Change("UPDATE pool SET autoscale_next = 0 WHERE autoscale_next IS NOT NULL")) == 1
    return now + 3_600_000_000


def test_without_the_lease_no_loop_does_anything(server: Server) -> None:
    """There is work for each from the start, and all of it is done after the time at which the lease is free."""
    with Client(server.endpoint, server.account, server.key) as batch:
        batch.post("pools", body={"id": "scales", **_POOL, "enableAutoScale": True, "autoScaleFormula": "$TargetDedicatedNodes = 0;"})
        wait_for(lambda: batch.get("pools", "scales")["allocationState"] == "steady", "the pool")
    server.kill()
    with contextlib.closing(Database(server.directory / DATABASE)) as db:
        until = db.call(held_by_another)
    server.start()
    with Client(server.endpoint, server.account, server.key) as batch:
        batch.post("pools", body={"id": "grows", **_POOL, "targetDedicatedNodes": 1, "resizeTimeout": "P1D"})
        for job in ("runs", "ends"):
            batch.post("jobs", body={"id": job, "poolInfo": {"poolId": "pool"}})
        batch.post("jobs", "runs", "tasks", body={"id": "t", "commandLine": "true"})
        batch.post("jobs", "ends", "terminate", body={})
        assert {job["id"]: job["state"] for job in batch.listed("jobs")} == {"runs": "active", "ends": "terminating"}
        assert batch.get("jobs", "runs", "tasks", "t")["state"] == "active"
        assert not any(ask(server, sql) for sql in _WORK.values())
        batch.post("batchyard", "clock", body={"advance": "PT2H"})
    for loop, sql in _WORK.items():
        first = min(wait_for(functools.partial(ask, server, sql), f"the work of the {loop} loop"))
        assert first >= until, loop


def test_the_log_is_moved_into_the_database_while_the_server_runs(server: Server) -> None:
    database = server.directory / DATABASE
    log = database.with_name(DATABASE + "-wal")
    with Client(server.endpoint, server.account, server.key) as batch:
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        number = 0
        while log.stat().st_size < 5 << 20:
            tasks = [{"id": f"{number}-{n}", "commandLine": "x" * 2000} for n in range(100)]
            batch.post("jobs", "job", "addtaskcollection", body={"value": tasks})
            number += 1
    wait_for(lambda: database.stat().st_size > 1 << 20, "the log to be moved")
