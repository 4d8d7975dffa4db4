"""A real server on a loopback port, one per test process, and the unmodified SDK against it."""

from __future__ import annotations

import base64
import itertools
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from azure.storage.blob import AccountSasPermissions, BlobServiceClient, ContainerClient, ResourceTypes, generate_account_sas

from batchyard.api.wire.protocol import BoundedHttp
from batchyard.blobs.edge.server import application
from batchyard.blobs.store.local import LocalBlobStore

ACCOUNT = "storage1"
KEY = base64.b64encode(b"first key of the account, 32 byte").decode()
OLD_KEY = base64.b64encode(b"second key of the account").decode()


@dataclass
class Clock:
    """The time of day plus what a test adds, or the moment at which a test stopped it."""

    ahead: timedelta = field(default_factory=timedelta)
    stopped: datetime | None = None

    def __call__(self) -> datetime:
        return self.stopped or datetime.now(UTC) + self.ahead


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    store: LocalBlobStore
    clock: Clock
    host: str
    port: int
    account: str = ACCOUNT
    key: str = KEY
    old_key: str = OLD_KEY

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/{ACCOUNT}"

    def client(self, credential: object = KEY) -> BlobServiceClient:
        """SDK client that does not try again (a retry would hide a fault, and would sleep)."""
        given = {"account_name": ACCOUNT, "account_key": credential} if credential == KEY else credential
        return BlobServiceClient(self.url, credential=given, retry_total=0, max_single_put_size=4 << 20, max_block_size=1 << 20)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        """A request with a SAS that lets everything, as no SDK sends it; `x_ms_y` names the header x-ms-y."""
        everything = AccountSasPermissions.from_string("rwdxlacuptfiy")
        kinds = ResourceTypes(service=True, container=True, object=True)
        token = generate_account_sas(ACCOUNT, KEY, kinds, everything, datetime.now(UTC) + timedelta(days=900))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}{path}{'&' if '?' in path else '?'}{token}"
        return httpx.request(method, url, content=body if method in ("PUT", "POST") else None, headers=named, trust_env=False)


def serve(store: LocalBlobStore, clock: Clock, **options: Any) -> Iterator[Endpoint]:
    """Run a server in a thread until the generator is closed; the listening socket is there from the start."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = application(store, {ACCOUNT: [KEY, OLD_KEY]}, clock, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", http=BoundedHttp))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Endpoint(store, clock, "127.0.0.1", listener.getsockname()[1])
    server.should_exit = True
    thread.join()
    listener.close()
    store.close()


@pytest.fixture(scope="session", autouse=True)
def _quiet_sdk() -> None:
    logging.getLogger("azure").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    yield from serve(LocalBlobStore(tmp_path_factory.mktemp("blobs") / "store"), Clock())


@pytest.fixture
def endpoint(_server: Endpoint) -> Iterator[Endpoint]:
    """The server with its clock right."""
    yield _server
    _server.clock.ahead, _server.clock.stopped = timedelta(), None


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def service(endpoint: Endpoint) -> BlobServiceClient:
    """SDK client with the account key."""
    return endpoint.client()


_numbers = itertools.count(1)


@pytest.fixture
def container(service: BlobServiceClient) -> ContainerClient:
    """A new container."""
    return service.create_container(f"box-{next(_numbers)}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalBlobStore]:
    """A store of its own."""
    opened = LocalBlobStore(tmp_path / "store")
    yield opened
    opened.close()
