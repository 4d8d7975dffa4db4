"""Removing directories that nobody needs any more, without ever touching one that an attempt uses.

A directory is moved away first, which is quick and makes its name free, then deleted in the background: one at a time,
because a file system is slow in creating files while it deletes many.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from batchyard.agent.places import beneath
from batchyard.agent.places.layout import Layout
from batchyard.disk import trees


class Directories:
    """Who uses which directory: an attempt its own, a removal everything below."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._going: set[str] = set()
        self._changed = asyncio.Event()
        self._waiting = 0

    async def take(self, path: str) -> None:
        """Hold a directory until `leave`; waits for the attempt that does and for removals that were asked for before."""
        while path in self._used or (self._going and any(_is_below(path, top) for top in self._going)):
            await self._change()
        self._used.add(path)

    def leave(self, path: str) -> None:
        """Let others hold a directory."""
        self._used.discard(path)
        self._tell()

    async def quiet(self, top: str) -> None:
        """Return once no attempt holds a directory below."""
        while any(_is_below(path, top) for path in self._used):
            await self._change()

    @contextlib.asynccontextmanager
    async def going(self, top: str) -> AsyncIterator[None]:
        """Hold a directory for its removal: later attempts wait, earlier ones are waited for."""
        self._going.add(top)
        try:
            while any(_is_below(path, top) for path in self._used):
                await self._change()
            yield
        finally:
            self._going.discard(top)
            self._tell()

    async def _change(self) -> None:
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def _tell(self) -> None:
        if self._waiting:
            self._changed.set()
            self._changed = asyncio.Event()


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


class Remover:
    """Removes directories of a node."""

    def __init__(self, layout: Layout, directories: Directories, threads: Executor) -> None:
        self._layout, self._directories, self._threads = layout, directories, threads
        self._one = asyncio.Lock()
        self.stop = threading.Event()

    async def free(self, directory: str) -> None:
        """Return once the name is free; the content goes in the background. Raises OSError or Outside."""
        names = beneath.parts(directory)
        if not names:
            raise beneath.Outside(directory)
        async with self._directories.going("/".join((self._layout.root, *names))):
            try:
                move_away(self._layout, names)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # A full disk has no room for another name either, and this makes some.
                await asyncio.get_running_loop().run_in_executor(self._threads, remove_in_place, self._layout, names)

    async def empty(self) -> None:
        """Delete what was moved away, by this life of the agent or an earlier one."""
        async with self._one:
            await asyncio.get_running_loop().run_in_executor(self._threads, empty, self._layout, self.stop)


def move_away(layout: Layout, names: list[str]) -> None:
    """Make a name free; one that is free already is no error. Raises OSError."""
    os.makedirs(layout.trash, mode=0o700, exist_ok=True)
    with beneath.trusted(layout.root) as top:
        with contextlib.suppress(FileNotFoundError), beneath.directory(top, names[:-1]) as fd:
            os.rename(names[-1], f"{layout.trash}/{secrets.token_hex(8)}", src_dir_fd=fd)
        if len(names) > 2:
            with contextlib.suppress(OSError), beneath.directory(top, names[:-2]) as fd:
                os.rmdir(names[-2], dir_fd=fd)  # a job's directory whose last part is gone


def remove_in_place(layout: Layout, names: list[str]) -> None:
    """Delete a directory where it is; one that is gone is no error. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), beneath.directory(layout.root, names[:-1]) as fd:
        trees.remove(names[-1], fd)


def empty(layout: Layout, stop: threading.Event) -> None:
    """Delete everything in the trash; what cannot be deleted stays for the next time."""
    with contextlib.suppress(OSError), beneath.directory(layout.trash) as fd:
        for name in os.listdir(fd):
            with contextlib.suppress(OSError):
                if stop.is_set():
                    return
                if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    trees.remove(name, fd)
                else:
                    os.unlink(name, dir_fd=fd)
