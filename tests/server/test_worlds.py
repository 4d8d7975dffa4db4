"""Worlds open and close by themselves, and what is closed costs nothing; in one process, on real files, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from batchyard.api.front import Front
from batchyard.api.wire import auth
from batchyard.api.wire.auth import Account, Signed
from batchyard.config import Config
from batchyard.disk import space
from batchyard.engine.clock import MovableClock
from batchyard.engine.upkeep import rest
from batchyard.engine.wakes import Wakes
from batchyard.model.endpoints import Ways
from batchyard.rules.offer import AZURE, Quotas
from batchyard.server.places import Places
from batchyard.server.state import open_registry, open_state, operator_key
from batchyard.server.world import Server
from batchyard.server.worlds import Worlds
from batchyard.store import accounts as rows
from batchyard.store.db import Database

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
VERSION = "api-version=2025-06-01"
IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
POOL = {
    "id": "p",
    "vmSize": "standard_d2s_v3",
    "virtualMachineConfiguration": {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
    "targetDedicatedNodes": 0,
}


class House:
    """A server's worlds without its sockets; nobody has to have been silent for a world to be idle."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock = directory, MovableClock()

    async def begin(self) -> None:
        hub = Wakes()
        hub.bind(asyncio.get_running_loop())
        state = open_state(self.directory, hub)
        self.registry: Database = open_registry(self.directory, state[0], self.clock.now())
        places, config = Places(self.directory), Config(self.directory)
        operator = Account("$operator", [operator_key(self.directory)])
        urls, room, ways = ("http://server", "http://server"), space.Room(self.directory), Ways("http://server")
        server = Server(config, urls, None, self.clock, AZURE, room, operator, places.count_nodes, ways)
        self.worlds = Worlds(server, self.registry, places, "batchyard", idle_s=0.0)
        await self.worlds.begin(state, hub)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(Front(self.worlds, self.clock)), base_url="http://server")

    async def end(self) -> None:
        await self.http.aclose()
        await self.worlds.end()

    async def account(self, name: str) -> str:
        """A new account; its first key."""
        await self.worlds.create(name, None, Quotas())
        return (await self.worlds.keys(name)).batch[0]

    async def ask(self, name: str, key: str, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"ocp-date": formatdate(self.clock.now() / 1e6, usegmt=True)}
        request = self.http.build_request(method, f"{path}?{VERSION}", json=body)
        headers |= {name: request.headers[name] for name in ("content-length", "content-type") if name in request.headers}
        headers["authorization"] = auth.sign(name, key, Signed(method, path, VERSION, headers))
        return await self.http.request(method, f"{path}?{VERSION}", content=request.content, headers=headers)

    async def due(self, name: str) -> int | None:
        row = await self.registry.read(rows.named, name)
        assert row is not None
        return row.due


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.begin()
    yield made
    await made.end()


async def test_a_world_opens_when_it_is_asked_and_closes_when_it_has_nothing_to_do(house: House) -> None:
    key = await house.account("alpha")
    assert house.worlds.open_names == {"batchyard"}
    assert (await house.ask("alpha", key, "GET", "/pools")).status_code == 200
    assert (house.worlds.open_names, await house.due("alpha")) == ({"batchyard", "alpha"}, 0)
    await house.worlds.run_once()
    assert (house.worlds.open_names, await house.due("alpha")) == ({"batchyard"}, None)
    assert (await house.ask("alpha", key, "GET", "/pools")).status_code == 200


async def test_nobody_opens_a_world_without_its_key(house: House) -> None:
    await house.account("alpha")
    other = await house.account("beta")
    answers = [await house.ask("alpha", other, "GET", path) for path in ("/pools", "/accounts/alpha/pools")]
    assert [answer.status_code for answer in answers] == [403, 403]
    for token in ("alpha~1.00", "alpha~task.1.1.00", "nobody~1.00"):
        bearer = {"authorization": f"Bearer {token}"}
        assert (await house.http.post("/agent/sync", headers=bearer)).status_code == 403
        assert (await house.http.get(f"/jobs/j?{VERSION}", headers=bearer)).status_code in (401, 403)
    storage = (await house.worlds.describe("alpha")).storage
    assert (await house.http.get(f"/{storage}/c/b")).status_code == 401
    assert (await house.http.get(f"/{storage}/c/b?sv=2021-12-02&sr=c&sp=r&sig=AAAA")).status_code == 403
    assert (await house.http.get(f"/{storage}/c/b", headers={"authorization": f"SharedKey {storage}:AAAA"})).status_code == 403
    assert (await house.http.get(f"/queue/{storage}/q/messages")).status_code in (401, 403)
    assert (await house.http.get(f"/queue/{storage}/q/messages", headers={"authorization": f"SharedKey {storage}:AAAA"})).status_code == 403
    assert house.worlds.open_names == {"batchyard"}


async def test_pools_and_what_is_due_within_the_hour_keep_a_world_open(house: House) -> None:
    key = await house.account("alpha")
    assert (await house.ask("alpha", key, "POST", "/pools", POOL)).status_code == 201
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard", "alpha"}
    assert (await house.ask("alpha", key, "DELETE", "/pools/p")).status_code == 202
    async with asyncio.timeout(20):
        while (await house.ask("alpha", key, "GET", "/pools/p")).status_code != 404:
            await asyncio.sleep(0.01)
    job = {"id": "j", "poolInfo": {"poolId": "none"}, "constraints": {"maxWallClockTime": "PT30M"}}
    assert (await house.ask("alpha", key, "POST", "/jobs", job)).status_code == 201
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard", "alpha"}, "its wall clock ends within the hour"


