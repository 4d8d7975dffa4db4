"""Several real servers on one PostgreSQL, each with local nodes of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from tests.conftest import Server, wait_for

import postgres
from batchyard.cli.client import Client

IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
POOL: dict[str, Any] = {
    "vmSize": "standard_d2s_v3",
    "virtualMachineConfiguration": {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
}


def unique(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(4)}"


class Cluster:
    """Servers on one database; each may be killed, paused and started again."""

    def __init__(self, location: str, *options: str) -> None:
        self.location, self._options = location, options
        self.servers: list[Server] = []
        self.place = Path(tempfile.mkdtemp(prefix="batchyard-test-"))
        self.place.chmod(0o711)

    @property
    def schema(self) -> str:
        return self.location.rpartition("schema=")[2]

    def start(self, *options: str, nodes: int = 2) -> Server:
        """Another server."""
        server = Server("--database", self.location, "--blobs", str(self.place / "blobs"), *self._options, *options, nodes=nodes)
        self.servers.append(server)
        return server

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds in the world of the default account, or with `{registry}` before a table in the registry."""
        text = sql.replace("{registry}", f'"{self.schema}_registry"')
        with psycopg.connect(self.location.rpartition("schema=")[0].rstrip("?&"), autocommit=True) as connection:
            connection.execute(f'SET search_path = "{self.schema}"')
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    def holder(self, but: Server | None = None) -> Server:
        """The server that does the background work of the default account, once it is another one."""
        ids = {self.id(server): server for server in self.servers if server is not but}

        def held() -> Server | None:
            rows = self.ask("SELECT holder FROM lease WHERE until > extract(epoch FROM clock_timestamp()) * 1000000")
            return ids[rows[0][0]] if rows and rows[0][0] in ids else None

        return wait_for(held, "a server to hold the lease")

    def other(self, server: Server) -> Server:
        return next(each for each in self.servers if each is not server and each.process.poll() is None)

    def id(self, server: Server) -> str:
        return (server.directory / "server.id").read_text()

    def stop(self) -> None:
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.process.pid, signal.SIGCONT)
            server.stop()
        postgres.remove(self.location)
        shutil.rmtree(self.place, ignore_errors=True)


@contextlib.contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    made = Cluster(postgres.fresh(), *options)
    try:
        yield made
    finally:
        made.stop()


def client(server: Server) -> Client:
    return Client(server.endpoint, server.account, server.key)


def sdk(server: Server) -> BatchClient:
    """The service's own client, which repeats what was not answered."""
    return BatchClient(server.endpoint, AzureNamedKeyCredential(server.account, server.key))


def make_pool(batch: Client, name: str, nodes: int, **more: Any) -> None:
    batch.post("pools", body={"id": name, **POOL, "targetDedicatedNodes": nodes, **more})


def idle(batch: Client, pool: str, n: int) -> list[dict[str, Any]]:
    """The nodes of a pool, once so many are idle."""

    def found() -> list[dict[str, Any]] | None:
        nodes = list(batch.listed("pools", pool, "nodes"))
        return nodes if sum(node["state"] == "idle" for node in nodes) >= n else None

    return wait_for(found, f"{n} idle nodes")
