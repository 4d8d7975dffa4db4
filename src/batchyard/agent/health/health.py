"""What is wrong with the node: a disk that fills up, operator's probes that fail.

The decisions are pure functions of what was sampled. Sampling blocks and is done in threads. A problem keeps its
words while it lasts, so that a figure that changes with every look does not make a message of every look.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from batchyard.disk.space import Disk, sample
from batchyard.model.sync import NodeProblem

log = structlog.get_logger()

RESERVED_BYTES = 512 << 20
"""Below this much free space no task is started; tasks are told of it (AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES)."""
RESERVED_INODES = 1_000
NEARLY, FULL, FAILED = "DiskNearlyFull", "DiskFull", "ProbeFailed"
_LOW_BYTES = 2 << 30
_LOW_INODES = 10_000
_LOW_PARTS = 20
"""Less than one of so many parts free is nearly full, whatever that is in bytes."""
_RELIEF = 1.25
"""A disk counts as mended once it has so many times the free space that it lacked, so that nothing flutters."""
_PROBE_S = 10.0
_PROBES_EVERY = 6
"""Probes run at every so many looks."""
_REPEAT_S = 60.0
"""A problem that only changed its words is told again after this long."""
_LAST_BYTES = 4096
_PIPE_BYTES = 64 << 10
_LONGEST_LINE = 300
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True, frozen=True)
class Probe:
    """How one of the operator's programs ended; `code` None stands for one that gave none, `text` says why."""

    name: str
    code: int | None
    text: str = ""


def of_disk(disk: Disk, before: Collection[str] = ()) -> list[NodeProblem]:
    """What is wrong with a disk; `before` names what was (`key`), which is over only when there is clearly more room."""
    found = [_of("bytes", "bytes of free space", disk.free_bytes, disk.bytes, _LOW_BYTES, RESERVED_BYTES, before)]
    if disk.inodes:
        found.append(_of("inodes", "free inodes", disk.free_inodes, disk.inodes, _LOW_INODES, RESERVED_INODES, before))
    return [problem for problem in found if problem is not None]


def _of(unit: str, what: str, free: int, total: int, low: int, reserved: int, before: Collection[str]) -> NodeProblem | None:
    def lacks(code: str, limit: int) -> bool:
        return free < (limit * _RELIEF if _name(code, unit) in before else limit)

    warned_at = max(low, total // _LOW_PARTS)
    details = {"Name": unit, "Free": str(free), "Total": str(total)}
    if lacks(FULL, reserved):
        text = f"The disk of the node has less than {reserved:,} {what} left; no task is started until there is more"
        return NodeProblem(code=FULL, message=text, details=details, blocking=True)
    if lacks(NEARLY, warned_at):
        text = f"The disk of the node has less than {warned_at:,} {what} left"
        return NodeProblem(code=NEARLY, message=text, details=details)
    return None


def is_tight(disk: Disk) -> bool:
    """True when a disk is nearly full: what can be had again should go."""
    return disk.free_bytes < max(_LOW_BYTES, disk.bytes // _LOW_PARTS)


def of_probes(probes: Sequence[Probe]) -> list[NodeProblem]:
    """What the operator's probes complain of."""
    return [_failed(probe) for probe in probes if probe.code != 0]


def _failed(probe: Probe) -> NodeProblem:
    how = "gave no verdict" if probe.code is None else f"ended with {probe.code}"
    text = f"The probe {probe.name} {how}" + (f": {probe.text}" if probe.text else "")
    details = {"Name": probe.name} | ({} if probe.code is None else {"ExitCode": str(probe.code)})
    return NodeProblem(code=FAILED, message=text, details=details, blocking=True)


def key(problem: NodeProblem) -> str:
    """What a problem is about, whatever its figures."""
    return _name(problem.code, problem.details.get("Name", ""))


def _name(code: str, of: str) -> str:
    return f"{code} {of}"


def worth_telling(told: Sequence[NodeProblem], found: Sequence[NodeProblem], since_s: float) -> bool:
    """True when the server should hear of it: something came or went, or reads differently and was told `since_s` ago."""
    if sorted(map(key, told)) != sorted(map(key, found)):
        return True
    words = {key(problem): problem.message for problem in told}
    return since_s >= _REPEAT_S and any(words[key(problem)] != problem.message for problem in found)


def programs(directory: str) -> list[str]:
    """Names of the executable files in a directory, sorted. Raises OSError."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_file() and os.access(entry.path, os.X_OK))


def run_probe(directory: str, name: str, root: str, seconds: float = _PROBE_S) -> Probe:
    """Run one of the operator's programs with the agent's rights, and end it with all of its session when it takes too long.

    Of what it prints the end is kept, in memory: the disk may be what it complains of.
    """
    path = os.path.join(directory, name)
    try:
        if _open_to_others(path):
            return Probe(name, None, "others than its owner may write to it or to its directory")
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with open(ours, "rb", buffering=0) as output:
            os.set_blocking(theirs, True)
            environment = {"PATH": _PATH, "LANG": "C.UTF-8", "AZ_BATCH_NODE_ROOT_DIR": root}
            try:
                child = subprocess.Popen(
                    [path], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
                )
            finally:
                os.close(theirs)
            text = _listen(child, output.fileno(), time.monotonic() + seconds)
            if text is None:
                _end(child)
                return Probe(name, None, f"it did not end within {seconds:g} s")
            code = child.wait()
            return Probe(name, 128 - code if code < 0 else code, _last_line(text))
    except (OSError, ValueError) as error:
        return Probe(name, None, str(error))


def _open_to_others(path: str) -> bool:
    """True when a program that would run with the agent's rights can be exchanged by somebody else."""
    for each in (path, os.path.dirname(path)):
        seen = os.stat(each)
        if seen.st_uid not in (0, os.geteuid()) or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return True
    return False


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # in an uninterruptible call, perhaps to the very disk
        child.wait(1.0)


def _listen(child: subprocess.Popen[bytes], output: int, deadline: float) -> bytes | None:
    """The last that a child printed before it ended; None when it has not ended by the deadline, which is of `time.monotonic`."""
    text = b""
    ended = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(left * 1000)]
            if output in ready:
                data = _read(output)
                text = (text + data)[-_LAST_BYTES:]
                if not data:
                    poll.unregister(output)
            if ended in ready:
                return (text + _read(output))[-_LAST_BYTES:]
    finally:
        os.close(ended)
    return None


def _read(fd: int) -> bytes:
    """As much as a pipe holds; nothing when it is empty or at its end."""
    try:
        return os.read(fd, _PIPE_BYTES)
    except BlockingIOError:
        return b""


def _last_line(printed: bytes) -> str:
    text = printed.decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:_LONGEST_LINE] if lines else ""


