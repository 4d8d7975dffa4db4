"""Commands that a client runs inside of a running task: as its user, in its directory, environment and group of processes.

The output goes through two named pipes into frames, no more than a few of them ahead of whoever takes them, so that a
client that reads slowly holds the command up and not the agent's memory. The command ends with the task, with the
agent, and when nobody takes its frames any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass

import msgspec

from batchyard.agent.places.files import Refused
from batchyard.agent.process.process import Command, Exit, NotLaunched, SpawnerLost
from batchyard.agent.run.runner import Inside, Node, next_key
from batchyard.model import frames
from batchyard.model.frames import Exited
from batchyard.model.sync import Execution, FileRequest

AT_ONCE = 32
"""Commands that run inside of one attempt; no task takes them away from another."""
_PIECE = 32 << 10
_REMEMBERED = 1_000
"""Named commands of an attempt whose exits are kept for who asks again; many more than may run."""
_AHEAD = 4
"""Frames that wait for whoever takes them."""
_QUIET_S = 5.0
"""After so long without output a frame says that the command still runs, which also finds out that nobody listens any more."""
_NOT_FOUND, _NOT_RUN, _KILLED = 127, 126, 128 + 9
_WITH_THE_TASK_S = 1.0
"""How long the end of the task is waited for once a command was killed."""
_content = msgspec.json.Decoder(Execution)


@dataclass(slots=True)
class _Pipe:
    """A named pipe that stays open until it is told to end."""

    path: str
    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport
    keeper: int

    def end(self) -> None:
        """Nobody writes any more: what is left can be read, then the end."""
        if self.keeper >= 0:
            os.close(self.keeper)
            self.keeper = -1

    def close(self) -> None:
        """Give it up."""
        self.end()
        self.transport.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


class _Named:
    """A command that outlasts the line to the server: its frames, for one line after the other."""

    def __init__(self, found: AsyncGenerator[bytes, None]) -> None:
        self._frames = found
        self._coming: asyncio.Task[bytes | None] | None = None
        self._last = b""

    @property
    def over(self) -> bool:
        """True once its exit is known."""
        return bool(self._last)

    async def line(self) -> AsyncGenerator[bytes, None]:
        """The frames that no line has had yet, the last one in any case; to be closed without harm to the command."""
        while not self._last:
            coming = self._coming = self._coming or asyncio.create_task(anext(self._frames, None))
            try:
                one = await asyncio.shield(coming)
            except asyncio.CancelledError:
                if not coming.cancelled():
                    raise
                break  # it was ended
            if self._coming is coming:
                self._coming = None
            if one is None:
                return
            if one[0] == frames.EXIT:
                self._last = one
            else:
                yield one
        yield self._last

    async def end(self) -> None:
        """End the command, if it runs."""
        self._last = self._last or _exit(_KILLED, "nobody listened to it any more, or the task ended")
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})
        await self._frames.aclose()


class Insiders:
    """Runs commands inside of tasks; `node` is asked for what runs there, None before it has joined."""

    def __init__(self, directory: str, node: Callable[[], Node | None]) -> None:
        self._directory, self._node = directory, node
        self._running: Counter[str] = Counter()
        """By attempt."""
        self._named: dict[str, dict[str, _Named]] = {}
        """By attempt and name, until the attempt's command has ended."""
        self._ends: set[asyncio.Task[None]] = set()
        shutil.rmtree(directory, ignore_errors=True)  # the pipes of an agent that was killed

    async def stream(self, request: FileRequest) -> AsyncGenerator[bytes, None]:
        """The frames of a command that begins when the first is asked for. Raises Refused."""
        wanted = _content.decode(request.content)
        if (known := self._find(wanted)) is not None:
            return known.line()
        node = self._node()
        inside = None if node is None else node.inside.get(wanted.attempt)
        if node is None or inside is None:
            raise Refused("OperationInvalidForCurrentState", "The task does not run its command at the moment")
        if self._running[wanted.attempt] >= AT_ONCE:
            raise Refused("OperationInvalidForCurrentState", f"{AT_ONCE} commands run inside of the task already, which is the most")
        found = self._counted(node, inside, wanted)
        if not wanted.name:
            return found
        if wanted.attempt not in self._named:
            self._in_background(self._forget(inside, wanted.attempt))
        all_ = self._named.setdefault(wanted.attempt, {})
        if len(all_) >= _REMEMBERED:
            del all_[next(name for name, each in all_.items() if each.over)]
        named = all_[wanted.name] = _Named(found)
        return named.line()

    def _find(self, wanted: Execution) -> _Named | None:
        return self._named.get(wanted.attempt, {}).get(wanted.name)

    def let_go(self, request: FileRequest) -> None:
        """Nobody listens to a command any more: end it."""
        wanted = _content.decode(request.content)
        if (named := self._find(wanted)) is not None:
            self._in_background(named.end())

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _forget(self, inside: Inside, attempt: str) -> None:
        await inside.over.wait()
        await asyncio.sleep(_WITH_THE_TASK_S)  # whoever listens hears how what was killed with the task ended
        for named in self._named.pop(attempt).values():
            await named.end()

    async def _counted(self, node: Node, inside: Inside, wanted: Execution) -> AsyncGenerator[bytes, None]:
        self._running[wanted.attempt] += 1
        pipes: list[_Pipe] = []
        try:
            for _ in range(2):
                pipes.append(await self._pipe())
            async with contextlib.aclosing(_frames(node, inside, wanted, pipes)) as found:
                async for one in found:
                    yield one
        except OSError as error:
            yield _exit(_NOT_RUN, f"no pipe for its output: {error.strerror}")
        finally:
            self._running[wanted.attempt] -= 1
            self._running += Counter()  # forgets those that have none
            for pipe in pipes:
                pipe.close()

    async def _pipe(self) -> _Pipe:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = f"{self._directory}/{secrets.token_hex(8)}"
        os.mkfifo(path, 0o600)
        keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        reader = asyncio.StreamReader(limit=_PIECE)
        end = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), end)
        return _Pipe(path, reader, transport, keeper)


