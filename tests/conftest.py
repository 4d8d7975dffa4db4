"""Live servers for tests: the real command line, real HTTP, real agents."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from hypothesis import HealthCheck, settings

import databases
import postgres
from batchyard.cli import daemon, processes

READY_S = 60.0
# A machine that does other work too is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    databases.add_option(parser)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    databases.leave_out(config, items)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        postgres.share(Path(tempfile.mkdtemp(prefix="batchyard-postgres-")) / "cluster")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        postgres.let_go()


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Iterator[str]:
    """The database that a test's stores lie in."""
    databases.choose(request.param)
    yield request.param
    databases.clear()
    databases.choose(databases.SQLITE)


class Server:
    """A server on a free port of loopback with a state directory of its own that other users may pass through."""

    def __init__(self, *options: str, nodes: int = 4, below: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="batchyard-test-", dir=below))
        self.directory.chmod(0o711)
        self._options = ("--nodes", str(nodes), *options)
        self._port = "0"
        self.start()
        account = daemon.account(self.directory)
        self.account, self.key = account.name, account.keys[0]
        self.storage_account, self.storage_key = account.storage_name, account.storage_key

    @property
    def endpoint(self) -> str:
        """URL of the Batch account."""
        return self._running.url

    @property
    def storage_connection_string(self) -> str:
        """Connection string of the storage account."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.storage_account};AccountKey={self.storage_key};"
            f"BlobEndpoint={self.endpoint}/{self.storage_account};"
            f"QueueEndpoint={self.endpoint}/queue/{self.storage_account};"
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment that `batchyard env` would set, on top of this process's."""
        return {
            **os.environ,
            "AZURE_BATCH_ACCOUNT": self.account,
            "AZURE_BATCH_ACCESS_KEY": self.key,
            "AZURE_BATCH_ENDPOINT": self.endpoint,
            "AZURE_STORAGE_CONNECTION_STRING": self.storage_connection_string,
        }

    def start(self) -> None:
        """Start the server; after the first time on the same port again."""
        command = [sys.executable, "-P", "-m", "batchyard.cli.main", "serve", "--dir", str(self.directory), "--port", self._port]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running = wait_for(self._announced, "the server to answer")
        self._port = self._running.url.rpartition(":")[2]

    def _announced(self) -> daemon.Server | None:
        assert self.process.poll() is None, (self.directory / "server.log").read_text()[-4000:]
        found = daemon.running(self.directory)
        return found if found is not None and found.pid == self.process.pid else None

    def kill(self) -> None:
        """End the server with SIGKILL; its agents live on."""
        self.process.kill()
        self.process.wait()

    def agents(self) -> dict[str, int]:
        """Pids of the running agents by node id."""
        pids = {home.parent.name: json.loads(home.read_text()) for home in self.directory.glob("nodes/*/process")}
        return {node: found["pid"] for node, found in pids.items() if processes.start_time(found["pid"]) == found["started"]}

    def kill_agent(self, node_id: str) -> None:
        """End the agent of a node with SIGKILL."""
        os.kill(self.agents()[node_id], signal.SIGKILL)

    def stop(self) -> None:
        """End the server and all its agents, and remove its files."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        for pid, started in list(processes.agents_below(self.directory)):
            processes.end(pid, started, 5)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """What the server and its agents logged."""
        return "\n".join(path.read_text() for path in [self.directory / "server.log", *self.directory.glob("nodes/*/agent.log")])


T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, seconds: float = READY_S) -> T:
    """The first thing that `look` sees; fails the test when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that tests share; use ids of your own."""
    running = Server(nodes=4)
    yield running
    running.stop()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for one test that ends it, or an agent of it, the hard way."""
    running = Server(nodes=4)
    yield running
    running.stop()


_INODES = 16_000


class SmallDisk:
    """A file system of its own, so small that it can really be filled; whoever may not mount one skips the test."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._ballast, self._names = path / "ballast", path / "names"
        if os.geteuid() != 0:
            pytest.skip("only root may mount a file system of its own")
        path.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={_INODES},mode=0711", "none", path], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")

    def free(self) -> int:
        """Bytes that are left."""
        seen = os.statvfs(self.path)
        return seen.f_bavail * seen.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all but so many bytes."""
        with self._ballast.open("ab", buffering=0) as ballast:
            while (more := self.free() - leave) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), more)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    ballast.write(b"\0" * min(more, 4096))

    def fill_inodes(self) -> None:
        """Take all that new files need besides bytes."""
        self._names.mkdir()
        with contextlib.suppress(OSError):
            for number in range(_INODES):
                (self._names / str(number)).touch()
        assert os.statvfs(self.path).f_ffree == 0

    def relieve(self) -> None:
        """Give back what was taken."""
        self._ballast.unlink(missing_ok=True)
        shutil.rmtree(self._names, ignore_errors=True)

    def unmount(self) -> None:
        """End it, whoever still stands in it."""
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """Makes a file system of so many bytes, for one test."""
    disks: list[SmallDisk] = []

    def make(size: int) -> SmallDisk:
        disks.append(SmallDisk(tmp_path / f"disk-{len(disks)}", size))
        return disks[-1]

    yield make
    for disk in disks:
        disk.unmount()
