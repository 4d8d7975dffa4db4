"""Waiting for tasks, and showing what they write while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from batchyard.cli.client import CHUNK, Client, Refused
from batchyard.cli.problem import Problem
from batchyard.cli.streams import say
from batchyard.model import frames

SHORTEST_S, LONGEST_S = 0.2, 1.0
"""How long to wait between two looks at a server: short while something happens, longer when it is quiet."""
NOT_THERE = frozenset({"FileNotFound", "TaskFilesUnavailable", "OperationInvalidForCurrentState", "NodeNotReady"})
"""What is answered for a file that is not there yet, or no longer."""

Body = dict[str, Any]
Start = tuple[bytes, bool]
"""The first bytes of a file, and whether there are more."""


class Sink(Protocol):
    """Where the content of a file goes."""

    def write(self, data: bytes, /) -> object: ...
    def flush(self) -> None: ...


Streams = Sequence[tuple[str, Sink]]
"""Files of a task and where to copy them."""


class Pace:
    """The pauses between looks."""

    def __init__(self) -> None:
        self._next = SHORTEST_S
        self.told = False

    @property
    def slow(self) -> bool:
        """Nothing has happened for a while."""
        return self._next >= LONGEST_S / 2

    def rest(self, *, busy: bool = False) -> None:
        """Wait before the next look."""
        self._next = SHORTEST_S if busy else min(self._next * 1.3, LONGEST_S)
        time.sleep(self._next)


def until_end(batch: Client, job: str, task: str, streams: Streams = ()) -> Body:
    """The task when it has ended; copies what it writes on the way. Raises Problem."""
    tail, pace, noted = _Tail(batch, job, task, streams), Pace(), False
    while True:
        found = batch.get("jobs", job, "tasks", task)
        busy = tail.copy(found)
        if found["state"] == "completed":
            return found
        if pace.slow and not noted and found["state"] == "active":
            noted = True
            for line in waits_for_failed(batch, job, found):
                say(line)
        pace.rest(busy=busy)


class _Tail:
    """Copies files as they grow; starts again when the task does."""

    def __init__(self, batch: Client, job: str, task: str, streams: Streams) -> None:
        self._read: Callable[[str, int], bytes] = lambda name, offset: batch.read("jobs", job, "tasks", task, "files", name, offset=offset)
        self._task, self._streams = task, streams
        self._offsets = [0] * len(streams)
        self._attempt = 0

    def copy(self, task: Body) -> bool:
        """Copy what is new; was there anything?"""
        info = task.get("executionInfo") or {}
        attempt = info.get("retryCount", 0) + info.get("requeueCount", 0)
        if attempt != self._attempt and self._streams:
            self._attempt, self._offsets = attempt, [0] * len(self._streams)
            say(f"batchyard: {self._task} runs again (attempt {attempt + 1})")
        if task["state"] == "active" or "startTime" not in info:
            return False
        return sum([self._copy(number, task) for number in range(len(self._streams))]) > 0

    def _copy(self, number: int, task: Body) -> int:
        """Bytes that were copied of one file; none while it cannot be read."""
        name, target = self._streams[number]
        copied = 0
        try:
            while data := self._read(name, self._offsets[number]):
                target.write(data)
                target.flush()
                self._offsets[number] += len(data)
                copied += len(data)
                if len(data) < CHUNK:
                    break
        except Refused as refused:
            if refused.error not in NOT_THERE:
                raise
            if task["state"] == "completed" and "exitCode" in task["executionInfo"]:
                say(f"batchyard: {name} of {self._task} is gone ({refused.error})")
        return copied


def first(batch: Client, job: str, task: Body, name: str) -> bytes:
    """The start of a file of a task that has ended; nothing where it left none. Raises Problem."""
    try:
        return batch.read("jobs", job, "tasks", task["id"], "files", name)
    except Refused as refused:
        if refused.error not in NOT_THERE:
            raise
        if "exitCode" in (task.get("executionInfo") or {}):
            say(f"batchyard: {name} of {task['id']} is gone ({refused.error})")
        return b""


def starts(batch: Client, job: str, tasks: Sequence[str], names: Sequence[str]) -> dict[str, list[Start | None]]:
    """The starts of the same files of several tasks that have ended; None for what cannot be read so. Raises Refused, Problem."""
    pieces = batch.stream("batchyard", "jobs", job, "outputs", body={"tasks": list(tasks), "files": list(names)})
    seen = frames.Frames()
    try:
        found = [one for piece in pieces for one in seen.feed(piece)]
    except ValueError:
        found = []
    if len(found) != len(tasks) * len(names):
        raise Problem("the server broke off the output of tasks")
    each = iter(found)
    return {
        task: [None if kind == frames.MISSING else (data, kind == frames.START) for kind, data in islice(each, len(names))]
        for task in tasks
    }


def contents(batch: Client, job: str, task: str, name: str, offset: int = 0) -> Iterator[bytes]:
    """A file of a task as it is now. Raises Problem."""
    try:
        while data := batch.read("jobs", job, "tasks", task, "files", name, offset=offset):
            yield data
            offset += len(data)
    except Refused as refused:
        if refused.error not in NOT_THERE:
            raise
        state = batch.get("jobs", job, "tasks", task)["state"]
        why = "its node is gone, or it never ran" if state == "completed" else "follow it with: batchyard logs -f"
        raise Problem(f"there is no {name} of {task}, which is {state}; {why}") from None


def waits_for_failed(batch: Client, job: str, task: Body) -> Iterator[str]:
    """A sentence for each task that this one waits for and that failed, so that it may never start."""
    parents = (task.get("dependsOn") or {}).get("taskIds") or []
    for parent in parents[:20]:
        try:
            info = batch.get("jobs", job, "tasks", parent).get("executionInfo") or {}
        except Refused:
            continue
        if info.get("result") == "failure":
            yield f"batchyard: {task['id']} waits for {parent}, which failed; run it again with: batchyard retry {job} {parent}"


def exit_code(task: Body) -> int:
    """What the task means to a shell: 0 for success, else its own exit code, else 1."""
    info = task.get("executionInfo") or {}
    if info.get("result") == "success":
        return 0
    code = info.get("exitCode") or 1
    return code if 0 < code < 256 else 1


def verdict(task: Body) -> str | None:
    """Why a task failed; None when it did not."""
    info = task.get("executionInfo") or {}
    if info.get("result") == "success":
        return None
    failure = info.get("failureInfo") or {}
    details = "; ".join(f"{pair['name']}: {pair['value']}" for pair in failure.get("details") or () if pair["name"] != "Message")
    if failure.get("code") == "FailureExitCode" or not failure:
        return f"{task['id']} failed with exit code {info.get('exitCode')}"
    reason = str(failure.get("message", "")).rstrip(".")
    return f"{task['id']} failed: {reason} ({failure.get('code')}){f'; {details}' if details else ''}"


def overall(codes: Sequence[int]) -> int:
    """Exit code of a command that waited for tasks: that of the only one, or 1 when any of several failed."""
    return codes[0] if len(codes) == 1 else int(any(codes))
