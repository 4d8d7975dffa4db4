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
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from batchyard.agent.containers import boxes
from batchyard.agent.containers.boxes import Wish
from batchyard.agent.containers.containers import Containers
from batchyard.agent.places import layout, usage
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.removals import Directories
from batchyard.agent.places.users import NoSuchUser, User, Users
from batchyard.agent.process.control import MARK
from batchyard.agent.process.process import Command, Exit, NotLaunched, SpawnerLost, Spawners
from batchyard.agent.run import commands, environment
from batchyard.agent.run.doors import Doors
from batchyard.agent.run.packages import Packages
from batchyard.agent.transfer.company import Company
from batchyard.agent.transfer.failures import SERVER, USER, Failed, Stage, exit_code_failure, failure
from batchyard.agent.transfer.inputs import Inputs
from batchyard.agent.transfer.staging import Staging
from batchyard.agent.transfer.stop import Cancelled, Stop
from batchyard.agent.transfer.upload import Upload
from batchyard.model.common import ContainerSettings, EnvironmentSetting, OutputFile, ResourceFile, UserIdentity
from batchyard.model.sync import UNKNOWN, Ended, NodeSetup, Order
from batchyard.model.task import TaskConstraints, TaskFailureInformation
from batchyard.model.times import duration
from batchyard.rules import attempts

log = structlog.get_logger()

_TOLD_TO_END = 128 + signal.SIGTERM
_KILLED = 128 + signal.SIGKILL
_LAST_TO_HEAR_S = 0.5
"""A machine that goes sends SIGTERM to everything, and the agent may hear last: so long is an end by one that was not its own held back."""
_KEYS = itertools.count(1)
"""Of the runs of all spawners."""
_UNLIMITED = contextlib.nullcontext()


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
    container_settings: ContainerSettings | None = None


def next_key() -> int:
    """A key for one more run."""
    return next(_KEYS)


@dataclass(frozen=True, slots=True)
class Inside:
    """What a command needs to run where the command of an attempt runs."""

    key: int
    variables: dict[str, str]
    directory: str
    uid: int
    gid: int | None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the attempt's command has ended."""


