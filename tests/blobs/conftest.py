"""A real server on a loopback port, one per test process, and the unmodified SDK against it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from azure.storage.blob import AccountSasPermissions, BlobServiceClient, ContainerClient, ResourceTypes, generate_account_sas

import databases
import postgres
from batchyard import drivers
from batchyard.api.wire.protocol import BoundedHttp
from batchyard.blobs.edge.server import application
from batchyard.blobs.store.local import LocalBlobStore

ON_BOTH = ("test_store", "test_listing", "test_copy", "test_marks", "test_keeping", "test_pages", "test_paths")
"""What tests the catalogue runs on every database, the rest on SQLite unless `--driver` says otherwise."""
ACCOUNT = "storage1"
KEY = base64.b64encode(b"first key of the account, 32 byte").decode()
OLD_KEY = base64.b64encode(b"second key of the account").decode()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc, both=metafunc.module.__name__.rpartition(".")[2] in ON_BOTH)


def catalogue(directory: Path) -> str | None:
    """Where the catalogue of a store in that directory is, on the database that the test runs on; None: in the directory."""
    return str(databases.place(directory / "catalogue.db")) if databases.on_postgres() else None


def words(directory: Path) -> list[str]:
    """What `LocalBlobStore(*words)` is made of, for another process."""
    return [str(directory), *filter(None, [catalogue(directory)])]


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
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Endpoint]]:
    """One server for each database, from the first test on that asks for it."""
    running: dict[str, Endpoint] = {}
    with contextlib.ExitStack() as stack:

        def of(driver: str) -> Endpoint:
            if driver not in running:
                location = None
                if driver == databases.POSTGRES:
                    location = postgres.fresh()
                    stack.callback(drivers.drop, location)
                store = LocalBlobStore(tmp_path_factory.mktemp("blobs") / "store", location)
                running[driver] = stack.enter_context(contextlib.contextmanager(serve)(store, Clock()))
            return running[driver]

        yield of


@pytest.fixture
def endpoint(driver: str, _servers: Callable[[str], Endpoint]) -> Iterator[Endpoint]:
    """The server with its clock right."""
    server = _servers(driver)
    yield server
    server.clock.ahead, server.clock.stopped = timedelta(), None


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
def store(driver: str, tmp_path: Path) -> Iterator[LocalBlobStore]:
    """A store of its own."""
    opened = LocalBlobStore(tmp_path / "store", catalogue(tmp_path / "store"))
    yield opened
    opened.close()
