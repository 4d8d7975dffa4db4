"""Nodes on this machine: an agent process each, with a root directory of its own.

A node is a directory `{nodes}/{node id}` that holds its token, its log, the pid of its agent and `root`, the node's
file system as tasks see it. The directory is the handle, so a restarted server finds its nodes again. Whatever is
done to one node is done one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import structlog

from batchyard.disk.trees import remove_tree
from batchyard.providers.base import Handle, NoCapacity, NodeOrder, Seen
from batchyard.providers.network.namespaces import Namespaces

log = structlog.get_logger()

_AGENT = "batchyard.agent.main"
FOLLOWS = "--server-file"
"""Option of agents that find a server whose address has changed."""
_GRACE_S = 5.0
_LOG_TAIL = 4_000
_LINE = 300
_EXITS_KEPT = 1_000


class _Process(msgspec.Struct):
    """An agent that was started: its pid, and when, so that a recycled pid is never taken for it."""

    pid: int
    started: int
    server: str = ""
    """URL that it was started with."""
    follows: bool = False
    """It finds a server that listens elsewhere now; one that does not has to be started anew."""
    log_from: int = 0
    """Size of its log when it started."""
    address: str = ""
    """Its own, where it has a network of its own."""


class LocalProvider:
    """At most `max_nodes` agents on this machine, with the `others` of other directories; in `networks` of their own, if any."""

    restarts = True

    def __init__(
        self,
        directory: Path,
        server_url: str,
        max_nodes: int,
        agent_options: Sequence[str] = (),
        *,
        others: Callable[[], int] = lambda: 0,
        networks: Namespaces | None = None,
    ) -> None:
        self._directory, self._networks = directory, networks
        self._others = others
        self._agent_options = agent_options
        self._server_url = server_url
        self._max_nodes = max_nodes
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._exits: dict[int, int] = {}
        """Exit codes of the last agents that ended, by pid."""
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    def _turn(self, home: Path) -> asyncio.Lock:
        """To be held by whoever acts on a node."""
        return self._turns.setdefault(home, asyncio.Lock())

    async def launch(self, order: NodeOrder) -> Handle:
        """Start the agent of a node, unless it runs. Raises NoCapacity."""
        home = self._directory / order.node_id
        async with self._turn(home):
            if not home.exists():
                if self.count() + self._others() >= self._max_nodes:
                    raise NoCapacity(f"this machine is set to run {self._max_nodes} nodes at most")
                self._directory.mkdir(mode=0o711, exist_ok=True)
                home.mkdir(mode=0o711)  # at once, so that launches at the same time count each other
            elif (process := await asyncio.to_thread(_agent, home, self._address(home))) is not None:
                if self._hears_us(home, process):
                    return str(home)
                await self._stop(home)
            await self._start_or_clear(home, order)
        return str(home)

    def _hears_us(self, home: Path, process: _Process) -> bool:
        """True when an agent speaks to this server, or will, from the network that it shall be in."""
        return (process.follows or process.server == self._server_url) and process.address == self._address(home)

    def _address(self, home: Path) -> str:
        return "" if self._networks is None else self._networks.address(home)

    async def _start_or_clear(self, home: Path, order: NodeOrder) -> None:
        """Start the agent; a node whose first start fails, or is given up, leaves nothing behind."""
        known = (home / "token").exists()
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, home, order))
        try:
            await asyncio.shield(starting)
        except BaseException:
            await asyncio.wait({starting})  # a thread cannot be ended
            if not known:
                with contextlib.suppress(OSError):
                    await self._remove(home)
            raise

    async def sweep(self, known: Collection[str]) -> None:
        """Release what an earlier server launched and never noted: directories that are no known node's."""
        if self._directory.exists():
            homes = [home for home in self._directory.iterdir() if home.is_dir() and home.name not in known]
            results = await asyncio.gather(*(self._release(home) for home in homes), return_exceptions=True)
            for home, result in zip(homes, results, strict=True):
                if isinstance(result, BaseException):
                    log.warning("node directory not removed", directory=str(home), reason=str(result))

    def count(self) -> int:
        """Nodes of this directory."""
        return sum(1 for home in self._directory.iterdir() if home.is_dir()) if self._directory.exists() else 0

    def _start(self, home: Path, order: NodeOrder) -> None:
        root = home / "root"
        root.mkdir(mode=0o755, exist_ok=True)
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(order.token)
        log_file = home / "agent.log"
        entry = [] if self._networks is None else self._networks.join(home, order.pool_id, order.communicates)
        command = [
            *entry,
            sys.executable,
            "-m",
            _AGENT,
            "--server",
            self._server_url,
            "--root",
            str(root),
            "--token-file",
            str(token),
            "--log-file",
            str(log_file),
            *self._agent_options,
            *([] if self._networks is None else ["--seen-at", str(self._networks.seen_at)]),
        ]
        log_file.touch(mode=0o600)
        with log_file.open("ab") as output:
            log_from = output.tell()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=home, env=_environment()
            )
        self._children[child.pid] = child
        try:
            started = _start_time(child.pid) or 0
            _write(home, _Process(child.pid, started, self._server_url, FOLLOWS in command, log_from, self._address(home)))
        except OSError:  # the disk is full: an agent that nobody knows of must not live on
            child.kill()
            child.wait()
            raise
        log.info("node launched", node=order.node_id, pid=child.pid)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        """Whether the agents run."""
        self._reap()
        seen: dict[Handle, Seen] = {}
        for handle in handles:
            process = _read(Path(handle))
            ours = process is not None and self._hears_us(Path(handle), process) and _alive(process)
            seen[handle] = Seen.ALIVE if ours else Seen.GONE
        return seen

    async def why(self, handle: Handle) -> str:
        """How the agent of a node ended, with the last line that it wrote."""
        self._reap()
        return await asyncio.to_thread(self._why, Path(handle))

    def _why(self, home: Path) -> str:
        process = _read(home)
        if process is None:
            return "the agent was stopped" if home.exists() else "the node's directory is gone"
        if _alive(process):
            return f"the agent speaks to another address of the server, {process.server}"
        code = self._exits.get(process.pid)
        if code is not None and code < 0:
            return f"the agent was ended by signal {-code}, {signal.strsignal(-code)}"
        how = "the agent has ended" if code is None else f"the agent exited with code {code}"
        line = _last_line(home / "agent.log", process.log_from)
        return f"{how}: {line}" if line else how

    async def stop(self, handles: Sequence[Handle]) -> None:
        """End the agents with all their tasks; the directories stay."""
        await asyncio.gather(*(self._stop_in_turn(Path(handle)) for handle in handles))

    async def _stop_in_turn(self, home: Path) -> None:
        async with self._turn(home):
            await self._stop(home)

    async def release(self, handles: Sequence[Handle]) -> None:
        """End the agents with all their tasks and remove their directories; one that cannot be removed keeps no other."""
        results = await asyncio.gather(*(self._release(Path(handle)) for handle in handles), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _release(self, home: Path) -> None:
        async with self._turn(home):
            await self._remove(home)

    async def _remove(self, home: Path) -> None:
        await self._stop(home)
        if self._networks is not None:
            await asyncio.to_thread(self._networks.leave, home)
        await asyncio.to_thread(remove_tree, home)

    async def stop_all(self) -> None:
        """End every agent but keep the nodes' files; a later server launches them again."""
        if self._directory.exists():
            await asyncio.gather(*(self._stop_in_turn(home) for home in self._directory.iterdir() if home.is_dir()))

    async def _stop(self, home: Path) -> None:
        """SIGTERM, then SIGKILL; the agent's spawner ends the tasks when the agent is gone."""
        process = await asyncio.to_thread(_agent, home, self._address(home))
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
            code = child.poll()
            if code is not None:
                del self._children[pid]
                self._exits.pop(pid, None)
                self._exits[pid] = code
        while len(self._exits) > _EXITS_KEPT:
            del self._exits[next(iter(self._exits))]


def _agent(home: Path, address: str) -> _Process | None:
    """The agent of a node, if it runs; one whose server was killed before it could note the pid is found and noted now."""
    process = _read(home)
    if process is not None and _alive(process):
        return process
    found = dict(_running(os.fsencode(home / "root")))
    for pid, (parent, server, follows) in found.items():
        # A child of the agent looks like it until it has become what it shall be.
        if parent not in found and (started := _start_time(pid)) is not None:
            process = _Process(pid, started, server, follows, address=address)
            with contextlib.suppress(OSError):
                _write(home, process)
            return process
    return None


def _running(root: bytes) -> Iterator[tuple[int, tuple[int, str, bool]]]:
    """Pid of every process that was called as the agent of a root directory, with its parent, its server and whether it follows that."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if _AGENT.encode() in words and root in words:
                server = words[words.index(b"--server") + 1].decode() if b"--server" in words else ""
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                yield int(entry.name), (int(parent), server, FOLLOWS.encode() in words)


def _environment() -> dict[str, str]:
    """The agent needs the interpreter's own settings, nothing else."""
    kept = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _read(home: Path) -> _Process | None:
    try:
        return msgspec.json.decode((home / "process").read_bytes(), type=_Process)
    except (OSError, msgspec.DecodeError):
        return None


def _last_line(log_file: Path, start: int) -> str:
    """The last line of a log that is not empty and stands behind its first `start` bytes, shortened."""
    try:
        with log_file.open("rb") as text:
            size = text.seek(0, os.SEEK_END)
            text.seek(max(start, size - _LOG_TAIL))
            lines = text.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_LINE]


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
