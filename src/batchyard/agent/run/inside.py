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
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import msgspec

from batchyard.agent.places.files import Refused
from batchyard.agent.process.process import Command, Exit, NotLaunched, SpawnerLost
from batchyard.agent.run.runner import Inside, Node, next_key
from batchyard.model import frames
from batchyard.model.frames import Exited
from batchyard.model.sync import Execution, FileRequest

AT_ONCE = 32
_PIECE = 32 << 10
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


class Insiders:
    """Runs commands inside of tasks; `node` is asked for what runs there, None before it has joined."""

    def __init__(self, directory: str, node: Callable[[], Node | None]) -> None:
        self._directory, self._node = directory, node
        self._running = 0
        shutil.rmtree(directory, ignore_errors=True)  # the pipes of an agent that was killed

    async def stream(self, request: FileRequest) -> AsyncGenerator[bytes, None]:
        """The frames of a command that begins when the first is asked for. Raises Refused."""
        wanted = _content.decode(request.content)
        node = self._node()
        inside = None if node is None else node.inside.get(wanted.attempt)
        if node is None or inside is None:
            raise Refused("OperationInvalidForCurrentState", "The task does not run its command at the moment")
        if self._running >= AT_ONCE:
            raise Refused(
                "OperationInvalidForCurrentState", f"{AT_ONCE} commands run inside of tasks of the node already, which is the most"
            )
        return self._counted(node, inside, wanted)

    async def _counted(self, node: Node, inside: Inside, wanted: Execution) -> AsyncGenerator[bytes, None]:
        self._running += 1
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
            self._running -= 1
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
