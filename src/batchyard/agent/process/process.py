"""The agent's side of its spawners: one awaitable run per command, over as many small processes as were asked for.

Never forks: spawners are started by posix_spawn. A spawner that dies takes its runs with it (SpawnerLost); what it
left running is ended before the loss is told, and the next run gets a new spawner. One that does not answer is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import structlog

from batchyard.agent.process import control, spawner
from batchyard.agent.process.limits import Limits

log = structlog.get_logger()

_PING_S = 5.0
"""How often a spawner is asked for a word."""
_UNANSWERED = 4
"""So many questions in a row without a word: something keeps it from working, as a task that stops it while it starts another."""
_CLOSE_S = 10.0
"""How long spawners that were told to end may take; their own patience with what does not go away is half of it."""
_NOTICE_AFTER_S = 1.0
"""How long after its start a command gets the notice that came before: it needs the time to be ready for the signal."""


class Command(msgspec.Struct, frozen=True):
    """What to start: the first of `argv` is looked up on the environment's PATH; `uid` -1 keeps the agent's user."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    stdout: str
    stderr: str
    uid: int = -1
    limit_s: float | None = None
    gid: int | None = None
    """None for the group with the user's number."""


class Exit(msgspec.Struct, frozen=True):
    """How a command ended; times in microseconds since 1970."""

    code: int
    started: int
    ended: int
    user_us: int
    kernel_us: int
    overdue: bool
    """True when it was ended for its time limit."""
    noticed: bool
    """True when it got SIGTERM because the machine goes."""


class NotLaunched(Exception):
    """The command never ran; `found` is False when there is no such program, `full` True when the disk had no room for its logs."""

    def __init__(self, found: bool, text: str, full: bool = False) -> None:
        super().__init__(text)
        self.found, self.full = found, full


class SpawnerLost(Exception):
    """The process that watched the command died; how the command ended is not known."""


