"""A server of the benchmark's own, with real agents, in a fresh directory that is gone afterwards."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import meter
import msgspec
from client import Account, Connection

import batchyard
from batchyard.cli import daemon, processes
from batchyard.model.sync import NodeFacts

T = TypeVar("T")
NOBODY = 65534
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}


class Broken(Exception):
    """The benchmark cannot go on; the message says why."""


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 60.0, every: float = 0.01) -> T:
    """The first true thing that `look` sees. Raises Broken."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)
    return seen


def _interpreter(uid: int) -> tuple[str, dict[str, Any]]:
    """An interpreter that another user may run, and how Popen becomes that user with all packages in reach. Raises Broken."""
    packages = os.pathsep.join(str(Path(module.__file__ or "").parents[1]) for module in (batchyard, msgspec))
    switch: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []}
    for python, more in ((sys.executable, {}), ("/usr/bin/python3", {"PYTHONPATH": packages})):
        switch["env"] = {**os.environ, **more}
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([python, "-P", "-c", "import batchyard.app"], check=True, capture_output=True, cwd="/", **switch)
            return python, switch
    raise Broken(f"no interpreter with Batchyard's packages that user {uid} may run")


class Server:
    """A server on a free port of loopback, a context that ends everything; `uid` runs it and its agents as another user.

    `program` gives another command for a server of a directory, `options` are more words of the usual one.
    """

    def __init__(self, uid: int | None = None, program: Callable[[Path], Sequence[str]] | None = None, options: Sequence[str] = ()) -> None:
        self._uid, self._program, self._options = uid, program, options
        self.directory = Path(tempfile.mkdtemp(prefix="batchyard-bench-"))
        self.directory.chmod(0o711)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        if self._uid is not None:
            os.chown(self.directory, self._uid, self._uid)
        python, switch = (sys.executable, {}) if self._uid is None else _interpreter(self._uid)
        command = [
            python,
            "-P",
            "-m",
            "batchyard.cli.main",
            "serve",
            "--dir",
            str(self.directory),
            "--port",
            "0",
            "--nodes",
            "8",
            *self._options,
        ]
        command = [*command, *self._options] if self._program is None else [*self._program(self.directory)]
        begun = time.monotonic()
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, **switch
            )
        url = wait_for(self._announced, "the server to answer", every=0.005).url
        account = daemon.account(self.directory)
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.account = Account(host, int(port), account.name, account.keys[0])
        self.connection = Connection(self.account)
        self.call("GET", "/pools")
        self.start_s = time.monotonic() - begun
        """From the start of the process to the first answered request, in seconds."""

    def _announced(self) -> daemon.Server | None:
        if self._process is None or self._process.poll() is not None:
            raise Broken(f"the server ended at once:\n{(self.directory / 'server.log').read_text()[-2000:]}")
        return daemon.running(self.directory)

    def __exit__(self, *_: object) -> None:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid, started in list(processes.agents_below(self.directory)):
            processes.end(pid, started, 5)
        # At the end of all: ext4 makes files several times as slowly for a while after it removed many.
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)

    def call(self, method: str, path: str, content: object = None) -> Any:
        """Ask the server something."""
        return self.connection.call(method, path, content)

    def add_pool(self, name: str, nodes: int, slots: int, **more: object) -> None:
        """Add a pool and wait until all its nodes are idle."""
        pool = {"id": name, "vmSize": "standard_d4s_v3", "virtualMachineConfiguration": _MACHINE}
        self.call("POST", "/pools", pool | {"targetDedicatedNodes": nodes, "taskSlotsPerNode": slots} | more)

        def idle() -> bool:
            found = self.call("GET", f"/pools/{name}/nodes")["value"]
            return len(found) == nodes and all(node["state"] == "idle" for node in found)

        wait_for(idle, f"{nodes} nodes")

    def drop_pool(self, name: str) -> None:
        """Delete a pool and wait until it and its agents are gone."""
        self.call("DELETE", f"/pools/{name}")
        wait_for(lambda: "code" in self.call("GET", f"/pools/{name}"), "the end of a pool", every=0.05)
        wait_for(lambda: not self.agents(), "the end of its agents", every=0.05)

    def add_job(self, name: str, pool: str) -> None:
        """Add a job."""
        self.call("POST", "/jobs", {"id": name, "poolInfo": {"poolId": pool}})

    def counts(self, job: str) -> dict[str, int]:
        """Tasks of a job by state."""
        found: dict[str, int] = self.call("GET", f"/jobs/{job}/taskcounts")["taskCounts"]
        return found

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def agents(self) -> list[int]:
        """Processes of the running agents."""
        return [pid for pid, _ in processes.agents_below(self.directory)]

    def node_processes(self) -> list[int]:
        """Agents and their spawners; tasks must not run."""
        return [pid for agent in self.agents() for pid in (agent, *meter.children(agent))]

    def facts(self) -> list[NodeFacts]:
        """What the agents say about themselves."""
        with contextlib.closing(sqlite3.connect(f"file:{self.directory}/batchyard.db?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT facts FROM node WHERE facts IS NOT NULL").fetchall()
        return [msgspec.json.decode(row[0], type=NodeFacts) for row in rows]
