"""Waiting for tasks, one or many, while what they write is shown and what they leave is fetched.

Many are looked at with a count and a list of those that ended lately, never one by one; what they wrote and left is read by
several threads, a window ahead of what is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from batchyard.cli import follow, streams, where
from batchyard.cli.client import CHUNK, UNKNOWN, Client, Refused
from batchyard.cli.follow import Body, Pace, Start, Streams
from batchyard.cli.problem import Interrupted, Problem
from batchyard.cli.progress import Progress
from batchyard.cli.streams import say

if TYPE_CHECKING:
    from concurrent.futures import Future

AT_ONCE = 16
"""Files that are read at a time: each read waits for a node."""
_WINDOW = 200
"""Tasks whose output is read ahead."""
_TOGETHER = 50
"""Tasks whose output is asked for at a time, which is as many as the server takes."""
_LOOKS = 8
"""A list is asked for after so many looks at the counts even when they did not change: one may have ended and another begun again."""


class Fetches(Protocol):
    """What fetches the files that tasks leave."""

    def ended(self, tasks: Sequence[str]) -> None:
        """These ended well since this was called last, perhaps none."""

    def finish(self) -> Iterator[str]:
        """Return when all is there; sentences about what is not."""

    def stop(self) -> None:
        """Begin nothing more."""


class Ends:
    """Which tasks of a job have ended."""

    def __init__(self, batch: Client, job: str, ids: Sequence[str]) -> None:
        self._batch, self._job = batch, job
        self._left = set(ids)
        self._start = shared_start(ids) if len(ids) > 1 else ""
        self._since = ""
        self._counts: Body | None = None
        self._looks = 0
        self.found: dict[str, Body] = {}

    def look(self) -> list[str]:
        """The tasks that were not known to have ended. Raises Problem."""
        if len(self._left) == 1:
            [one] = self._left
            task = self._batch.get("jobs", self._job, "tasks", one)
            return self.note(task)
        counts = self._batch.get("jobs", self._job, "taskcounts")["taskCounts"]
        self._looks += 1
        if counts == self._counts and self._looks % _LOOKS:
            return []
        self._counts = counts
        new = self.note(*self._ended())
        if self._left and not counts["active"] + counts["running"]:  # so it ended this moment, or is gone, which this read says
            new += self.note(self._batch.get("jobs", self._job, "tasks", min(self._left)))
        return new

    def _ended(self) -> Iterator[Body]:
        conditions = ["state eq 'completed'"]
        if self._start:
            conditions.append(f"startswith(id,{where.quoted(self._start)})")
        if self._since:
            conditions.append(f"stateTransitionTime ge DateTime'{self._since}'")
        fields = "id,state,stateTransitionTime,executionInfo"
        return self._batch.listed("jobs", self._job, "tasks", filter_=" and ".join(conditions), select_=fields)

    def note(self, *tasks: Body) -> list[str]:
        """Remember tasks that ended; those that were not known."""
        new = []
        latest = self._since
        for task in tasks:
            if task["state"] != "completed":
                continue
            latest = max(latest, task.get("stateTransitionTime", ""))
            if task["id"] in self._left:
                self._left.discard(task["id"])
                self.found[task["id"]] = task
                new.append(task["id"])
        self._since = latest
        return new


def await_(batch: Client, job: str, ids: Sequence[str], streams: Streams = (), fetches: Fetches | None = None) -> int:
    """Wait for tasks in their order, showing what they write, and fetch what they leave; the exit code. Raises Interrupted."""
    from concurrent.futures import ThreadPoolExecutor

    codes = []
    at = ids[0] if ids else None
    with (
        ThreadPoolExecutor(AT_ONCE) as several,
        Progress("waiting", len(ids)) as progress,
        unharmed(job, lambda: at if len(ids) == 1 else None),
    ):
        watch = _Watch(batch, job, ids, streams, fetches, several)
        try:
            for number, one in enumerate(ids):
                at = one
                ended = watch.until_end(number, progress)
                codes.append(follow.exit_code(ended))
                if why := follow.verdict(ended):
                    progress.wipe()
                    say(f"batchyard: {why}")
            for line in fetches.finish() if fetches is not None else ():
                say(f"batchyard: {line}")
        finally:
            if fetches is not None:
                fetches.stop()
    return follow.overall(codes)


def shared_start(ids: Sequence[str]) -> str:
    """The characters that all ids begin with."""
    low, high = min(ids), max(ids)
    return next((low[:at] for at, letter in enumerate(low) if at >= len(high) or high[at] != letter), low)


class _Watch:
    """Tasks that are waited for, in their order."""

    def __init__(self, batch: Client, job: str, ids: Sequence[str], streams: Streams, fetches: Fetches | None, several: Any) -> None:
        self._batch, self._job, self._ids, self._streams = batch, job, ids, streams
        self._ends, self._fetches, self._several = Ends(batch, job, ids), fetches, several
        self._ahead: dict[str, Future[dict[str, list[Start]]]] = {}
        self._alone = False
        """The server reads no files of several tasks at a time."""

    def until_end(self, number: int, progress: Progress) -> Body:
        """The task of that number when it has ended and all that it wrote is shown."""
        one, pace = self._ids[number], Pace()
        while one not in self._ends.found:
            if self._look(progress):
                if len(self._ends.found) < len(self._ids):
                    pace.rest(busy=True)
                continue
            if self._streams:
                progress.wipe()
                return self._take(one, follow.until_end(self._batch, self._job, one, self._streams))
            self._tell(one, pace)
            pace.rest()
        if self._streams:
            progress.wipe()
            self._read_ahead(number)
            self._show(one)
        return self._ends.found[one]

    def _take(self, one: str, task: Body) -> Body:
        """A task that was followed to its end."""
        self._fetch(self._ends.note(task))
        return task

    def _look(self, progress: Progress) -> bool:
        """Look which have ended; has any?"""
        new = self._ends.look()
        progress.at(len(self._ends.found))
        self._fetch(new)
        return bool(new)

    def _fetch(self, new: Sequence[str]) -> None:
        if self._fetches is not None:
            self._fetches.ended([one for one in new if (self._ends.found[one].get("executionInfo") or {}).get("result") == "success"])

    def _tell(self, one: str, pace: Pace) -> None:
        """Say once when a single task waits for one that failed."""
        if len(self._ids) == 1 and pace.slow and not pace.told:
            task = self._batch.get("jobs", self._job, "tasks", one)
            pace.told = True
            for line in follow.waits_for_failed(self._batch, self._job, task) if task["state"] == "active" else ():
                say(line)

    def _read_ahead(self, number: int) -> None:
        window = self._ids[number : number + _WINDOW]
        due = [one for one in window if one in self._ends.found and one not in self._ahead]
        if self._ids[number] not in due and len(due) < _TOGETHER:
            return
        for at in range(0, len(due), _TOGETHER):
            some = due[at : at + _TOGETHER]
            self._ahead |= dict.fromkeys(some, self._several.submit(self._starts, some))

    def _starts(self, some: Sequence[str]) -> dict[str, list[Start]]:
        """The start of all that these tasks wrote: together where the server can do that, else one by one."""
        names = [name for name, _ in self._streams]
        found = {} if self._alone else self._together(some, names)
        return found | {one: [self._first(one, name) for name in names] for one in some if one not in found}

    def _together(self, some: Sequence[str], names: Sequence[str]) -> dict[str, list[Start]]:
        try:
            read = follow.starts(self._batch, self._job, some, names)
        except Refused as refused:
            if refused.error not in UNKNOWN:
                raise
            self._alone = True
            return {}
        except Problem:  # the server is away; who reads one by one waits for it
            return {}
        return {one: [start for start in starts if start is not None] for one, starts in read.items() if None not in starts}

    def _first(self, one: str, name: str) -> Start:
        data = follow.first(self._batch, self._job, self._ends.found[one], name)
        return data, len(data) == CHUNK

    def _show(self, one: str) -> None:
        for (name, target), (data, more) in zip(self._streams, self._ahead.pop(one).result()[one], strict=True):
            target.write(data)
            if more:
                for part in follow.contents(self._batch, self._job, one, name, len(data)):
                    target.write(part)
            target.flush()


def all_ended(batch: Client, job: str) -> Body:
    """Task counts of a job when none of its tasks waits or runs. Raises Problem."""
    pace = Pace()
    with Progress("waiting", None) as progress:
        while True:
            counts: Body = batch.get("jobs", job, "taskcounts")["taskCounts"]
            left = counts["active"] + counts["running"]
            if not left:
                return counts
            progress.at(counts["completed"], counts["completed"] + left)
            pace.rest()


@contextlib.contextmanager
def unharmed(job: str, task: Any = None) -> Iterator[None]:
    """Ctrl-C, or a reader of the output that goes, ends the waiting and nothing else, and that is said."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as end:
        if isinstance(end, BrokenPipeError):
            streams.forget_output()
        one = task() if task else None
        what, named = (f"the task {one}", f"{job} {one}") if one else (f"the job {job}", job)
        again = f"batchyard logs -f {one} --job {job}" if one else f"batchyard wait {job}"
        raise Interrupted(f"{what} goes on; see it with: {again}; end it with: batchyard cancel {named}") from None
