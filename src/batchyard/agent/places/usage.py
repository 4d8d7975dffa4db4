"""How much of the disk a task's directory takes, for nodes whose operator gave each task a limit.

It is looked at, not reserved: what a task takes between two looks is seen at the next one. A look has descriptors for so
many levels and memory for so many files, follows no link, leaves no file system, and the pauses between looks grow with
the time that one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import Executor

from batchyard.agent.places import beneath

LEVELS = 100
"""Directories that are nested deeper cannot be measured, so there may be none."""
FILES = 2_000_000
"""Nor may there be more files than these."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512
_PAUSE_S = 1.0
_SHARE = 10
"""Looking takes one of so many parts of a thread's time at the most."""


class TooMuch(Exception):
    """The directory takes more than it may; the message says how."""


class _Look:
    """One look at a directory."""

    def __init__(self, limit: int, stopped: Callable[[], bool], device: int) -> None:
        self._limit, self._stopped, self._device = limit, stopped, device
        self._seen: set[int] = set()
        """Files with several names, by inode."""
        self._files = 0
        self.bytes = 0

    def count(self, fd: int, levels: int) -> None:
        """Add what is in a directory and below. Raises TooMuch."""
        if levels == 0:
            raise TooMuch(f"directories are nested deeper than {LEVELS} levels")
        with os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # it went while it was looked at
                    self._add(entry, fd, levels)

    def _add(self, entry: os.DirEntry[str], parent: int, levels: int) -> None:
        found = entry.stat(follow_symlinks=False)
        if found.st_dev != self._device or self._stopped():
            return
        self._files += 1
        if self._files > FILES:
            raise TooMuch(f"it has more than {FILES:,} files")
        if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode) or found.st_ino not in self._seen:
            self.bytes += found.st_blocks * _BLOCK
        if self.bytes > self._limit:
            raise TooMuch(f"it takes more than {self._limit:,} bytes of the disk")
        if stat.S_ISDIR(found.st_mode):
            fd = os.open(entry.name, _DIRECTORY, dir_fd=parent)
            try:
                self.count(fd, levels - 1)
            finally:
                os.close(fd)
        elif found.st_nlink > 1 and found.st_blocks:
            self._seen.add(found.st_ino)


def measure(directory: str, limit: int, stopped: Callable[[], bool] = lambda: False) -> int:
    """Bytes that a directory takes on its file system. Raises TooMuch above `limit`, OSError when it cannot be looked at."""
    with beneath.directory(directory, []) as fd:
        look = _Look(limit, stopped, os.fstat(fd).st_dev)
        look.count(fd, LEVELS)
        return look.bytes


async def watch(directory: str, limit: int, threads: Executor, stopped: Callable[[], bool]) -> str:
    """Look again and again; how a directory takes too much, once it does."""
    loop = asyncio.get_running_loop()
    while True:
        begun = time.monotonic()
        try:
            await loop.run_in_executor(threads, measure, directory, limit, stopped)
        except TooMuch as found:
            return str(found)
        except OSError:
            pass  # it is just being made or taken over
        await asyncio.sleep(max(_PAUSE_S, (_SHARE - 1) * (time.monotonic() - begun)))
