"""What a server does by itself: its loops work only while it holds the lease, and its log moves into the database."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conftest import Server, wait_for

import postgres
from batchyard import drivers
from batchyard.cli.client import Client
from batchyard.engine.loops import LEASE_S
from batchyard.model import times
from batchyard.server.state import DATABASE
from batchyard.store import leases
from batchyard.store.db import open_store
from batchyard.store.reader import Change, Statement
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


def held_by_another(tx: Tx) -> int:
    """Let another server hold the lease for an hour, and leave something to do; the fence of that."""
    fence = leases.acquire(tx, "loops", "another", tx.moment() + int(LEASE_S * 1e6), 3600)
    assert fence
    tx.insert("node", pool_pk=1, id="idle", state="idle", state_time=0, scheduling_state="enabled", dedicated=1, slots=1, allocated=0)
    assert tx.changed(Change("UPDATE pool SET autoscale_next = 0 WHERE autoscale_next IS NOT NULL")) == 1
    return fence


def let_go(tx: Tx, fence: int) -> int:
    """The other server ends; when that is, in microseconds."""
    leases.release(tx, "loops", "another", fence)
    return times.micros(datetime.now(UTC))


def test_without_the_lease_no_loop_does_anything() -> None:
    """There is work for each from the start, and all of it is done once the other server has let go of the lease."""
    location = postgres.fresh()
    server = Server("--database", location, nodes=4)
    with contextlib.closing(open_store(location)) as db:
        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body={"id": "pool", **_POOL})
            batch.post("pools", body={"id": "scales", **_POOL, "enableAutoScale": True, "autoScaleFormula": "$TargetDedicatedNodes = 0;"})
            for pool in ("pool", "scales"):
                wait_for(lambda pool=pool: batch.get("pools", pool)["allocationState"] == "steady", "the pool")
        server.kill()
        fence = db.call(held_by_another)
        server.start()

        def done(sql: str) -> list[int]:
            return db.call(lambda tx: tx.all(Statement(sql, int)))

        with Client(server.endpoint, server.account, server.key) as batch:
            batch.post("pools", body={"id": "grows", **_POOL, "targetDedicatedNodes": 1, "resizeTimeout": "P1D"})
            for job in ("runs", "ends"):
                batch.post("jobs", body={"id": job, "poolInfo": {"poolId": "pool"}})
            batch.post("jobs", "runs", "tasks", body={"id": "t", "commandLine": "true"})
            batch.post("jobs", "ends", "terminate", body={})
            assert {job["id"]: job["state"] for job in batch.listed("jobs")} == {"runs": "active", "ends": "terminating"}
            assert batch.get("jobs", "runs", "tasks", "t")["state"] == "active"
            assert not any(done(sql) for sql in _WORK.values())
            free = db.call(let_go, fence)
        for loop, sql in _WORK.items():
            assert min(wait_for(functools.partial(done, sql), f"the work of the {loop} loop")) >= free, loop
        server.stop()
    drivers.drop(location)


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
