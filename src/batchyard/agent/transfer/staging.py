"""Resource files: what a task needs is brought into its working directory before it starts (contract 4.5).

Files are written under a temporary name and renamed, so that a task never sees half of one. The working directory
belongs to the task's user, who may plant links there and exchange it: it is opened once, every step below it begins at
that descriptor, refuses to follow a link, and is done with the user's rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from batchyard.agent.places import beneath
from batchyard.agent.places.rights import acting_as
from batchyard.agent.transfer import storage
from batchyard.agent.transfer.download import Download
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure, plain
from batchyard.agent.transfer.inputs import FULL, Inputs
from batchyard.agent.transfer.stop import Stop
from batchyard.agent.transfer.storage import Unreachable
from batchyard.model.common import ResourceFile
from batchyard.model.states import ErrorCategory

_P = ParamSpec("_P")
_T = TypeVar("_T")

_AT_ONCE = 8


@dataclass(slots=True)
class Staging:
    """Brings files into one working directory for one user (-1: the agent's own)."""

    directory: str
    uid: int
    threads: Executor
    stop: Stop = field(default_factory=Stop)
    gid: int | None = None
    """Group of the files; None for the one with the user's number."""
    mode: int = 0o770
    """Permissions of directories, and of files that come without."""
    inputs: Inputs | None = None
    """What the node's tasks share."""
    _top: int = -1
    """Descriptor of the directory; used while `stop` is held off, so nobody uses it once that is set."""

    @property
    def _who(self) -> tuple[int, int]:
        return self.uid, self.uid if self.gid is None else self.gid

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """A step as the user, which a stop waits for. Raises Cancelled."""
        with self.stop.going(), acting_as(*self._who):
            yield

    def _mode_of(self, file: ResourceFile) -> int:
        try:
            return int(file.file_mode, 8) & 0o7777 if file.file_mode else self.mode
        except ValueError:
            raise _failed(
                "ResourceFileCreateFailed", f"The file mode {file.file_mode!r} is not octal", USER, file.file_path or ""
            ) from None

    async def all(self, files: Sequence[ResourceFile]) -> None:
        """Bring all files, several at once. Raises Failed for the first that cannot be had, or Cancelled."""
        room = asyncio.Semaphore(_AT_ONCE)
        with self._opened():
            await _together([self._one(file, room) for file in files])

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the directory open. Downloads that are under way in threads at the end change it no more."""
        try:
            with self._step():
                self._top = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _local_failed(error, "ResourceDirectoryCreateFailed", "", self.directory) from error
        try:
            yield
        finally:
            self.stop.set()
            os.close(self._top)

    async def _one(self, file: ResourceFile, room: asyncio.Semaphore) -> None:
        mode = self._mode_of(file)
        if file.http_url is not None:
            await self._fetch(room, file.http_url, file.file_path or "", mode)
        elif file.storage_container_url is not None:
            await self._container(file, file.storage_container_url, mode, room)
        else:
            name = file.auto_storage_container_name or ""
            raise _failed(
                "BlobDownloadMiscError", f"The container {name!r} of the linked storage cannot be read from this node", USER, name
            )

    async def _container(self, file: ResourceFile, url: str, mode: int, room: asyncio.Semaphore) -> None:
        try:
            client = await self._job(room, storage.container, url)
            listing = storage.pages(client, file.blob_prefix)
            while (page := await self._job(room, self.stop.patiently, partial(storage.page, listing))) is not None:
                await _together([self._blob(url, name, file.file_path, mode, room) for name in page])
        except Unreachable as error:
            raise _download_failed(error, plain(url)) from error

    async def _blob(self, container_url: str, name: str, below: str | None, mode: int, room: asyncio.Semaphore) -> None:
        path = f"{below}/{name}" if below else name
        if not name.endswith("/"):  # a name that does stands for a directory
            await self._fetch(room, storage.blob_url(container_url, name), path, mode)

    async def _fetch(self, room: asyncio.Semaphore, url: str, path: str, mode: int) -> None:
        async with self.inputs.turn(url) if self.inputs is not None else contextlib.nullcontext():
            await self._job(room, self._bring, url, path, mode)

    async def _job(self, room: asyncio.Semaphore, call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        async with room:
            self.stop.check()
            return await asyncio.get_running_loop().run_in_executor(self.threads, partial(call, *arguments, **named))

    def _bring(self, url: str, path: str, mode: int) -> None:
        try:
            self._write(url, path, mode, plain(url))
        except Unreachable as error:
            raise _download_failed(error, plain(url)) from error

    def _write(self, url: str, path: str, mode: int, shown: str) -> None:
        """Write one file. Raises Failed, Unreachable or Cancelled; leaves no half file behind."""
        try:
            names = beneath.parts(path)
        except beneath.Outside:
            names = []
        if not names:
            raise _failed(
                "ResourceFileCreateFailed", "The file path of a resource file must stay below the working directory", USER, shown, path
            )
        step = "ResourceDirectoryCreateFailed"
        try:
            with contextlib.ExitStack() as stack:
                with self._step():
                    fd = stack.enter_context(beneath.directory(self._top, names[:-1], self.mode))
                    step = "ResourceFileCreateFailed"
                    temporary = f".{secrets.token_hex(8)}.part"
                    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
                try:
                    step = "ResourceFileWriteFailed"
                    self._fill(url, file)
                    os.fchmod(file, mode)
                    step = "ResourceFileCreateFailed"
                    with self._step():
                        os.rename(temporary, names[-1], src_dir_fd=fd, dst_dir_fd=fd)
                except BaseException:
                    with contextlib.suppress(OSError), acting_as(*self._who):
                        os.unlink(temporary, dir_fd=fd)
                    raise
                finally:
                    os.close(file)
        except OSError as error:
            raise _local_failed(error, step, shown, path) from error

    def _fill(self, url: str, fd: int) -> None:
        """Fill an empty file; what tasks share gives way to what this one needs. Raises Unreachable, Cancelled, OSError."""
        if self.inputs is None or not self.inputs.is_on:
            Download(url, fd, self.stop).run()
            return
        try:
            if not self.inputs.fill(url, fd, self.stop):
                Download(url, fd, self.stop).run()
        except OSError as error:
            if error.errno not in FULL or not self.inputs.relieve(everything=True):
                raise
            os.ftruncate(fd, 0)
            Download(url, fd, self.stop).run()


async def _together(jobs: Sequence[Coroutine[None, None, None]]) -> None:
    """Run all; the first failure ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


def _failed(code: str, message: str, category: ErrorCategory, source: str, path: str = "") -> Failed:
    details = {"BlobSource": source} | ({"FilePath": path} if path else {})
    return Failed("preprocessing", failure(code, message, category, **details))


def _download_failed(error: Unreachable, source: str) -> Failed:
    if error.status == 404:
        return _failed("BlobNotFound", "The specified blob or file of a resource file does not exist", USER, source)
    if error.status in (401, 403):
        return _failed("BlobAccessDenied", "Access to a resource file was denied", USER, source)
    if error.timed_out:
        return _failed("BlobDownloadTimedOut", "The download of a resource file timed out", SERVER, source)
    category = USER if 400 <= error.status < 500 else SERVER
    return _failed("BlobDownloadMiscError", f"The download of a resource file failed: {error}", category, source)


def _local_failed(error: OSError, step: str, source: str, path: str) -> Failed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed("DiskFull", "The disk of the node is full", USER, source, path)
    planted = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.EACCES, errno.EPERM)
    return _failed(step, f"A resource file could not be written: {error.strerror}", USER if planted else SERVER, source, path)
