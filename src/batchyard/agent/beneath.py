"""Opening files below a directory without ever leaving it, whatever links others plant meanwhile.

Every step is an `openat` that refuses links. Names come from clients and from tasks: neither is trusted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Outside(Exception):
    """The path would leave its directory."""


def parts(path: str) -> list[str]:
    """Components of a relative path, `.` and double slashes left out. Raises Outside for `..`, absolute paths and NUL."""
    if path.startswith("/") or "\0" in path:
        raise Outside(path)
    found = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in found:
        raise Outside(path)
    return found


@contextlib.contextmanager
def directory(base: str, names: list[str], owner: tuple[int, int] | None = None, mode: int = 0o770) -> Iterator[int]:
    """Descriptor of a directory below base. Raises OSError; a link on the way is ELOOP or ENOTDIR.

    With `owner` missing directories are made and given to that user and group (-1: left to the caller's).
    """
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if owner is not None:
                _make(name, fd, owner, mode)
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _make(name: str, fd: int, owner: tuple[int, int], mode: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=fd)
        if owner[0] >= 0:
            os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)


def resolve(base: str, path: str) -> list[str]:
    """Components of what a path below base stands for once links are followed. Raises Outside when that is elsewhere."""
    top = os.path.realpath(base)
    real = os.path.realpath(os.path.join(top, *parts(path)))
    if real == top:
        return []
    if not real.startswith(top.rstrip("/") + "/"):
        raise Outside(path)
    return parts(real[len(top.rstrip("/")) + 1 :])


def open_file(base: str, path: str) -> int:
    """Descriptor for reading a regular file below base; links that stay below are followed. Raises Outside or OSError."""
    names = resolve(base, path)
    if not names:
        raise IsADirectoryError(path)
    with directory(os.path.realpath(base), names[:-1]) as fd:
        return os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fd)
