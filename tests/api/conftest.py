"""The API as clients meet it: signed raw HTTP, the SDK with its answers recorded, and a pool to run tasks on."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import msgspec
import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from tests.conftest import Server, wait_for

from batchyard.api.app import Api
from batchyard.api.wire import auth
from batchyard.api.wire.auth import Account, Signed
from batchyard.api.wire.call import Machine, Services
from batchyard.api.wire.relay import Relay
from batchyard.engine.clock import Clock
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.rules.sizes import LOCAL
from batchyard.store.db import MEMORY, Database
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

VERSION = "2025-06-01"
Json = dict[str, Any]


def unique(prefix: str = "x") -> str:
    """An id that no other test uses."""
    return f"{prefix}-{secrets.token_hex(6)}"


class Answer(msgspec.Struct):
    """An answer as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body, which must be a JSON object."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def assert_error(self, status: int, code: str, **values: str) -> Json:
        """The answer is the contract's error body with this code, and these among its values (contract 8.1)."""
        assert self.status == status, (self.status, self.body)
        body = self.json
        assert set(body) <= {"odata.metadata", "code", "message", "values"}
        assert body["odata.metadata"].endswith("/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element")
        assert body["code"] == code, body
        assert body["message"]["lang"] == "en-US"
        sentence, request, time = body["message"]["value"].split("\n")
        assert sentence
        assert request == f"RequestId:{self.headers['request-id']}"
        assert time.startswith("Time:20")
        assert time.endswith("Z")
        assert self.headers["content-type"] == "application/json;odata=minimalmetadata"
        assert int(self.headers["content-length"]) == len(self.body)
        assert self.headers["dataserviceversion"] == "3.0"
        assert ("retry-after" in self.headers) == (status in (429, 503))
        given = {item["key"]: item["value"] for item in body.get("values", [])}
        assert given.items() >= values.items(), given
        return given


