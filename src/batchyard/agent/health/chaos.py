"""Disturbances on demand, so that an operator can see what becomes of the work (docs/chaos.md).

Nothing is obeyed unless the agent was started with `--chaos`. A disturbance lasts until `heal`; `kill` is at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Protocol

import msgspec
import structlog

from batchyard.agent.health.health import FULL
from batchyard.agent.places.files import Found
from batchyard.agent.transfer.failures import failure
from batchyard.model.sync import Chaos, Ended, FileHead, FileRequest, NodeProblem

log = structlog.get_logger()

_content = msgspec.json.Decoder(Chaos)
_PROBLEM = NodeProblem(
    code=FULL,
    message="The disk of the node is taken to be full until it is healed (batchyard chaos)",
    details={"Name": "chaos"},
    blocking=True,
)


class Making(Protocol):
    """An attempt that is being made."""

    def kill(self, *, leaving: bool = False) -> None:
        """End it; may be repeated. `leaving` says that it is ended only because the agent goes."""

    def terminate(self) -> None:
        """Let it know that the machine goes."""

    async def run(self) -> Ended:
        """Make it and tell how it went."""


class Slowed:
    """An attempt that starts late, unless it is killed meanwhile."""

    def __init__(self, attempt: Making, seconds: float) -> None:
        self._attempt, self._seconds = attempt, seconds
        self._killed = asyncio.Event()

    def kill(self, *, leaving: bool = False) -> None:
        """End it; may be repeated."""
        self._killed.set()
        self._attempt.kill(leaving=leaving)

    def terminate(self) -> None:
        """Let it know that the machine goes."""
        self._attempt.terminate()

    async def run(self) -> Ended:
        """Wait, then make it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._killed.wait()
        return await self._attempt.run()


class WithoutRoom:
    """An attempt for which the disk has no room."""

    def __init__(self, attempt: str) -> None:
        self._attempt = attempt

    def kill(self, *, leaving: bool = False) -> None:
        """There is nothing to end."""

    def terminate(self) -> None:
        """There is nothing to let know."""

    async def run(self) -> Ended:
        """Tell that it could not be made."""
        reason = failure(FULL, "The disk of the node is full")
        return Ended(attempt=self._attempt, ended=time.time_ns() // 1000, failure=reason, stage="preprocessing")


class Disturbances:
    """What disturbs this node now; `allowed` is the operator's word."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._slow_s = 0.0
        self._full = False
        self.changed = asyncio.Event()
        """Set when there may be other problems now; whoever looks clears it."""

    def obey(self, request: FileRequest) -> FileHead:
        """Begin or end a disturbance; `kill` waits for `answered`."""
        if not self._allowed:
            return FileHead(error="Forbidden")
        try:
            chaos = _content.decode(request.content)
        except msgspec.DecodeError:
            return FileHead(error="InvalidRequestBody")
        log.warning("chaos", kind=chaos.kind, seconds=chaos.seconds)
        if chaos.kind == "slow":
            self._slow_s = max(0.0, chaos.seconds)
        elif chaos.kind == "disk-full":
            self._full = True
        elif chaos.kind == "heal":
            self._slow_s, self._full = 0.0, False
        self.changed.set()
        return FileHead()

    async def answer(self, request: FileRequest) -> Found:
        """`obey`, as an answer to a request."""
        return Found(self.obey(request))

    def answered(self, request: FileRequest, head: FileHead) -> None:
        """The server knows that the request was taken; if that was to kill the agent, this does not return."""
        if request.operation == "chaos" and head.error is None and _content.decode(request.content).kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def problems(self) -> list[NodeProblem]:
        """What the node reports because of it."""
        return [_PROBLEM] if self._full else []

    def disturb(self, name: str, attempt: Making) -> Making:
        """What is made in place of an attempt."""
        if self._full:
            return WithoutRoom(name)
        return Slowed(attempt, self._slow_s) if self._slow_s else attempt
