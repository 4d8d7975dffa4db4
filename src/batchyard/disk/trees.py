"""Directories: removed whole, however deep a task has nested them, with few descriptors and no recursion to speak of; made durable.

Agents remove what tasks left, providers what a node left.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEVELS = 32
"""How deep one walk goes; each level holds a descriptor. What is deeper is moved up first."""


def remove(name: str, parent: int) -> None:
    """Remove a directory and all below it, following no link. Goes on after an error; the first OSError is raised at the end."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        removal = _Removal(fd)
        removal.content(fd, 0)
        while removal.lifted:
            removal.entry(removal.lifted.pop(), fd, 1)
    finally:
        os.close(fd)
    if removal.failed is not None:
        raise removal.failed
    os.rmdir(name, dir_fd=parent)


class _Removal:
    """The removal of what is in `top`, a descriptor."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.lifted: list[str] = []
        """Directories that were too deep and stand in `top` now."""
        self.failed: OSError | None = None

    def content(self, fd: int, depth: int) -> None:
        """Remove what is in a directory. Raises OSError when it cannot be read."""
        for name in os.listdir(fd):
            self.entry(name, fd, depth + 1)

    def entry(self, name: str, parent: int, depth: int) -> None:
        """Remove a file or a directory, or note why it stays."""
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
            elif depth > _LEVELS:
                self._lift(name, parent)
            else:
                self._directory(name, parent, depth)
        except FileNotFoundError:
            pass  # somebody else removed it
        except OSError as error:
            self.failed = self.failed or error

    def _lift(self, name: str, parent: int) -> None:
        above = secrets.token_hex(16)
        os.rename(name, above, src_dir_fd=parent, dst_dir_fd=self._top)
        self.lifted.append(above)

    def _directory(self, name: str, parent: int, depth: int) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self.content(fd, depth)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)


def remove_tree(path: Path) -> None:
    """Remove a directory with what somebody may still be writing to it; none is no error. Raises OSError when it cannot be removed."""
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                remove(path.name, parent)
            if path.exists():
                remove(path.name, parent)
        finally:
            os.close(parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
