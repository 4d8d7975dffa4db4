"""One attempt from its order to its report: directory, resource files, command, output files.

Whatever happens becomes a report: no failure of an attempt reaches the loop. An attempt that is killed while it is
not running a command ends as soon as that can be told, and never begins a further stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from batchyard.agent import environment, layout, usage
from batchyard.agent.failures import SERVER, USER, Failed, Stage, exit_code_failure, failure
from batchyard.agent.layout import Layout, TaskPlace
from batchyard.agent.process import Command, Exit, NotLaunched, SpawnerLost, Spawners
from batchyard.agent.removals import Directories
from batchyard.agent.staging import Staging
from batchyard.agent.stop import Cancelled, Stop
from batchyard.agent.upload import Upload
from batchyard.agent.users import NoSuchUser, User, Users
from batchyard.model.common import EnvironmentSetting, OutputFile, ResourceFile, UserIdentity
from batchyard.model.sync import Ended, NodeSetup, Order
from batchyard.model.task import TaskConstraints, TaskFailureInformation
from batchyard.model.times import duration

log = structlog.get_logger()

_QUOTED = re.compile(r"['\"\\]")
_WORD = re.compile(r"[^ \t\r\n]+")
_KEYS = itertools.count(1)


class Work(msgspec.Struct, rename="camel"):
    """What the agent needs of a TaskCreateContent or a StartTask; members that it does not know are ignored."""

    command_line: str
    id: str = ""
    """A start task has none."""
    resource_files: list[ResourceFile] | None = None
    output_files: list[OutputFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    constraints: TaskConstraints | None = None
    user_identity: UserIdentity | None = None


_WORK = msgspec.json.Decoder(Work)
_SETTINGS = msgspec.json.Decoder(list[EnvironmentSetting] | None)


@dataclass(slots=True)
class Node:
    """What all attempts of a node share."""

    layout: Layout
    users: Users
    spawners: Spawners
    threads: Executor
    setup: NodeSetup
    directories: Directories
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.variables = environment.of_node(self.setup, self.layout)
        self.users.learn(self.setup.accounts)


class Attempt:
    """One run of one task."""

    def __init__(self, node: Node, order: Order) -> None:
        self._node, self._order = node, order
        self._key = next(_KEYS)
        self._stop = Stop()
        self._staging = self._stop.part()
        self._transfer: asyncio.Task[None] | None = None
        self._noticed = False
        self._stage: Stage = "preprocessing"
        self._exit: Exit | None = None
        self._too_much: str | None = None
        """How its directory took more of the disk than it may."""

    def kill(self) -> None:
        """End it, whatever it is doing; may be repeated."""
        self._stop.set()
        self._node.spawners.kill(self._key)
        if self._transfer is not None:
            self._transfer.cancel()

    def terminate(self) -> None:
        """Let its command know that the machine goes, now or once it runs; it goes on until it ends or is ended."""
        self._noticed = True
        self._node.spawners.terminate(self._key)

    async def run(self) -> Ended:
        """Make the attempt and tell how it went; raises nothing."""
        reason: TaskFailureInformation | None = None
        try:
            await self._all()
        except Failed as failed:
            self._stage, reason = failed.stage, failed.info
        except Cancelled:
            pass
        except OSError as error:
            reason = _of_the_node(error)
        except Exception as error:
            log.exception("attempt failed for a reason inside the agent", attempt=self._order.attempt)
            reason = failure("Unknown", f"The agent failed: {type(error).__name__}", SERVER)
        if self._stop.is_set():
            reason = failure("TaskEnded", "Task Was Ended by User Request")
        return self._report(reason)

    def _report(self, reason: TaskFailureInformation | None) -> Ended:
        done = self._exit
        now = time.time_ns() // 1000
        if done is None:
            return Ended(attempt=self._order.attempt, ended=now, failure=reason, stage=self._stage)
        ended = now if self._stage == "upload" else done.ended
        times = {"user_cpu_us": done.user_us, "kernel_cpu_us": done.kernel_us}
        return Ended(
            attempt=self._order.attempt, started=done.started, ended=ended, exit_code=None if self._too_much else done.code, failure=reason,
            stage=self._stage, **times,
        )  # fmt: skip

    async def _all(self) -> None:
        work = _WORK.decode(self._order.task)
        try:
            rooms = self._node.layout
            place = rooms.start_task() if self._order.start else rooms.task(self._order.job_id, work.id)
        except ValueError as error:
            raise Failed("preprocessing", failure("CommandLaunchFailed", str(error), SERVER)) from error
        if self._order.after_others:
            await self._node.directories.quiet(os.path.dirname(place.directory))
        async with self._node.directories.use(place.directory):
            if self._stop.is_set():
                raise Cancelled
            await self._in_directory(work, place)

    async def _in_directory(self, work: Work, place: TaskPlace) -> None:
        users = self._node.users
        try:
            if self._order.start:
                user = users.of_start_task(work.user_identity)
            else:
                user = users.take(work.user_identity, layout.former_user(place))
        except NoSuchUser as error:
            raise Failed("preprocessing", failure("CommandLaunchFailed", str(error))) from error
        try:
            layout.open_to(place, user)
            await self._in_stages(work, place, user)
        finally:
            layout.close(place, user)
            users.give_back(user)

    async def _in_stages(self, work: Work, place: TaskPlace, user: User) -> None:
        async with self._held_to_disk(place):
            await self._stage_in(work, place, user)
            common = _SETTINGS.decode(bytes(self._order.environment or b"") or b"null") or []
            variables = environment.of_task(self._node.variables, place, user, common, work.environment_settings or [], **self._extras())
            self._exit = done = await self._command(work, place, user, variables)
            self._stage = "run"
        if self._stop.is_set():
            raise Cancelled
        try:
            if work.output_files:
                self._stage = "upload"
                upload = Upload(place, self._node.layout.shared, user.uid, variables, self._node.threads, self._stop, user.group)
                await self._do(upload.all(work.output_files, done.code))
        except Cancelled:
            self._stage = "run"
            raise
        except Failed:
            if not done.overdue and (done.code == 0 or not _may_run_again(work)):
                raise
        self._stage = "run"
        if done.overdue:
            raise Failed("run", failure("TaskEnded", "The task was ended because it ran longer than its maximum wall clock time", SERVER))
        if done.code != 0:
            raise Failed("run", exit_code_failure())

    async def _stage_in(self, work: Work, place: TaskPlace, user: User) -> None:
        if work.resource_files:
            mode = 0o775 if self._order.start else 0o770  # every task may read what the start task brings
            staging = Staging(place.working, user.uid, self._node.threads, self._staging, user.group, mode)
            await self._do(staging.all(work.resource_files))
        if self._stop.is_set() or self._too_much:
            raise Cancelled

    @contextlib.asynccontextmanager
    async def _held_to_disk(self, place: TaskPlace) -> AsyncIterator[None]:
        """End what goes on inside once the task's directory takes more than the node's tasks may. Raises Failed."""
        limit = self._node.setup.task_disk_bytes
        watching = asyncio.create_task(self._watch_disk(place, limit)) if limit else None
        try:
            yield
        except (Cancelled, Failed):
            if self._stop.is_set() or not self._too_much:
                raise
        finally:
            if watching is not None:
                watching.cancel()
        if self._too_much and not self._stop.is_set():
            text = f"The task's directory is too large: {self._too_much}"
            raise Failed(self._stage, failure("DiskFull", text, USER, LimitBytes=str(limit)))

    async def _watch_disk(self, place: TaskPlace, limit: int) -> None:
        self._too_much = await usage.watch(place.directory, limit, self._node.threads, self._stop.is_set)
        self._staging.set()
        self._node.spawners.kill(self._key)
        if self._transfer is not None:
            self._transfer.cancel()

    async def _do(self, transfer: Coroutine[None, None, None]) -> None:
        """Do a transfer; a kill abandons it at once, with its threads, which `Stop` keeps from doing harm. Raises Cancelled."""
        self._transfer = asyncio.create_task(transfer)
        await asyncio.wait({self._transfer})
        if self._transfer.cancelled():
            raise Cancelled
        self._transfer.result()

    def _extras(self) -> dict[str, Any]:
        """What the attempt is told beyond what all are told."""
        preparation = self._order.preparation_id
        place = None if preparation is None else self._node.layout.task(self._order.job_id, preparation)
        return {"preparation": place, "token": self._order.token}

    async def _command(self, work: Work, place: TaskPlace, user: User, variables: dict[str, str]) -> Exit:
        try:
            argv = words(work.command_line)
        except ValueError as error:
            raise _not_launched("CommandLaunchFailed", f"The command line cannot be split into words: {error}", work) from error
        if not argv:
            raise _not_launched("CommandLaunchFailed", "The command line is empty", work)
        limit = work.constraints.max_wall_clock_time if work.constraints else None
        limit_us = duration(limit) if limit else None
        logs = place.directory + "/stdout.txt", place.directory + "/stderr.txt"
        seconds = None if limit_us is None else limit_us / 1e6
        try:
            command = Command(argv, variables, place.working, *logs, user.uid, seconds, user.group)
            return await self._node.spawners.run(self._key, command, self._noticed)
        except NotLaunched as error:
            if error.full:
                raise Failed("preprocessing", _disk_full()) from error
            if error.found:
                raise _not_launched("CommandLaunchFailed", "The command could not be started", work, str(error)) from error
            raise _not_launched("CommandProgramNotFound", "The specified command program is not found", work, str(error)) from error
        except SpawnerLost as error:
            raise Failed("run", failure("Unknown", f"How the task ended is not known: {error}", SERVER)) from error


def words(command_line: str) -> list[str]:
    """Words as a shell splits them, without any expansion. Raises ValueError for an open quote."""
    if _QUOTED.search(command_line):
        return shlex.split(command_line)
    return _WORD.findall(command_line)  # the same and ten times as fast


def _may_run_again(work: Work) -> bool:
    """True when the server may retry after a bad exit code; a failed upload must then not hide that code."""
    return work.constraints is not None and bool(work.constraints.max_task_retry_count)


def _not_launched(code: str, message: str, work: Work, reason: str = "") -> Failed:
    details = {"CommandLine": work.command_line} | ({"Message": reason} if reason else {})
    return Failed("preprocessing", failure(code, message, USER, **details))


def _disk_full() -> TaskFailureInformation:
    return failure("DiskFull", "The disk of the node is full")


def _of_the_node(error: OSError) -> TaskFailureInformation:
    """A directory of the task could not be made or taken over."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full()
    return failure("ResourceDirectoryCreateFailed", f"The task's directory could not be made: {error.strerror}", SERVER)
