"""`logs`: what tasks wrote, of one or of many."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Lock

from batchyard.cli import follow as reading
from batchyard.cli import select, waiting
from batchyard.cli.client import CHUNK, Client
from batchyard.cli.problem import Problem
from batchyard.cli.streams import say

_WINDOW = 64
"""Tasks whose files are read ahead."""
_AT_ONCE = 32
"""Tasks that are followed at the same time."""
Read = Callable[[int, int], bytes]
"""From an offset and a number of bytes to a part of a file."""


def logs(
    batch: Client,
    *,
    tasks: Sequence[str],
    job: str | None,
    follow: bool | None,
    stderr: bool | None,
    prefix: bool | None,
    tail: int | None,
    pick: select.Pick,
) -> int:
    """Print what tasks wrote."""
    file = "stderr.txt" if stderr else "stdout.txt"
    pairs = list(select.tasks(batch, tasks, job, pick))
    if follow and len(pairs) > 1:
        return _follow_many(batch, pairs[:_AT_ONCE], file, prefix=bool(prefix))
    if follow:
        [(where, task)] = pairs
        out = Lines(f"{where}/{task}: " if prefix else "")
        with waiting.unharmed(where, partial(str, task)):
            reading.until_end(batch, where, task, [(file, out)])
        out.end()
        return 0
    failed = 0
    for (where, task), found in _read(batch, pairs, file, tail):
        out = Lines(f"{where}/{task}: " if prefix else "")
        if isinstance(found, Problem):
            if len(pairs) == 1:
                raise found
            say(f"batchyard: {found}")
            failed = 1
            continue
        out.write(found)
        if tail is None and len(found) == CHUNK:
            for part in reading.contents(batch, where, task, file, CHUNK):
                out.write(part)
        out.end()
    return failed


def _read(
    batch: Client, pairs: Sequence[tuple[str, str]], file: str, tail: int | None
) -> Iterator[tuple[tuple[str, str], bytes | Problem]]:
    """The start of each task's file, or its last lines, or why there is none; several are read ahead."""

    def one(pair: tuple[str, str]) -> bytes | Problem:
        path = ("jobs", pair[0], "tasks", pair[1], "files", file)
        try:
            if tail is None:
                return next(reading.contents(batch, *pair, file), b"")
            return last(tail, batch.size(*path), lambda offset, most: batch.read(*path, offset=offset, most=most))
        except Problem as problem:
            return problem

    if len(pairs) == 1:
        yield pairs[0], one(pairs[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(waiting.AT_ONCE) as several:
        for at in range(0, len(pairs), _WINDOW):
            some = pairs[at : at + _WINDOW]
            yield from zip(some, several.map(one, some), strict=True)


def _follow_many(batch: Client, pairs: Sequence[tuple[str, str]], file: str, *, prefix: bool) -> int:
    """Follow several at the same time, line by line."""
    from concurrent.futures import ThreadPoolExecutor

    lock = Lock()

    def one(pair: tuple[str, str]) -> None:
        out = Lines(f"{pair[0]}/{pair[1]}: " if prefix else "", lock)
        reading.until_end(batch, *pair, [(file, out)])
        out.end()

    with waiting.unharmed(pairs[0][0]), ThreadPoolExecutor(len(pairs)) as several:
        list(several.map(one, pairs))
    return 0


def last(lines: int, size: int, read: Read) -> bytes:
    """The last lines of a file, read from its end."""
    found, start = b"", size
    while start > 0 and found.count(b"\n", 0, -1) < lines:
        more = min(start, CHUNK)
        start -= more
        found = read(start, more) + found
    return b"".join(found.splitlines(keepends=True)[-lines:]) if lines else b""


class Lines:
    """Writes to stdout, before each line a text; whole lines only, where several write."""

    def __init__(self, before: str = "", lock: Lock | None = None) -> None:
        self._before, self._lock = before.encode(), lock
        self._open = b""

    def write(self, data: bytes) -> object:
        """Write some bytes."""
        if not self._before and self._lock is None:
            return sys.stdout.buffer.write(data)
        *whole, self._open = (self._open + data).split(b"\n")
        with self._lock or Lock():
            return sys.stdout.buffer.write(b"".join(self._before + line + b"\n" for line in whole))

    def flush(self) -> None:
        """Let what was written be seen."""
        sys.stdout.buffer.flush()

    def end(self) -> None:
        """Write the last line, which has no end of its own."""
        if self._open:
            self.write(b"\n")
        self.flush()
