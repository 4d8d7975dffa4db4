"""Opening files below a directory without ever leaving it, whatever links others plant meanwhile.

A directory is opened once; what lies below is reached from that descriptor and never by path again. Names come from
clients and from tasks: neither is trusted. Paths of the node itself, whose parents only root can change, are `trusted`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""How files of others are opened for reading: no pipe or terminal may hold the reader up."""
_LINKS, _STEPS = 40, 4_096
"""Links and names on the way to one file, as many as Linux itself follows."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437
_NO_MAGIC, _NO_LINKS, _BENEATH = 0x02, 0x04, 0x08
_KERNEL, _EMPTY_PATH = (0x9FA0, 0x6265_6572), 0x1000
_PERHAPS_BY_STEPS = (errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.ENAMETOOLONG, errno.E2BIG)
"""The kernel is too old, a filter of system calls forbids it, somebody renames all the time, or the path is longer than paths are."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


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
def trusted(path: str) -> Iterator[int]:
    """Descriptor of a directory of the node itself; links on the way are the operator's. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def directory(base: str | int, names: Sequence[str] = (), make: int | None = None) -> Iterator[int]:
    """Descriptor of a directory below base; neither base nor what is below may be a link (ELOOP or ENOTDIR). Raises OSError.

    With `make` missing directories are made with these permissions; the descriptor is then for finding names only.
    """
    fd = base_fd = os.open(base, _DIRECTORY) if isinstance(base, str) else base
    try:
        fd = open_below(base_fd, names, _DIRECTORY) if make is None else _made(base_fd, names, make)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        if base_fd != base:
            os.close(base_fd)


def _made(base: int, names: Sequence[str], mode: int) -> int:
    fd = os.open(".", _PASS, dir_fd=base)
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=fd)
            below = os.open(name, _PASS, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_below(base: int, names: Sequence[str], flags: int) -> int:
    """Descriptor of what lies below a directory, with no link on the way or at the end. Raises OSError, for a link ELOOP or ENOTDIR."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if len(names) > 1:
        path = os.fsencode("/".join(names))
        how = _How(flags, 0, _BENEATH | _NO_LINKS | _NO_MAGIC)
        found = int(_LIBC.syscall(_OPENAT2, base, path, ctypes.byref(how), ctypes.sizeof(how)))
        if found >= 0:
            return found
        code = ctypes.get_errno()
        if code not in _PERHAPS_BY_STEPS:
            raise OSError(code, os.strerror(code), os.fsdecode(path))
    return by_steps(base, names, flags)


def by_steps(base: int, names: Sequence[str], flags: int) -> int:
    """The same as `open_below`, one component after the other, for kernels without openat2."""
    if not names:
        return os.open(".", flags, dir_fd=base)
    fd = os.open(".", _PASS, dir_fd=base)
    try:
        for name in names[:-1]:
            below = os.open(name, _PASS, dir_fd=fd)
            os.close(fd)
            fd = below
        return os.open(names[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def chased(top: int, path: str, known_as: Sequence[str] | None = None) -> Iterator[tuple[int, str]]:
    """What a path below `top` stands for once links are followed: the directory that holds it, and its name, `.` for that directory.

    The name is no link when it is found; open it with O_NOFOLLOW. `known_as` are the paths of `top`, which absolute links
    may begin with; None says that top is the root of all. Raises OSError, and Outside for what leaves top.
    """
    straight = _straight(top, path)
    if straight is not None:
        try:
            yield straight, "."
        finally:
            os.close(straight)
        return
    chase = _Chase(top, path, known_as)
    try:
        yield chase.end()
    finally:
        os.close(chase.fd)


def _straight(top: int, path: str) -> int | None:
    """A directory that no link is on the way to, which is most often so and found at once; else None."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names or "\0" in path:
        return None
    try:
        return open_below(top, names, _PASS)
    except OSError:
        return None


class _Chase:
    """Follows links by reading them, so that none is ever followed by the kernel, not even those of /proc."""

    def __init__(self, top: int, path: str, known_as: Sequence[str] | None) -> None:
        if "\0" in path:
            raise Outside(path)
        self._top, self._path, self._known_as = top, path, known_as
        self._done: list[str] = []
        self._todo = path.split("/")[::-1]
        self._links = 0
        self.fd = open_below(top, (), _PASS)

    def end(self) -> tuple[int, str]:
        """The directory and the name. Raises OSError or Outside."""
        for _ in range(_STEPS):
            if not self._todo:
                return self.fd, "."
            name = self._todo.pop()
            if name == "..":
                self._up()
            elif name not in ("", ".") and not self._down(name):
                return self.fd, name
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)

    def _down(self, name: str) -> bool:
        """Enter a directory or take a link's text for its name; False at the end of the way."""
        try:
            below = os.open(name, _PASS, dir_fd=self.fd)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return self._link(name)
        self._done.append(name)
        self._move(below)
        return True

    def _link(self, name: str) -> bool:
        try:
            text = os.readlink(name, dir_fd=self.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            if any(rest not in ("", ".") for rest in self._todo):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path) from None
            return False
        self._links += 1
        if self._links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        self._todo += (text if not text.startswith("/") else self._from_top(text)).split("/")[::-1]
        return True

    def _from_top(self, text: str) -> str:
        """An absolute link's text below top, where the way goes on."""
        for known in ("",) if self._known_as is None else self._known_as:
            if text == known or text.startswith(known + "/"):
                self._done.clear()
                self._move(open_below(self._top, (), _PASS))
                return text[len(known) :]
        raise Outside(self._path)

    def _up(self) -> None:
        if self._done:
            self._done.pop()
            self._move(open_below(self._top, self._done, _PASS))
        elif self._known_as is not None:
            raise Outside(self._path)

    def _move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def give(fd: int, uid: int, gid: int) -> None:
    """Change the owner of what a descriptor stands for, which may be of O_PATH, a link's for instance. Raises OSError."""
    if _LIBC.fchownat(fd, b"", uid, gid, _EMPTY_PATH) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def of_the_kernel(fd: int) -> bool:
    """True for what lies in /proc or /sys, where files say other things to root's threads than to the user they act for."""
    seen = (ctypes.c_uint32 * 64)()
    return _LIBC.fstatfs(fd, ctypes.byref(seen)) != 0 or seen[0] in _KERNEL


def shown(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 are replaced."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
