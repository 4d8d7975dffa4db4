"""Groups of processes as cgroups, of the second version or the freezer of the first.

Standard library only and light on imports, like `control`, which says what a group has to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchyard.agent.process.control import Group

PREFIX = "batchyard-"
"""How the groups of this program are named."""
_FREEZE_S = 0.05
_EMPTY = b"populated 0\nfrozen 0\n"
_MOST_LASTING = 64
"""Groups that later attempts get too; each holds two descriptors."""


def write(path: str, data: bytes) -> None:
    """Write to a control file. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


class _CgroupGroup:
    """Made by the caller, who stands in it from then on. Raises OSError, and is not there then."""

    def __init__(self, path: str, end: Callable[[str], None]) -> None:
        self.path, self._end = path, end
        os.mkdir(path)
        try:
            write(path + "/cgroup.procs", b"0")
        except OSError:
            os.rmdir(path)
            raise

    def kill(self, main: int | None) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._end(self.path)

    def gone(self) -> bool:
        return remove(self.path)


class _LastingGroup(_CgroupGroup):
    """A group that is spare when it is empty again, its files open: to make and remove one costs four times as much."""

    def __init__(self, path: str, end: Callable[[str], None], spare: list[_LastingGroup], lasting: set[str]) -> None:
        super().__init__(path, end)
        self._spare, self._lasting = spare, lasting
        self.tame = False
        self._files: list[int] = []
        with contextlib.suppress(OSError):  # then it is removed like any other
            for name, flags in (("cgroup.procs", os.O_WRONLY), ("cgroup.events", os.O_RDONLY)):
                self._files.append(os.open(f"{path}/{name}", flags | os.O_CLOEXEC))
        lasting.add(path)

    def enter(self) -> None:
        """Have the caller stand in it once more. Raises OSError."""
        os.write(self._files[0], b"0")

    def gone(self) -> bool:
        state = self._state() if self.tame else b""
        if state == _EMPTY:
            self._spare.append(self)
            return True
        if state.startswith(b"populated 1") or not super().gone():
            return False
        self.close()
        return True

    def _state(self) -> bytes:
        try:
            return os.pread(self._files[1], 100, 0)
        except (OSError, IndexError):
            return b""

    def close(self) -> None:
        """It is there no more."""
        self._lasting.discard(self.path)
        for fd in self._files:
            os.close(fd)


def _each(paths: list[str]) -> bool:
    removed = [remove(path) for path in paths]
    return all(removed)


def remove(path: str) -> bool:
    """Remove an empty cgroup and those below it; False when a process is left."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        below = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        return bool(below) and _each(below) and remove(path)
    return True


class Cgroups:
    """What both generations of cgroups share; `base` holds one directory per attempt."""

    name = ""

    def __init__(self, base: str, home: str) -> None:
        self.base, self.home = base, home
        self._home_fd = -1
        self._made = 0
        self._next: _CgroupGroup | None = None
        """The empty group that the caller stands in."""

    def take(self, mark: str, *, tame: bool = False) -> Group:
        group, self._next = self._next or self._new(), None
        return group

    def inside(self, host: Group, key: int) -> Group:
        return _CgroupGroup(f"{host.path}/inside-{key}", self.end)  # type: ignore[attr-defined]

    def back(self) -> None:
        if self._next is not None:
            write(self._next.path + "/cgroup.procs", b"0")
        elif self._home_fd >= 0:
            os.write(self._home_fd, b"0")

    def advance(self) -> None:
        try:
            self._next = self._new()
        except OSError:
            self.leave()  # the next attempt tries again, and tells why it fails

    def leave(self) -> None:
        if self._home_fd >= 0:
            os.write(self._home_fd, b"0")
        if self._next is not None:
            self._next.gone()
            self._next = None

    def _new(self) -> _CgroupGroup:
        if self._home_fd < 0:
            os.makedirs(self.base, exist_ok=True)
            self._home_fd = os.open(self.home + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._made += 1
        return self._make(f"{self.base}/{self._made}")

    def _make(self, path: str) -> _CgroupGroup:
        return _CgroupGroup(path, self.end)

    def sweep(self) -> None:
        deadline = time.monotonic() + 5
        while os.path.isdir(self.base):
            self.end(self.base)
            if remove(self.base) or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        above = os.path.dirname(self.base)
        if os.path.basename(above).startswith(PREFIX):
            with contextlib.suppress(OSError):
                os.rmdir(above)  # it stays while another spawner of the node uses it

    def end(self, path: str) -> None:
        """Kill every process in and below a cgroup. Raises OSError."""
        raise NotImplementedError


class Cgroup2(Cgroups):
    """`cgroup.kill`: one write, atomic against forks; works in a hybrid mount without any controller."""

    name = "cgroup2"

    def __init__(self, base: str, home: str) -> None:
        super().__init__(base, home)
        self._spare: list[_LastingGroup] = []
        self._lasting: set[str] = set()

    def take(self, mark: str, *, tame: bool = False) -> Group:
        group = super().take(mark)
        if isinstance(group, _LastingGroup):
            group.tame = tame
        return group

    def _new(self) -> _CgroupGroup:
        while self._spare:
            group = self._spare.pop()
            try:
                group.enter()
            except OSError:  # somebody removed it
                group.close()
            else:
                return group
        return super()._new()

    def _make(self, path: str) -> _CgroupGroup:
        if os.geteuid() != 0 or len(self._lasting) >= _MOST_LASTING:  # without root every attempt may write to its group
            return super()._make(path)
        return _LastingGroup(path, self.end, self._spare, self._lasting)

    def end(self, path: str) -> None:
        write(path + "/cgroup.kill", b"1")


class Freezer(Cgroups):
    """The v1 freezer: what is frozen cannot fork, so a list of it is complete."""

    name = "freezer"

    def end(self, path: str) -> None:
        write(path + "/freezer.state", b"FROZEN")
        try:
            deadline = time.monotonic() + _FREEZE_S
            while read(path + "/freezer.state").strip() != b"FROZEN" and time.monotonic() < deadline:
                time.sleep(0.0005)
            for directory, _, _ in os.walk(path):
                for pid in read(directory + "/cgroup.procs").split():
                    send(int(pid), signal.SIGKILL)
        finally:
            write(path + "/freezer.state", b"THAWED")


def read(path: str) -> bytes:
    """Content of a control file or one of /proc. Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