async def _frames(node: Node, inside: Inside, wanted: Execution, pipes: list[_Pipe]) -> AsyncGenerator[bytes, None]:
    """The frames of one command; ends it when it is closed."""
    key = next_key()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
    work = asyncio.create_task(_run(key, node, inside, wanted, pipes, queue))
    try:
        yield frames.frame(frames.QUIET)
        while True:
            try:
                async with asyncio.timeout(_QUIET_S):
                    one = await queue.get()
            except TimeoutError:
                one = frames.frame(frames.QUIET)
            if one is None:
                return
            yield one
    finally:
        node.spawners.kill(key)
        work.cancel()
        await asyncio.wait({work})


async def _run(key: int, node: Node, inside: Inside, wanted: Execution, pipes: list[_Pipe], queue: asyncio.Queue[bytes | None]) -> None:
    """Run a command and put its frames into the queue, the exit and None behind them."""
    out, err = pipes
    readers = [asyncio.create_task(_copy(pipe, kind, queue)) for pipe, kind in ((out, frames.STDOUT), (err, frames.STDERR))]
    try:
        command = Command(wanted.command, inside.variables, inside.directory, out.path, err.path, inside.uid, wanted.limit_s, inside.gid)
        ended = _exit(_NOT_RUN, "")
        try:
            done = await node.spawners.run_inside(key, inside.key, command)
            ended = _exit(done.code, await _why(inside, done))
        except NotLaunched as error:
            ended = _exit(_NOT_RUN if error.found else _NOT_FOUND, str(error))
        except SpawnerLost as error:
            ended = _exit(_KILLED, str(error))
        for pipe in pipes:
            pipe.end()
        await asyncio.gather(*readers)
        await queue.put(ended)
        await queue.put(None)
    finally:
        for reader in readers:
            reader.cancel()


async def _why(inside: Inside, done: Exit) -> str:
    """Why a command was ended, if it did not end by itself. Who is killed with the task may be heard of before the task is."""
    if done.overdue:
        return "it ran longer than its time limit"
    if done.code == _KILLED:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(inside.over.wait(), _WITH_THE_TASK_S)
    return "the task ended" if inside.over.is_set() else ""


async def _copy(pipe: _Pipe, kind: int, queue: asyncio.Queue[bytes | None]) -> None:
    while data := await pipe.reader.read(_PIECE):
        await queue.put(frames.frame(kind, data))


def _exit(code: int, reason: str) -> bytes:
    return frames.frame(frames.EXIT, msgspec.json.encode(Exited(code, reason or None)))