class _Spawner(asyncio.Protocol):
    """One spawner process and the runs it was given."""

    def __init__(self, place: tuple[str, str, str], watch: str, groups: Sequence[str]) -> None:
        self.place, self.watch, self.groups = place, watch, groups
        self.waiting: dict[int, asyncio.Future[Exit]] = {}
        self.staying: dict[int, Callable[[], None]] = {}
        self.lost = asyncio.get_running_loop().create_future()
        self.pid = 0
        self.unanswered = 0
        self.reaped = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._out: list[bytes] = []

    async def start(self) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            os.set_inheritable(theirs.fileno(), True)
            python = sys.executable if os.access(sys.executable, os.X_OK) else os.readlink("/proc/self/exe")
            argv = [python, "-I", "-S", "-X", "utf8", spawner.__file__, str(theirs.fileno()), *self.place, self.watch, *self.groups]
            kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
            self.pid = os.posix_spawn(python, argv, kept, setsid=True)
        finally:
            theirs.close()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self.unanswered = 0
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "little")
            if len(buffer) < end:
                break
            self._told(marshal.loads(bytes(buffer[at + 4 : end])))
            at = end
        del buffer[:at]

    def _told(self, message: tuple[str, int, object]) -> None:
        kind, key, *rest = message
        if kind == "stays":
            self.staying.pop(key, _nothing)()
            return
        future = self.waiting.pop(key, None)
        if future is None or future.done():
            return
        if kind == "ended":
            future.set_result(Exit(*rest))  # type: ignore[arg-type]
        else:
            future.set_exception(NotLaunched(bool(rest[0]), str(rest[1]), bool(rest[2])))

    def send(self, *message: str | int | float | list[str] | dict[str, str]) -> None:
        """Send with whatever else is sent in this turn of the loop; at once to a process that has nothing else to do meanwhile."""
        idle = len(self.waiting) <= 1
        if not (idle or self._out):
            asyncio.get_running_loop().call_soon(self._flush)
        data = marshal.dumps(message)
        self._out += (len(data).to_bytes(4, "little"), data)
        if idle:
            self._flush()

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def close(self) -> None:
        """Let it kill everything and end."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def kill(self) -> None:
        """End the process at once, without what it started."""
        if not self.reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Spawners:
    """Runs commands; `place` is what `control.probe` found, `count` how many spawners share the work, held to `limits`.

    In the directory `watches` each spawner has a file while it lives; none where it is empty.
    """

    def __init__(self, place: tuple[str, str, str], count: int, limits: Limits | None = None, watches: str = "") -> None:
        self._place, self.count, self._limits, self._watches = place, count, limits or Limits(), watches
        self._slots: dict[int, asyncio.Task[_Spawner]] = {}
        self._endings: dict[asyncio.Task[None], _Spawner] = {}
        self._where: dict[int, _Spawner] = {}
        self._marks: dict[int, str] = {}
        self._beginning: dict[int, bool] = {}
        """Runs that wait for their spawner, and whether they have to be let know that the machine goes."""
        self._next = self._life = 0

    @property
    def holds_groups(self) -> bool:
        """True where all that a run started is found, whatever it did to its session and environment."""
        return self._place[0] != control.Session.name

    async def run(self, key: int, command: Command, noticed: bool = False, stays: Callable[[], None] | None = None) -> Exit:
        """Start, wait for the end, end all that is left of it. Raises NotLaunched or SpawnerLost.

        `noticed` is as if `terminate` were called once it runs. With `stays` a command that exits with 0 is not over: that is called, and
        what it left running goes on without a time limit until the run is killed.
        """
        self._next = (self._next + 1) % self.count
        self._beginning[key] = noticed
        try:
            one = await self._spawner(self._next)
            if key not in self._beginning:
                raise NotLaunched(True, "killed before its start")
        finally:
            noticed = self._beginning.pop(key, False)
        notice = asyncio.get_running_loop().call_later(_NOTICE_AFTER_S, self.terminate, key) if noticed else None
        try:
            if stays is None:
                return await self._by(one, "start", key, command)
            one.staying[key] = stays
            return await self._by(one, "stay", key, command)
        finally:
            one.staying.pop(key, None)
            if notice is not None:
                notice.cancel()

    async def run_inside(self, key: int, host: int, command: Command) -> Exit:
        """Run a command inside of a run, with which it ends; its output goes to named pipes. Raises NotLaunched or SpawnerLost."""
        one = self._where.get(host)
        if one is None:
            raise NotLaunched(True, "the task has ended")
        return await self._by(one, "exec", key, command, host)

    async def _by(self, one: _Spawner, what: str, key: int, command: Command, *host: int) -> Exit:
        """Have a spawner start a command, and wait for its end. Raises NotLaunched or SpawnerLost."""
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        one.waiting[key] = future
        self._where[key] = one
        self._marks[key] = command.environment.get(control.MARK, "")
        limit = -1.0 if command.limit_s is None else command.limit_s
        log_paths = command.stdout, command.stderr
        who = command.uid, command.uid if command.gid is None else command.gid
        one.send(what, key, command.argv, command.environment, command.directory, *log_paths, *who, limit, *host)
        try:
            return await future
        finally:
            del self._where[key], self._marks[key]

    def kill(self, key: int) -> None:
        """End a run; its Exit follows. Nothing happens when there is none."""
        self._beginning.pop(key, None)
        one = self._where.get(key)
        if one is not None:
            one.send("kill", key)

    def terminate(self, key: int) -> None:
        """Send SIGTERM to a run's process group, soon after its start at the earliest. Nothing happens when there is none."""
        if key in self._beginning:
            self._beginning[key] = True
        one = self._where.get(key)
        if one is not None:
            one.send("terminate", key)

    async def _spawner(self, slot: int) -> _Spawner:
        task = self._slots.get(slot)
        if task is None:
            task = self._slots[slot] = asyncio.create_task(self._launch(slot))
        if task.done():
            return task.result()
        return await asyncio.shield(task)

    async def _launch(self, slot: int) -> _Spawner:
        self._life += 1
        name, base, home = self._place
        watch = f"{self._watches}/{os.getpid()}.{self._life}" if self._watches else ""
        one = _Spawner((name, f"{base}/{self._life}" if base else "", home), watch, self._limits.apply())
        try:
            await one.start()
        except OSError as error:
            del self._slots[slot]
            raise NotLaunched(True, f"no spawner: {error.strerror}") from error
        ending = asyncio.create_task(self._mourn(slot, one))
        self._endings[ending] = one
        ending.add_done_callback(self._endings.pop)
        return one

    async def _mourn(self, slot: int, one: _Spawner) -> None:
        """Wait for the end of a spawner, end what it left, tell its runs."""
        await _watch(one)
        self._slots.pop(slot, None)
        marks = [f"{control.MARK}={self._marks[key]}" for key in one.waiting if key in self._marks]
        await asyncio.to_thread(_bury, one, marks)
        if one.waiting:
            log.error("spawner died", pid=one.pid, attempts=len(one.waiting))
        for future in one.waiting.values():
            if not future.done():
                future.set_exception(SpawnerLost("the process that watched it died"))

    async def close(self) -> None:
        """Kill everything and wait until it is gone."""
        for task in list(self._slots.values()):
            with contextlib.suppress(NotLaunched):
                (await task).close()
        if self._endings:
            _, late = await asyncio.wait(list(self._endings), timeout=_CLOSE_S)
            for ending in late:
                self._endings[ending].kill()
        while self._endings:
            await asyncio.wait(list(self._endings))
        with contextlib.suppress(OSError):
            control.make(*self._place).sweep()
        self._limits.remove()


def _nothing() -> None:
    """What is called of a run that is over."""


async def _watch(one: _Spawner) -> None:
    """Return when the connection to a spawner is lost; kills one that gives no word any more."""
    while not one.lost.done() and one.unanswered < _UNANSWERED:
        one.unanswered += 1
        one.send("ping", 0)
        await asyncio.wait({one.lost}, timeout=_PING_S)
    if not one.lost.done():
        log.error("spawner does not answer", pid=one.pid)
        one.kill()
    await one.lost


def _bury(one: _Spawner, marks: list[str]) -> None:
    """Wait for the process; a spawner that was told to end has ended all its runs, a killed one has not."""
    os.waitpid(one.pid, 0)
    one.reaped = True
    with contextlib.suppress(OSError):
        control.make(*one.place).sweep()
    if one.place[0] == control.Session.name and marks:
        control.hunt(marks)
    with contextlib.suppress(OSError):
        os.unlink(one.watch)
