"""Output files: what a task left behind is brought into blob containers (contract 4.7).

Uploads happen after every attempt whose exit fits the condition. Whether a failed attempt will be retried is the
server's decision and unknown here; a later attempt's upload replaces the earlier one's blobs.
The blob's name is `path` for one file; with a wildcard it is `path`, if any, then the file's path below the pattern's
fixed directories. Files are looked for and opened with the rights of the task's user, wherever a pattern or a link leads:
a task cannot make the agent hand out what the task may not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from batchyard.agent.places import beneath
from batchyard.agent.places.layout import TaskPlace
from batchyard.agent.places.rights import acting_as
from batchyard.agent.transfer import finding, patterns, small, storage
from batchyard.agent.transfer.company import Company
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure, plain
from batchyard.agent.transfer.finding import Bounds
from batchyard.agent.transfer.small import Small
from batchyard.agent.transfer.stop import Cancelled, Stop
from batchyard.agent.transfer.storage import Unreachable
from batchyard.model.common import OutputFile, OutputFileBlobContainerDestination
from batchyard.model.words import OutputFileUploadCondition

_CONDITIONS = {
    OutputFileUploadCondition.TASK_SUCCESS: (True,),
    OutputFileUploadCondition.TASK_FAILURE: (False,),
    OutputFileUploadCondition.TASK_COMPLETION: (True, False),
}
_TOGETHER, _TOGETHER_BYTES = 32, 1 << 20
"""Small files of an attempt that are held in memory until they go together."""
_FULLY, _QUICKLY = Bounds(), Bounds(names=1_000, files=_TOGETHER, levels=8, seconds=0.2)
"""How much a search may do, and one that others wait for."""
_OF_THIS_BLOB = 400
"""Status of what is wrong with one blob, such as a name that is too long; with others no blob can be written."""


@dataclass(slots=True)
class Upload:
    """Uploads one attempt's output; `uid` is the task's user, -1 for the agent's own."""

    place: TaskPlace
    uid: int
    variables: dict[str, str]
    threads: Executor
    stop: Stop = field(default_factory=Stop)
    gid: int | None = None
    """The task's group; None for the one with the user's number."""
    company: Company | None = None
    """Attempts of the same node, which are brought away together."""
    _out: list[str] = field(default_factory=list)
    _err: list[str] = field(default_factory=list)

    async def all(self, files: Sequence[OutputFile], exit_code: int) -> None:
        """Upload what fits the exit code, in order; all is tried before the first failure is raised as Failed. Raises Cancelled."""
        due = [file for file in files if (exit_code == 0) in _CONDITIONS[file.upload_options.upload_condition]]
        if due and not await (self.company or Company(self.threads)).brought(_Quick(self, due)):
            await asyncio.get_running_loop().run_in_executor(self.threads, self._all, due)

    def _all(self, due: list[OutputFile]) -> None:
        failures = []
        for file in due:
            try:
                self._one(file)
            except Failed as failed:
                failures.append(failed)
        self.write_logs()
        if failures:
            raise failures[0]

    def gather(self, file: OutputFile) -> list[tuple[str, Small]] | None:
        """The files that are meant, with what becomes of them; None when one is not small, or anything needs to be said.

        Raises Cancelled, Unreachable or ValueError.
        """
        target = file.destination.container
        if target is None:
            return None
        pattern = patterns.expand(file.file_pattern, self.variables)
        base, below = patterns.split(pattern, self.place.working)
        storage.check(target.container_url)
        found = self._find(base, below, _QUICKLY)
        if not found.paths or found.skipped.kept or found.refused.kept:
            return None
        gathered = []
        for path in found.paths:
            content = self._small(f"{base}/{path}")
            blob = content is not None and storage.small_blob(
                target.container_url, blob_name(target, pattern, path), content, _headers(target)
            )
            if not blob:
                return None
            gathered.append((f"{base}/{path}", blob))
        return gathered

    def _one(self, file: OutputFile) -> None:
        target = file.destination.container
        if target is None:
            raise self._failed(file, "", Unreachable(400, "no container was given"))
        pattern = patterns.expand(file.file_pattern, self.variables)
        try:
            base, below = patterns.split(pattern, self.place.working)
        except ValueError as error:
            raise self._failed(file, plain(target.container_url), Unreachable(400, str(error))) from error
        try:
            storage.check(target.container_url)
            found = self._find(base, below)
            try:
                self._send_all(target, pattern, base, found)
            finally:
                for sentence in (*found.skipped, *found.refused):
                    self._say(self._err, sentence)
        except Unreachable as error:
            raise self._failed(file, plain(target.container_url), error) from error
        if found.refused.kept:
            raise self._failed(file, plain(target.container_url), Unreachable(400, found.refused.kept[0]))
        if not found.paths:
            self._say(self._err, f"no file matches {file.file_pattern!r}")

    @property
    def _who(self) -> tuple[int, int]:
        return self.uid, self.uid if self.gid is None else self.gid

    def _find(self, base: str, below: list[str], bounds: Bounds = _FULLY) -> finding.Found:
        """The files that are meant. Raises Cancelled, and Unreachable when the agent cannot act as the task's user."""
        try:
            with acting_as(*self._who):
                return finding.find(base, below, self.stop.check, bounds)
        except OSError as error:
            raise Unreachable(0, f"{base} cannot be searched: {error.strerror}") from error

    def _send_all(self, target: OutputFileBlobContainerDestination, pattern: str, base: str, found: finding.Found) -> None:
        """Upload what was found, small files several at a time. Raises Unreachable or Cancelled."""
        waiting: list[tuple[str, Small]] = []
        for path in found.paths:
            self.stop.check()
            file, name = f"{base}/{path}", blob_name(target, pattern, path)
            content = self._small(file)
            blob = None if content is None else storage.small_blob(target.container_url, name, content, _headers(target))
            if blob is None:
                self._send(target, file, name, found)
                continue
            waiting.append((file, blob))
            if len(waiting) >= _TOGETHER or sum(len(one.content) for _, one in waiting) >= _TOGETHER_BYTES:
                self._send_small(target, waiting, found)
                waiting = []
        self._send_small(target, waiting, found)

    def _small(self, path: str) -> bytes | None:
        """Content of a small file; None for a large one, and where something is wrong with it, which `_send` finds out."""
        try:
            with acting_as(*self._who):
                fd = finding.open_file(path)
            try:
                content = os.pread(fd, small.MOST_ALONE + 1, 0)
            finally:
                os.close(fd)
        except OSError:
            return None
        return content if len(content) <= small.MOST_ALONE else None

    def _send_small(self, target: OutputFileBlobContainerDestination, files: Sequence[tuple[str, Small]], found: finding.Found) -> None:
        """Upload small files, and one after the other what is not there then. Raises Unreachable or Cancelled."""
        for (path, blob), there in zip(files, small.put([blob for _, blob in files]), strict=True):
            if there:
                self.sent(path, blob)
            else:
                self._send(target, path, blob.name, found)

    def _send(self, target: OutputFileBlobContainerDestination, path: str, name: str, found: finding.Found) -> None:
        """Upload one file, or note in `found` why that cannot be: others are sent all the same. Raises Unreachable or Cancelled."""
        self.stop.check()
        try:
            with contextlib.ExitStack() as stack:
                with acting_as(*self._who):
                    fd = finding.open_file(path)
                stack.callback(os.close, fd)
                self.stop.patiently(lambda: storage.write_blob(target.container_url, name, fd, _headers(target)))
        except Unreachable as error:
            if error.status != _OF_THIS_BLOB:
                raise
            found.refused.add(f"{beneath.shown(path)} cannot be uploaded: {error}")
        except FileNotFoundError:
            found.skipped.add(f"{beneath.shown(path)} is gone: skipped")
        except OSError as error:
            found.refused.add(f"{beneath.shown(path)} cannot be read: {error.strerror}")
        else:
            self._say(self._out, f"{beneath.shown(path)} -> {plain(target.container_url)}/{name}")

    def sent(self, path: str, blob: Small) -> None:
        """Note that a file is brought away."""
        self._say(self._out, f"{beneath.shown(path)} -> {plain(blob.url)}/{blob.name}")

    def _failed(self, file: OutputFile, shown: str, error: Unreachable) -> Failed:
        self._say(self._err, f"{file.file_pattern} -> {shown}: {error}")
        code, message, category = "FileUploadMiscError", "An output file could not be uploaded", SERVER
        if error.status == 404:
            code, category = "FileUploadContainerNotFound", USER
            message = "One of the specified Azure container(s) was not found while attempting to upload an output file"
        elif error.status in (401, 403):
            code, category, message = "FileUploadAccessDenied", USER, "Access was denied while attempting to upload an output file"
        elif error.timed_out:
            code, message = "FileUploadTimedOut", "The upload of an output file timed out"
        elif error.status >= 400 and not error.passing:
            category = USER
        return Failed("upload", failure(code, message, category, FilePattern=file.file_pattern, ContainerUrl=shown, Message=str(error)))

    def _say(self, lines: list[str], text: str) -> None:
        lines.append(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")

    def write_logs(self) -> None:
        """Put new files in the places of whatever is there, a link perhaps, as the task's user. Raises Cancelled."""
        with self.stop.going(), contextlib.suppress(OSError), acting_as(*self._who), beneath.directory(self.place.directory) as fd:
            for name, lines in (("fileuploadout.txt", self._out), ("fileuploaderr.txt", self._err)):
                _write_log(fd, name, lines)


def _write_log(fd: int, name: str, lines: list[str]) -> None:
    content = "".join(lines).encode("utf-8", "replace")
    try:
        _make(fd, name, content)
    except FileExistsError:
        temporary = f".{secrets.token_hex(8)}.part"
        try:
            _make(fd, temporary, content)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(temporary, dir_fd=fd)
            raise


def _make(fd: int, name: str, content: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd)
    with open(file, "wb", buffering=0) as out:
        out.write(content)


class _Quick:
    """An upload in company."""

    def __init__(self, upload: Upload, due: Sequence[OutputFile]) -> None:
        self._upload, self._due = upload, due
        self._gathered: list[tuple[str, Small]] = []

    def gathered(self) -> list[Small] | None:
        """All that there is to bring away, if that is little."""
        size = 0
        try:
            for file in self._due:
                found = self._upload.gather(file)
                size += sum(len(blob.content) for _, blob in found or ())
                if found is None or size > _TOGETHER_BYTES:
                    return None
                self._gathered += found
        except (Cancelled, Unreachable, ValueError):  # the long way comes upon it as well
            return None
        return [blob for _, blob in self._gathered]

    def settled(self) -> bool:
        """Leave the logs."""
        for path, blob in self._gathered:
            self._upload.sent(path, blob)
        with contextlib.suppress(Cancelled):
            self._upload.write_logs()
            return True
        return False


def _headers(target: OutputFileBlobContainerDestination) -> dict[str, str]:
    return {header.name: header.value or "" for header in target.upload_headers or []}


def blob_name(target: OutputFileBlobContainerDestination, pattern: str, path: str) -> str:
    """Name of the blob for a file found below the pattern's fixed directories, as text."""
    path = beneath.shown(path)
    prefix = (target.path or "").strip("/")
    if prefix and not patterns.is_wild(pattern):
        return prefix
    return f"{prefix}/{path}" if prefix else path