class Raw:
    """Signed requests with every byte of the request line and every header in the test's hand."""

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        self.endpoint, self.account, self.key = endpoint, account, key
        parts = urlsplit(endpoint)
        self.address = (parts.hostname or "", parts.port or 80)

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: str = "",
        version: str | None = VERSION,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        """Send a request; `body` is bytes as they are or anything else as JSON, `path` and `query` are sent as given."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        full_query = "&".join(part for part in (query, "" if version is None else f"api-version={version}") if part)
        sent = {"ocp-date": formatdate(usegmt=True)}
        if body is not None:
            sent["content-type"] = "application/json; odata=minimalmetadata"
        if method not in ("GET", "HEAD"):
            sent["content-length"] = str(len(content))
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        if "authorization" not in sent:
            sent["authorization"] = auth.sign(self.account, key or self.key, Signed(method, path, full_query, sent))
        return self.send(method, f"{path}?{full_query}" if full_query else path, sent, content)

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send a request as it is given, without signing it."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                if value:
                    connection.putheader(name, value.encode("latin-1"))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


class Later(Raw):
    """Signs with the server's time, which it can move."""

    ahead_s = 0.0

    def __call__(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        date = {"ocp-date": formatdate(time.time() + self.ahead_s, usegmt=True)}
        return super().__call__(method, path, body, **{**more, "headers": {**date, **(more.get("headers") or {})}})

    def advance(self, by: str) -> None:
        """Move the server's clock by an ISO 8601 duration."""
        answer = self("POST", "/batchyard/clock", {"advance": by})
        assert answer.status == 200, answer.body
        self.ahead_s += (times.duration(by) or 0) / 1e6


class Seen(msgspec.Struct):
    """A call of the SDK as it went over the wire."""

    method: str
    url: str
    status: int
    headers: dict[str, str]


class Sdk:
    """azure-batch 15.x that does not try again; `calls` are the newest last."""

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        self.calls: list[Seen] = []
        credential = AzureNamedKeyCredential(account, key)
        self.client = BatchClient(endpoint, credential, raw_response_hook=self._saw, retry_total=0)

    def _saw(self, response: Any) -> None:
        answer = response.http_response
        headers = {name.lower(): value for name, value in answer.headers.items()}
        self.calls.append(Seen(answer.request.method, answer.request.url, answer.status_code, headers))

    @property
    def last(self) -> Seen:
        return self.calls[-1]


@pytest.fixture(scope="session", autouse=True)
def _quiet_sdk() -> None:
    logging.getLogger("azure").setLevel(logging.ERROR)


@pytest.fixture
def raw(server: Server) -> Raw:
    """Signed raw requests to the shared server."""
    return Raw(server.endpoint, server.account, server.key)


@pytest.fixture
def sdk(server: Server) -> Sdk:
    """The newer SDK against the shared server."""
    return Sdk(server.endpoint, server.account, server.key)


@pytest.fixture
def batch(sdk: Sdk) -> BatchClient:
    """Client of the newer SDK."""
    return sdk.client


def machine() -> models.VirtualMachineConfiguration:
    """What a pool of the newer SDK must say about its machines."""
    image = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    return models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")


def pool_body(pool_id: str, **more: object) -> Json:
    """The smallest legal pool, without nodes."""
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
    return {
        "id": pool_id,
        "vmSize": "STANDARD_D2S_V3",
        "virtualMachineConfiguration": {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
        "targetDedicatedNodes": 0,
        **more,
    }


class Yard:
    """Jobs and tasks for tests, over raw HTTP; what it made it can wait for and remove."""

    def __init__(self, raw: Raw, pool_id: str) -> None:
        self.raw, self.pool_id = raw, pool_id
        self.jobs: list[str] = []

    def job(self, *tasks: Json, **more: object) -> str:
        """Add a job on the shared pool with these tasks, at most 100."""
        job_id = unique("job")
        self.jobs.append(job_id)
        added = self.raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": self.pool_id}, **more})
        assert added.status == 201, added.body
        if tasks:
            self.add(job_id, *tasks)
        return job_id

    def add(self, job_id: str, *tasks: Json) -> None:
        """Add tasks, all of which must be accepted."""
        added = self.raw("POST", f"/jobs/{job_id}/addtaskcollection", {"value": list(tasks)})
        assert added.status == 200, added.body
        assert [item["status"] for item in added.json["value"]] == ["success"] * len(tasks), added.body

    def get(self, path: str) -> Json:
        """A resource that must be there."""
        answer = self.raw("GET", path)
        assert answer.status == 200, answer.body
        return answer.json

    def task(self, job_id: str, task_id: str) -> Json:
        """A task as it is now."""
        return self.get(f"/jobs/{job_id}/tasks/{task_id}")

    def reached(self, job_id: str, task_id: str, state: str = "completed") -> Json:
        """The task once it is in a state."""

        def look() -> Json | None:
            task = self.task(job_id, task_id)
            return task if task["state"] == state else None

        return wait_for(look, f"task {task_id} to be {state}")

    def job_reached(self, job_id: str, state: str) -> Json:
        """The job once it is in a state."""

        def look() -> Json | None:
            job = self.get(f"/jobs/{job_id}")
            return job if job["state"] == state else None

        return wait_for(look, f"job {job_id} to be {state}")

    def steady(self, pool_id: str) -> Json:
        """The pool once its size is settled."""

        def look() -> Json | None:
            pool = self.get(f"/pools/{pool_id}")
            return pool if pool["allocationState"] == "steady" else None

        return wait_for(look, f"pool {pool_id} to be steady")

    def gone(self, path: str) -> None:
        """Wait until a resource does not exist any more."""
        wait_for(lambda: self.raw("GET", path).status == 404, f"{path} to be gone")


def pages(raw: Raw, path: str, query: str = "maxresults=2") -> list[list[Json]]:
    """All pages of a list, by the links of the server; each link must be one that both SDKs can follow (clients.md 0, #11)."""
    found: list[list[Json]] = []
    version: str | None = VERSION
    while True:
        page = raw("GET", path, query=query, version=version).json
        assert set(page) <= {"odata.metadata", "value", "odata.nextLink"}
        found.append(page["value"])
        if "odata.nextLink" not in page:
            return found
        link = urlsplit(page["odata.nextLink"])
        assert f"{link.scheme}://{link.netloc}" == raw.endpoint
        assert link.path == path
        assert "+" not in link.query
        options = parse_qs(link.query)
        assert options["api-version"] == [VERSION]
        assert options.items() >= {name: value for name, value in parse_qs(query).items() if name != "$skiptoken"}.items()
        path, query, version = link.path, link.query, None


def sh(script: str) -> str:
    """Command line that runs a shell script."""
    return f"/bin/sh -c '{script}'"


def task(task_id: str, script: str = "true", **more: object) -> Json:
    """A task that runs a shell script."""
    return {"id": task_id, "commandLine": sh(script), **more}


@contextmanager
def _pool(raw: Raw) -> Iterator[str]:
    pool_id = unique("yard")
    added = raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=1, taskSlotsPerNode=4))
    assert added.status == 201, added.body
    try:
        yield pool_id
    finally:
        raw("DELETE", f"/pools/{pool_id}")
        wait_for(lambda: raw("GET", f"/pools/{pool_id}").status == 404, "the shared pool to be gone")