class Health:
    """Looks at the node: `probes` is the directory of the operator's programs, if there is one.

    `more` gives what else is wrong, and `changed` is set when that may be something else now.
    """

    def __init__(
        self, root: str, probes: str | None, threads: Executor, more: Callable[[], list[NodeProblem]], changed: asyncio.Event
    ) -> None:
        self._root, self._probes, self._threads, self._more, self._changed = root, probes, threads, more, changed
        self.looked = asyncio.Event()
        """Set after the first look."""
        self._looks = 0
        self._told: list[NodeProblem] = []
        self._told_at = 0.0
        self._disk: list[NodeProblem] = []
        self._failed: list[NodeProblem] = []

    async def watch(self, every_s: float, tell: Callable[[list[NodeProblem]], None]) -> None:
        """Look again and again, and tell all that is wrong when that changed."""
        while True:
            self._changed.clear()
            try:
                found, now = await self.look(), time.monotonic()
                if worth_telling(self._told, found, now - self._told_at):
                    log.warning("the node's problems changed", problems=[problem.message for problem in found])
                    self._told, self._told_at = found, now
                    tell(found)
            except Exception:
                log.exception("the node could not be looked at")
            self.looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._changed.wait()

    async def look(self) -> list[NodeProblem]:
        """All that is wrong now. Probes run at the first look and then more rarely than the disk is looked at."""
        loop = asyncio.get_running_loop()
        try:
            disk = await loop.run_in_executor(self._threads, sample, self._root)
        except OSError as error:
            log.warning("the disk cannot be looked at", reason=str(error))
        else:
            self._disk = of_disk(disk, {key(problem) for problem in self._disk})
        if self._probes is not None and self._looks % _PROBES_EVERY == 0:
            self._failed = of_probes(await self._run(self._probes))
        self._looks += 1
        return [*self._disk, *self._failed, *self._more()]

    async def _run(self, directory: str) -> Sequence[Probe]:
        loop = asyncio.get_running_loop()
        try:
            names = await loop.run_in_executor(self._threads, programs, directory)
        except OSError as error:
            return [Probe(os.path.basename(directory), None, f"{directory}: {error.strerror}")]
        return await asyncio.gather(*(loop.run_in_executor(self._threads, run_probe, directory, name, self._root) for name in names))