async def test_a_closed_world_opens_in_time_though_nobody_asks(house: House) -> None:
    """A job's wall clock ends while its world is closed."""
    key = await house.account("alpha")
    job = {"id": "j", "poolInfo": {"poolId": "none"}, "constraints": {"maxWallClockTime": "PT3H"}}
    assert (await house.ask("alpha", key, "POST", "/jobs", job)).status_code == 201
    before = house.clock.now()
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard"}
    due = await house.due("alpha")
    assert due is not None
    assert before + 2 * HOUR_US < due <= before + 3 * HOUR_US
    house.clock.advance(2 * HOUR_US)
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard"}
    house.clock.advance(HOUR_US)
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard", "alpha"}
    async with asyncio.timeout(20):
        while (await house.ask("alpha", key, "GET", "/jobs/j")).json()["state"] != "completed":
            await asyncio.sleep(0.01)


async def test_a_job_schedule_makes_its_job_in_a_world_that_was_closed(house: House) -> None:
    key = await house.account("alpha")
    plan = {"id": "plan", "schedule": {"recurrenceInterval": "PT3H"}, "jobSpecification": {"poolInfo": {"poolId": "none"}}}
    assert (await house.ask("alpha", key, "POST", "/jobschedules", plan)).status_code == 201
    assert (await house.ask("alpha", key, "POST", "/jobs/plan:job-1/terminate")).status_code == 202
    async with asyncio.timeout(20):
        while (await house.ask("alpha", key, "GET", "/jobs/plan:job-1")).json()["state"] != "completed":
            await asyncio.sleep(0.01)
        while "alpha" in house.worlds.open_names:
            await house.worlds.run_once()
            await asyncio.sleep(0.01)
    due = await house.due("alpha")
    assert due is not None
    assert 2 * HOUR_US < due - house.clock.now() <= 3 * HOUR_US
    house.clock.advance(3 * HOUR_US)
    async with asyncio.timeout(20):  # it may have made the job and be closed again by then
        while (await house.due("alpha") or 0) <= due:
            await house.worlds.run_once()
            await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while (await house.ask("alpha", key, "GET", "/jobs/plan:job-2")).status_code != 200:
            await asyncio.sleep(0.01)


async def test_what_was_open_when_a_server_died_is_opened_by_the_next(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.begin()
    key = await house.account("alpha")
    assert (await house.ask("alpha", key, "GET", "/pools")).status_code == 200
    assert await house.due("alpha") == 0, "whatever ends the server now"
    await house.end()
    again = House(tmp_path)
    await again.begin()
    await again.worlds.run_once()
    assert again.worlds.open_names | {"batchyard"} == {"batchyard"}, "and closed at once, as it has nothing to do"
    assert await again.due("alpha") is None
    await again.end()


async def test_a_hundred_idle_accounts_cost_no_loop_and_no_thread(house: House) -> None:
    """Made and asked once each; then nothing of them is left but their rows (bench/accounts.py counts a thousand, and their memory)."""
    keys = {f"idle{number}": await house.account(f"idle{number}") for number in range(100)}
    await house.worlds.run_once()
    for name in [*keys][:10]:
        assert (await house.ask(name, keys[name], "GET", "/pools")).status_code == 200
    await house.worlds.run_once()
    assert house.worlds.open_names == {"batchyard"}
    threads, tasks = len(threading.enumerate()), len(asyncio.all_tasks())
    for name in [*keys][10:15]:
        assert (await house.ask(name, keys[name], "GET", "/pools")).status_code == 200
    await house.worlds.run_once()
    assert (len(threading.enumerate()), len(asyncio.all_tasks())) <= (threads, tasks)


def test_every_constant_of_rest_is_that_of_upkeep() -> None:
    assert rest.WITHIN_US == HOUR_US


async def test_a_request_under_way_keeps_its_world(house: House) -> None:
    key = await house.account("alpha")
    async with house.worlds.entered("alpha"):
        await house.worlds.run_once()
        assert "alpha" in house.worlds.open_names
    await house.worlds.run_once()
    assert "alpha" not in house.worlds.open_names
    assert key


async def test_a_world_that_is_damaged_harms_no_other(house: House) -> None:
    key, other = await house.account("alpha"), await house.account("beta")
    (house.directory / "accounts/alpha/batchyard.db").write_bytes(b"no database" * 100)
    answer = await house.ask("alpha", key, "GET", "/pools")
    assert (answer.status_code, answer.json()["code"]) == (503, "ServerBusy")
    assert (await house.ask("beta", other, "GET", "/pools")).status_code == 200
    await house.worlds.run_once()
    (house.directory / "accounts/beta/account.json").unlink()
    assert (await house.ask("beta", other, "GET", "/pools")).status_code in (200, 403)


async def test_many_at_once_open_a_world_once(house: House) -> None:
    key = await house.account("alpha")
    answers = await asyncio.gather(*(house.ask("alpha", key, "GET", "/pools") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    await asyncio.gather(*(house.worlds.run_once() for _ in range(3)), *(house.ask("alpha", key, "GET", "/pools") for _ in range(20)))
