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
from batchyard.agent.transfer import finding, patterns, storage
from batchyard.agent.transfer.failures import SERVER, USER, Failed, failure, plain
from batchyard.agent.transfer.stop import Stop
from batchyard.agent.transfer.storage import Unreachable
from batchyard.model.common import OutputFile, OutputFileBlobContainerDestination
from batchyard.model.words import OutputFileUploadCondition

_CONDITIONS = {
    OutputFileUploadCondition.TASK_SUCCESS: (True,),
    OutputFileUploadCondition.TASK_FAILURE: (False,),
    OutputFileUploadCondition.TASK_COMPLETION: (True, False),
}
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
    _out: list[str] = field(default_factory=list)
    _err: list[str] = field(default_factory=list)

    async def all(self, files: Sequence[OutputFile], exit_code: int) -> None:
        """Upload what fits the exit code, in order; all is tried before the first failure is raised as Failed. Raises Cancelled."""
        due = [file for file in files if (exit_code == 0) in _CONDITIONS[file.upload_options.upload_condition]]
        if due:
            await asyncio.get_running_loop().run_in_executor(self.threads, self._all, due)

    def _all(self, due: list[OutputFile]) -> None:
        failures = []
        for file in due:
            try:
                self._one(file)
            except Failed as failed:
                failures.append(failed)
        self._write_log("fileuploadout.txt", self._out)
        self._write_log("fileuploaderr.txt", self._err)
        if failures:
            raise failures[0]

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
                for path in found.paths:
                    self._send(target, f"{base}/{path}", blob_name(target, pattern, path), found)
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

    def _find(self, base: str, below: list[str]) -> finding.Found:
        """The files that are meant. Raises Cancelled, and Unreachable when the agent cannot act as the task's user."""
        try:
            with acting_as(*self._who):
                return finding.find(base, below, self.stop.check)
        except OSError as error:
            raise Unreachable(0, f"{base} cannot be searched: {error.strerror}") from error

    def _send(self, target: OutputFileBlobContainerDestination, path: str, name: str, found: finding.Found) -> None:
        """Upload one file, or note in `found` why that cannot be: others are sent all the same. Raises Unreachable or Cancelled."""
        self.stop.check()
        headers = {header.name: header.value or "" for header in target.upload_headers or []}
        try:
            with contextlib.ExitStack() as stack:
                with acting_as(*self._who):
                    fd = finding.open_file(path)
                stack.callback(os.close, fd)
                self.stop.patiently(lambda: storage.write_blob(target.container_url, name, fd, headers))
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

    def _write_log(self, name: str, lines: list[str]) -> None:
        """Put a new file in the place of whatever is there, a link perhaps, as the task's user."""
        temporary = f".{secrets.token_hex(8)}.part"
        with self.stop.going(), contextlib.suppress(OSError), acting_as(*self._who), beneath.directory(self.place.directory) as fd:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd)
            try:
                with open(file, "w", encoding="utf-8", errors="replace") as out:
                    out.writelines(lines)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                os.unlink(temporary, dir_fd=fd)
                raise


def blob_name(target: OutputFileBlobContainerDestination, pattern: str, path: str) -> str:
    """Name of the blob for a file found below the pattern's fixed directories, as text."""
    path = beneath.shown(path)
    prefix = (target.path or "").strip("/")
    if prefix and not patterns.is_wild(pattern):
        return prefix
    return f"{prefix}/{path}" if prefix else path
