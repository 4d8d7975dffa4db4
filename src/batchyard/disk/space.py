"""How much room a file system has, and a server's watch over its own.

Three marks, from far to near: below `margin` no new work is taken, below half of it no new content of blobs, and close to
the end the reserve is given up by halves, a file that was kept for this, so that what runs can be finished and what is not
needed any more can be removed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

MARGIN_BYTES = 128 << 20
MARGIN_INODES = 1_000
_MARGIN_PART = 8
"""A small file system has a margin of one of so many parts of it."""
_RESERVE_PART = 8
"""The reserve in parts of the margin."""
_NEAR_PART = 32
"""Below this part of the margin a half of the reserve is given up, each time that one looks: whatever fills the disk takes one with it,
learns that there is no more, and leaves the next one."""
_LAST_BYTES = 64 << 10
"""A reserve that is as small as this is given up at once."""
START_BYTES = 4 << 20
"""What a server needs to begin: its account, its databases and their logs."""


@dataclass(slots=True, frozen=True)
class Disk:
    """A file system as those see it who are not root; a number of inodes of 0 says that it has no limit of them."""

    bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


def sample(root: str | Path) -> Disk:
    """The file system that holds `root`. Raises OSError."""
    seen = os.statvfs(root)
    return Disk(seen.f_frsize * seen.f_blocks, seen.f_frsize * seen.f_bavail, seen.f_files, seen.f_favail)


def margin(disk: Disk) -> int:
    """Bytes below which a server takes no new work."""
    return min(MARGIN_BYTES, disk.bytes // _MARGIN_PART)


def lacking(disk: Disk, needed: int) -> str | None:
    """A sentence when a disk has less than `needed` bytes or the margin of inodes; None when it has them."""
    if disk.free_bytes < needed:
        return f"The disk of the server has {disk.free_bytes:,} bytes of free space left, less than {needed:,}"
    if disk.inodes and disk.free_inodes < min(MARGIN_INODES, disk.inodes // _MARGIN_PART):
        return f"The disk of the server has {disk.free_inodes:,} free inodes left"
    return None


class Room:
    """The room that a server has in its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reserve = directory / "reserve"

    def for_work(self) -> str | None:
        """Why no new work is taken, None when it is. Raises OSError."""
        disk = sample(self._directory)
        return lacking(disk, margin(disk))

    def for_content(self, size: int) -> str | None:
        """Why no content of `size` bytes is taken, None when it is. Raises OSError."""
        disk = sample(self._directory)
        return lacking(disk, margin(disk) // 2 + size)

    def watch(self) -> None:
        """Give half of the reserve up when the end is near, and put it aside again when there is plenty. Raises OSError."""
        disk = sample(self._directory)
        size = max(1, margin(disk) // _RESERVE_PART)
        if disk.free_bytes < margin(disk) // _NEAR_PART:
            self._give_up()
        elif disk.free_bytes > 2 * margin(disk) and self._kept() < size:
            self._put_aside(size)

    def _kept(self) -> int:
        try:
            return self._reserve.stat().st_size
        except FileNotFoundError:
            return 0

    def _give_up(self) -> None:
        kept = self._kept()
        if kept > _LAST_BYTES:
            os.truncate(self._reserve, kept // 2)
        else:
            self._reserve.unlink(missing_ok=True)

    def _put_aside(self, size: int) -> None:
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                self._reserve.unlink(missing_ok=True)
            raise
