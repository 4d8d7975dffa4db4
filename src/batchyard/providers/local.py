"""Nodes on this machine: an agent process each, with a root directory of its own.

A node is a directory `{nodes}/{node id}` that holds its token, its log, the pid of its agent and `root`, the node's
file system as tasks see it. The directory is the handle, so a restarted server finds its nodes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from batchyard.providers.base import Handle, NoCapacity, NodeOrder, Seen

log = structlog.get_logger()

UIDS_PER_NODE = 1000
FIRST_UID = 70_000
_UID_BLOCKS = 1_000_000  # so that the highest uid fits 32 bits
_AGENT = "batchyard.agent.main"
_GRACE_S = 5.0


class _Process(msgspec.Struct):
    """An agent that was started: its pid, and when, so that a recycled pid is never taken for it."""

    pid: int
    started: int
    server: str = ""
    """URL that it speaks to; a server that listens elsewhere now has to start it anew."""


class LocalProvider:
    """At most `max_nodes` agents on this machine."""

    def __init__(self, directory: Path, server_url: str, max_nodes: int, agent_options: Sequence[str] = ()) -> None:
        self._directory = directory
        self._agent_options = agent_options
        self._server_url = server_url
        self._max_nodes = max_nodes
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    async def launch(self, order: NodeOrder) -> Handle:
        """Start the agent of a node, unless it runs. Raises NoCapacity."""
        home = self._directory / order.node_id
        if not home.exists():
            if self._count() >= self._max_nodes:
                raise NoCapacity(f"this machine is set to run {self._max_nodes} nodes at most")
            self._directory.mkdir(mode=0o711, exist_ok=True)
            home.mkdir(mode=0o711)  # at once, so that launches at the same time count each other
        elif (process := await asyncio.to_thread(_agent, home)) is not None:
            if process.server == self._server_url:
                return str(home)
            await self._stop(home)
        await self._start_or_clear(home, order)
        return str(home)

    async def _start_or_clear(self, home: Path, order: NodeOrder) -> None:
        """Start the agent; a node whose first start fails leaves nothing behind."""
        known = (home / "token").exists()
        try:
            await asyncio.to_thread(self._start, home, order)
        except BaseException:
            if not known:
                await self._release(home)
            raise

    async def sweep(self, known: Collection[str]) -> None:
        """Release what an earlier server launched and never noted: directories that are no known node's."""
        if self._directory.exists():
            homes = [home for home in self._directory.iterdir() if home.is_dir() and home.name not in known]
            await asyncio.gather(*(self._release(home) for home in homes))

    def _count(self) -> int:
        return sum(1 for home in self._directory.iterdir() if home.is_dir()) if self._directory.exists() else 0

    def _start(self, home: Path, order: NodeOrder) -> None:
        root = home / "root"
        root.mkdir(mode=0o755, exist_ok=True)
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(order.token)
        log_file = home / "agent.log"
        command = [
            sys.executable, "-m", _AGENT, "--server", self._server_url, "--root", str(root), "--token-file", str(token),
            "--uid-base", str(FIRST_UID + order.number % _UID_BLOCKS * UIDS_PER_NODE), "--log-file", str(log_file), *self._agent_options,
        ]  # fmt: skip
        log_file.touch(mode=0o600)
        with log_file.open("ab") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=home, env=_environment()
            )
        self._children[child.pid] = child
        _write(home, _Process(child.pid, _start_time(child.pid) or 0, self._server_url))
        log.info("node launched", node=order.node_id, pid=child.pid)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """Whether the agents run."""
        self._reap()
        seen: dict[Handle, Seen] = {}
        for handle in handles:
            process = _read(Path(handle))
            ours = process is not None and process.server == self._server_url and _alive(process)
            seen[handle] = Seen.ALIVE if ours else Seen.GONE
        return seen

    async def stop(self, handles: Sequence[Handle]) -> None:
        """End the agents with all their tasks; the directories stay."""
        await asyncio.gather(*(self._stop(Path(handle)) for handle in handles))

    async def release(self, handles: Sequence[Handle]) -> None:
        """End the agents with all their tasks and remove their directories."""
        await asyncio.gather(*(self._release(Path(handle)) for handle in handles))

    async def _release(self, home: Path) -> None:
        await self._stop(home)
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)

    async def stop_all(self) -> None:
        """End every agent but keep the nodes' files; a later server launches them again."""
        if self._directory.exists():
            await asyncio.gather(*(self._stop(home) for home in self._directory.iterdir() if home.is_dir()))

    async def _stop(self, home: Path) -> None:
        """SIGTERM, then SIGKILL; the agent's spawner ends the tasks when the agent is gone."""
        process = await asyncio.to_thread(_agent, home)
        if process is None:
            return
        for signal_number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
            if not _alive(process):
                break
            _signal(process, signal_number)
            await self._ended(process, patience)
        self._reap()
        (home / "process").unlink(missing_ok=True)

    async def _ended(self, process: _Process, seconds: float) -> None:
        """Wait until a process is gone, by its pidfd."""
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        self._reap()

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]


def _agent(home: Path) -> _Process | None:
    """The agent of a node, if it runs; one whose server was killed before it could note the pid is found and noted now."""
    process = _read(home)
    if process is not None and _alive(process):
        return process
    root = os.fsencode(home / "root")
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if _AGENT.encode() in words and root in words and (started := _start_time(int(entry.name))) is not None:
                server = words[words.index(b"--server") + 1].decode() if b"--server" in words else ""
                process = _Process(int(entry.name), started, server)
                _write(home, process)
                return process
    return None


def _environment() -> dict[str, str]:
    """The agent needs the interpreter's own settings, nothing else."""
    kept = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _read(home: Path) -> _Process | None:
    try:
        return msgspec.json.decode((home / "process").read_bytes(), type=_Process)
    except (OSError, msgspec.DecodeError):
        return None


def _write(home: Path, process: _Process) -> None:
    new = home / "process.new"
    new.write_bytes(msgspec.json.encode(process))
    new.replace(home / "process")


def _start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _alive(process: _Process) -> bool:
    return _start_time(process.pid) == process.started


def _signal(process: _Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
