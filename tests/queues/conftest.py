"""A queue endpoint on a loopback port, one per test process, and the unmodified SDK against it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from azure.storage.queue import QueueClient, QueueServiceClient
from tests.blobs.conftest import ACCOUNT, KEY, OLD_KEY, Clock

import databases
import postgres
from batchyard import drivers
from batchyard.api.wire.protocol import BoundedHttp
from batchyard.blobs.queues.edge import application
from batchyard.blobs.queues.store import QueueStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc, both=True)


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    store: QueueStore
    clock: Clock
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/queue/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};QueueEndpoint={self.url};"

    def client(self, credential: object = KEY) -> QueueServiceClient:
        """SDK client that does not try again."""
        given = {"account_name": ACCOUNT, "account_key": credential} if credential in (KEY, OLD_KEY) else credential
        return QueueServiceClient(self.url, credential=given, retry_total=0)


@pytest.fixture(scope="session", autouse=True)
def _quiet_sdk() -> None:
    logging.getLogger("azure").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def _endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Endpoint]]:
    """One endpoint for each database, from the first test on that asks for it."""
    running: dict[str, Endpoint] = {}
    with contextlib.ExitStack() as stack:

        def of(driver: str) -> Endpoint:
            if driver not in running:
                location: Path | str = tmp_path_factory.mktemp("queues") / "queues.db"
                if driver == databases.POSTGRES:
                    location = postgres.fresh()
                    stack.callback(drivers.drop, location)
                running[driver] = stack.enter_context(serve(QueueStore(location)))
            return running[driver]

        yield of


@contextlib.contextmanager
def serve(store: QueueStore) -> Iterator[Endpoint]:
    """Run a server in a thread meanwhile."""
    clock = Clock()
    listener = socket.create_server(("127.0.0.1", 0))
    app = application(store, {ACCOUNT: [KEY, OLD_KEY]}, clock)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", http=BoundedHttp))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Endpoint(store, clock, listener.getsockname()[1])
    server.should_exit = True
    thread.join()
    listener.close()
    store.close()


@pytest.fixture
def endpoint(driver: str, _endpoints: Callable[[str], Endpoint]) -> Iterator[Endpoint]:
    """The server with its clock set right."""
    _endpoint = _endpoints(driver)
    _endpoint.clock.ahead, _endpoint.clock.stopped = timedelta(), None
    yield _endpoint
    _endpoint.clock.ahead, _endpoint.clock.stopped = timedelta(), None


_numbers = itertools.count()


@pytest.fixture
def queue(endpoint: Endpoint) -> QueueClient:
    """A new queue."""
    return endpoint.client().create_queue(f"queue-{next(_numbers)}")


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)