@pytest.fixture(scope="module")
def pool_id(server: Server) -> Iterator[str]:
    """A pool of one node with four slots; removed with its node behind the module's tests."""
    holder: AbstractContextManager[str] = _pool(Raw(server.endpoint, server.account, server.key))
    with holder as made:
        yield made


@pytest.fixture
def yard(raw: Raw, pool_id: str) -> Iterator[Yard]:
    """Jobs on the shared pool; removed behind the test, so that nothing of them holds a slot."""
    made = Yard(raw, pool_id)
    yield made
    for job_id in made.jobs:
        raw("DELETE", f"/jobs/{job_id}")


@pytest.fixture
def node_id(yard: Yard) -> str:
    """The shared pool's node, once it is ready for tasks."""

    def look() -> str | None:
        nodes = yard.get(f"/pools/{yard.pool_id}/nodes")["value"]
        return nodes[0]["id"] if nodes and nodes[0]["state"] in ("idle", "running") else None

    return wait_for(look, "the node to be ready")


def escaped(path: str) -> str:
    """A file path as one segment of a URL."""
    return quote(path, safe="")


NODE_KEY = b"key of the nodes"
STILL_KEY = base64.b64encode(b"a key of the account").decode()


class Still:
    """A server that does nothing by itself; what it stores can be put into any state."""

    def __init__(self, *, chaos: bool = False, restarting: frozenset[str] = frozenset()) -> None:
        hub = Wakes()
        hub.bind(asyncio.get_running_loop())
        self.db = Database(MEMORY, hub)
        self.relay = Relay(hub)
        machines = {LOCAL: Machine("10.9.8.7", "here", "2001:db8::7")}
        account = Account("acct", [STILL_KEY])
        services = Services(self.db, hub, Clock(), self.relay, account, NODE_KEY, chaos, machines=machines, restarting=restarting)
        self.api = Api(services, {}, {})
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url="http://server")

    async def __call__(self, method: str, path: str, body: object = None, *, query: str = "") -> httpx.Response:
        """A signed request; `query` is sent as given."""
        content = b"" if body is None else msgspec.json.encode(body)
        query = "&".join(part for part in (query, f"api-version={VERSION}") if part)
        headers = {"ocp-date": formatdate(usegmt=True)}
        if method not in ("GET", "HEAD"):
            headers["content-length"] = str(len(content))
        headers["authorization"] = auth.sign("acct", STILL_KEY, Signed(method, path, query, headers))
        return await self.http.request(method, f"{path}?{query}", content=content, headers=headers)

    async def put(self, table: str, **values: object) -> None:
        """Write columns of the only row of a table."""

        def unit(tx: Tx) -> None:
            assert tx.changed(Change(f"UPDATE {table} SET {', '.join(f'{name} = :{name}' for name in values)}"), **values) == 1

        await self.db.run(unit)

    async def node(self, state: str, node_id: str = "n") -> None:
        """Give the only pool a node."""

        def unit(tx: Tx) -> None:
            tx.insert(
                "node",
                pool_pk=1,
                id=node_id,
                state=state,
                state_time=0,
                scheduling_state="enabled",
                dedicated=1,
                slots=4,
                slots_used=1,
                tasks_running=1,
                allocated=0,
            )

        await self.db.run(unit)

    async def close(self) -> None:
        await self.http.aclose()
        self.db.close()


@pytest.fixture
def restarting() -> frozenset[str]:
    """Providers of the server `still` that can start a node's agent anew."""
    return frozenset()


@pytest.fixture
async def still(restarting: frozenset[str]) -> AsyncIterator[Still]:
    """A server with one pool `p`, one job `j` on it and one task `t`."""
    made = Still(restarting=restarting)
    assert (await made("POST", "/pools", pool_body("p"))).status_code == 201
    assert (await made("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}})).status_code == 201
    assert (await made("POST", "/jobs/j/tasks", task("t"))).status_code == 201
    yield made
    await made.close()