@dataclass(slots=True)
class Held:
    """The directory of an instance of a multi-instance task, the user that it belongs to and, on the primary, whoever runs there."""

    place: TaskPlace
    user: User
    since: float
    """When the coordination command was begun, by the loop's clock."""
    unwatch: Callable[[], None]
    """Called once the guest looks how much the directory takes: of two that did, one would report the other's end as a loss."""
    guest: Attempt | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the guest has ended."""


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
    packages: Packages
    inputs: Inputs
    containers: Containers
    trusted: Mapping[str, str] = field(default_factory=dict)
    """Variables that tell programs of tasks whom to trust."""
    variables: dict[str, str] = field(default_factory=dict)
    inside: dict[str, Inside] = field(default_factory=dict)
    """By attempt, while its command runs."""
    started: bool = False
    """True once the start task was begun since the node joined; what follows are retries."""
    ready: Callable[[str], None] = lambda attempt: None
    """Told of instances of multi-instance tasks whose coordination command has succeeded."""
    doors: Doors | None = None
    """Of attempts of multi-instance tasks."""
    gangs: dict[str, Held] = field(default_factory=dict)
    """By the attempts of instances, what they hold for the command line of their task."""
    company: Company = field(init=False)

    def __post_init__(self) -> None:
        self.company = Company(self.threads)
        self.variables = environment.of_node(self.setup, self.layout)
        self.users.learn(self.setup.accounts)

    def learn_url(self, server: str) -> None:
        """The server has another address; attempts that begin from now on are told that one."""
        below = urlsplit(self.setup.account_url).path  # the path that names the account stays
        self.variables["AZ_BATCH_ACCOUNT_URL"] = environment.account_url(server.rstrip("/") + below)


class Attempt:
    """One run of one task."""

    _stays = False
    """A command that exits with 0 is not over by that."""
    _watching: asyncio.Task[None] | None = None

    def __init__(self, node: Node, order: Order) -> None:
        self._node, self._order = node, order
        self._key = next_key()
        self._stop = Stop()
        self._staging = self._stop.part()
        self._transfer: asyncio.Task[None] | None = None
        self._noticed = self._leaving = self._done = False
        self._stage: Stage = "preprocessing"
        self._exit: Exit | None = None
        self._packages: dict[str, str] = {}
        """Variables that name the directories of application packages."""
        self._begun: float | None = None
        """When the wall clock of a multi-instance task began, by the loop's clock."""
        self._too_much: str | None = None
        """How its directory took more of the disk than it may."""
        self._image = ""
        """Of its container; empty when it runs in none."""

    def kill(self, *, leaving: bool = False) -> None:
        """End it, whatever it is doing; may be repeated. `leaving` says that it is ended only because the agent goes."""
        self._leaving |= leaving
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
            self._done = True
        except Failed as failed:
            self._stage, reason = failed.stage, failed.info
        except Cancelled:
            pass
        except OSError as error:
            reason = _of_the_node(error)
        except Exception as error:
            log.exception("attempt failed for a reason inside the agent", attempt=self._order.attempt)
            reason = failure(UNKNOWN, f"The agent failed: {type(error).__name__}", SERVER)
        if self._stop.is_set() and not self._done:
            reason = failure("TaskEnded", "Task Was Ended by User Request")
        return self._report(reason)

    def _report(self, reason: TaskFailureInformation | None) -> Ended:
        done = self._exit
        now = time.time_ns() // 1000
        stayed = self._stays and done is not None and done.code == 0
        cut_off = self._leaving and (stayed or not self._done)
        if done is None:
            return Ended(attempt=self._order.attempt, ended=now, failure=reason, stage=self._stage, stopped=cut_off)
        return Ended(
            attempt=self._order.attempt,
            started=done.started,
            ended=now if self._stage == "upload" else done.ended,
            exit_code=None if cut_off or self._too_much else done.code,
            failure=reason,
            stage=self._stage,
            stopped=cut_off or (done.noticed and not done.overdue and not self._too_much),
            user_cpu_us=done.user_us,
            kernel_cpu_us=done.kernel_us,
        )

    async def _all(self) -> None:
        work = _WORK.decode(self._order.task)
        if self._order.gang is not None and self._order.gang.within is not None:
            await self._as_guest(work, self._order.gang.within)
            return
        self._node.containers.suits(work.container_settings, optional=self._order.start or attempts.is_special(self._order.attempt))
        try:
            rooms = self._node.layout
            place = rooms.start_task(fresh=not self._node.started) if self._order.start else rooms.task(self._order.job_id, work.id)
        except ValueError as error:
            raise Failed("preprocessing", failure("CommandLaunchFailed", str(error), SERVER)) from error
        if self._order.after_others:
            await self._node.directories.quiet(os.path.dirname(place.directory))
        await self._node.directories.take(place.directory)
        try:
            if self._stop.is_set():
                raise Cancelled
            await self._in_directory(work, place)
        finally:
            self._node.directories.leave(place.directory)

    async def _as_guest(self, work: Work, within: str) -> None:
        """Run the command line of a multi-instance task where its primary instance is. Raises Failed."""
        held = self._node.gangs.get(within)
        if held is None or held.guest is not None:
            raise Failed("run", failure(UNKNOWN, "The primary's instance is gone", SERVER))
        self._begun, held.guest = held.since, self
        held.unwatch()
        try:
            await self._in_stages(work, held.place, held.user)
        finally:
            held.over.set()

    async def _in_directory(self, work: Work, place: TaskPlace) -> None:
        users = self._node.users
        try:
            if self._order.start:
                user = users.of_start_task(work.user_identity)
            else:
                user = users.take(work.user_identity, lambda: layout.former_user(place))
        except NoSuchUser as error:
            raise Failed("preprocessing", failure("CommandLaunchFailed", str(error))) from error
        try:
            if not layout.make(place, user):
                await self._take_over(place, user)
            self._node.started |= self._order.start
            await self._in_stages(work, place, user)
        finally:
            layout.close(place, user)
            users.give_back(user)

    async def _take_over(self, place: TaskPlace, user: User) -> None:
        if layout.former_user(place) in (-1, user.uid):
            layout.take_over(place, user)
        else:  # there may be as many files to hand over as the former user cared to make
            await asyncio.get_running_loop().run_in_executor(self._node.threads, layout.take_over, place, user)

    async def _in_stages(self, work: Work, place: TaskPlace, user: User) -> None:
        limit = self._node.setup.task_disk_bytes
        async with self._held_to_disk(place, limit) if limit else _UNLIMITED:
            try:
                await self._stage_in(work, place, user)
                self._exit = done = await self._to_the_end(work, place, user)
            finally:
                if self._image:
                    self._node.containers.let_go(self._image)
            self._stage = "run"
        if done.code == _TOLD_TO_END and not (done.noticed or done.overdue or self._stop.is_set()):
            await self._do(asyncio.sleep(_LAST_TO_HEAR_S))
        if self._stop.is_set() and (done.code != 0 or work.output_files):
            raise Cancelled
        try:
            if work.output_files:
                self._stage = "upload"
                variables = self._variables(work, place, user, {})
                upload = Upload(place, user.uid, variables, self._node.threads, self._stop, user.group, self._node.company)
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

    async def _to_the_end(self, work: Work, place: TaskPlace, user: User) -> Exit:
        """Run its command. Raises Failed."""
        if work.container_settings is not None:  # where the programs of the door are not
            return await self._in_container(work, place, user, self._variables(work, place, user, {}))
        async with self._door(user) as starters:
            return await self._command(work, place, user, self._variables(work, place, user, starters))

    def _door(self, user: User) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """Where a multi-instance task asks for commands on its other nodes; no variables for other tasks."""
        doors = None if self._order.gang is None else self._node.doors
        return contextlib.nullcontext({}) if doors is None else doors.open(self._order.attempt, user)

    def _variables(self, work: Work, place: TaskPlace, user: User, starters: Mapping[str, str]) -> dict[str, str]:
        """The environment of the command."""
        own, begin = work.environment_settings or [], {**self._node.trusted, **starters}
        return environment.of_task(
            self._node.variables, place, user, work.user_identity, self._common(), own, trusted=begin, **self._extras()
        )

    def _common(self) -> list[EnvironmentSetting]:
        """What the job sets for all its tasks."""
        return _SETTINGS.decode(bytes(self._order.environment or b"") or b"null") or []

    async def _bring_packages(self) -> None:
        """The pool's packages and the task's own, of which the latter count where both name one."""
        packages, order = self._node.packages, self._order
        of_pool = packages.of_start_task if order.start else packages.of_pool
        self._packages = {**await of_pool(), **await packages.of_task(order.packages, order.job_id)}

    def _files_below(self, place: TaskPlace) -> str:
        """Where resource files go."""
        return place.working

    async def _bring_image(self, settings: ContainerSettings) -> None:
        await self._node.containers.wait(start=self._order.start)
        self._image = await self._node.containers.image(settings)

    async def _stage_in(self, work: Work, place: TaskPlace, user: User) -> None:
        if self._order.packages or not self._node.packages.is_free:
            await self._do(self._bring_packages())
        if work.container_settings is not None:
            await self._do(self._bring_image(work.container_settings))
        if work.resource_files:
            mode = 0o775 if self._order.start else 0o770  # every task may read what the start task brings
            below = self._files_below(place)
            staging = Staging(below, user.uid, self._node.threads, self._staging, user.group, mode, self._node.inputs)
            await self._do(staging.all(work.resource_files))
        if self._stop.is_set() or self._too_much:
            raise Cancelled

    @contextlib.asynccontextmanager
    async def _held_to_disk(self, place: TaskPlace, limit: int) -> AsyncIterator[None]:
        """End what goes on inside once the task's directory takes more than `limit` bytes. Raises Failed."""
        self._watching = asyncio.create_task(self._watch_disk(place, limit))
        try:
            yield
        except (Cancelled, Failed):
            if self._stop.is_set() or not self._too_much:
                raise
        finally:
            self._unwatch()
        if self._too_much and not self._stop.is_set():
            text = f"The task's directory is too large: {self._too_much}"
            raise Failed(self._stage, failure("DiskFull", text, USER, LimitBytes=str(limit)))

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

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
        return {"preparation": place, "token": self._order.token, "packages": self._packages, "gang": self._order.gang}

    def _logs(self, place: TaskPlace) -> tuple[str, str]:
        """Files that the command's output goes to."""
        return place.directory + "/stdout.txt", place.directory + "/stderr.txt"

    async def _launch(self, command: Command) -> Exit:
        """Run the command to its end. Raises NotLaunched, SpawnerLost."""
        return await self._node.spawners.run(self._key, command, self._noticed)

    async def _in_container(self, work: Work, place: TaskPlace, user: User, variables: dict[str, str]) -> Exit:
        """The same in a container; its engine is what runs, as the agent's user. Raises Failed."""
        settings = work.container_settings
        assert settings is not None, "the task runs in no container"
        argv, options = commands.of_container(work.command_line, settings)
        own = frozenset(setting.name for setting in (*self._common(), *(work.environment_settings or ())))
        wish = Wish(self._order.attempt, settings, argv, place, user, variables, own, self._extras()["preparation"])
        box = await self._node.containers.box(wish, self._image, options)
        clean = False
        try:
            command = Command(box.argv, box.environment | {MARK: place.directory}, "/", *self._logs(place), -1, self._seconds(work))
            done = await self._run_command(work, command, Inside(self._key, variables, place.working, user.uid, user.group))
            clean = not (done.overdue or self._stop.is_set() or done.code == _KILLED)
            failed = boxes.why(done.code, self._logs(place)[1])
            if failed is not None:
                raise failed
            return done
        finally:
            self._node.containers.done(box, clean=clean)

    async def _command(self, work: Work, place: TaskPlace, user: User, variables: dict[str, str]) -> Exit:
        argv, refused = commands.program(work.command_line)
        working = variables["AZ_BATCH_TASK_WORKING_DIR"]
        command = Command(argv, variables, working, *self._logs(place), user.uid, self._seconds(work), user.group)
        return await self._run_command(work, command, Inside(self._key, variables, working, user.uid, user.group), refused)

    def _seconds(self, work: Work) -> float | None:
        """How long the command may run; the time of the coordination command counts."""
        limit = work.constraints.max_wall_clock_time if work.constraints else None
        limit_us = _limit_us(limit) if limit else None
        if limit_us is None or self._begun is None:
            return None if limit_us is None else limit_us / 1e6
        return max(0.0, limit_us / 1e6 - (asyncio.get_running_loop().time() - self._begun))

    async def _run_command(self, work: Work, command: Command, inside: Inside, refused: Failed | None = None) -> Exit:
        """Run a command; what runs inside of the task meanwhile runs as `inside` says. Raises Failed."""
        try:
            self._node.inside[self._order.attempt] = inside
            try:
                return await self._launch(command)
            finally:
                del self._node.inside[self._order.attempt]
                inside.over.set()
        except NotLaunched as error:
            line = work.command_line
            if error.full:
                raise Failed("preprocessing", _disk_full()) from error
            if refused is not None:
                raise refused from error
            if error.found:
                raise commands.not_launched("CommandLaunchFailed", "The command could not be started", line, str(error)) from error
            raise commands.not_launched("CommandProgramNotFound", "The specified command program is not found", line, str(error)) from error
        except SpawnerLost as error:
            raise Failed("run", failure(UNKNOWN, f"How the task ended is not known: {error}", SERVER)) from error


@lru_cache(maxsize=64)
def _limit_us(text: str) -> int | None:
    """Remembered, because most tasks have the same limit and reading one takes longer than all else about it."""
    return duration(text)


def _may_run_again(work: Work) -> bool:
    """True when the server may retry after a bad exit code; a failed upload must then not hide that code."""
    return work.constraints is not None and bool(work.constraints.max_task_retry_count)


def _disk_full() -> TaskFailureInformation:
    return failure("DiskFull", "The disk of the node is full")


def _of_the_node(error: OSError) -> TaskFailureInformation:
    """A directory of the task could not be made or taken over."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full()
    return failure("ResourceDirectoryCreateFailed", f"The task's directory could not be made: {error.strerror}", SERVER)
