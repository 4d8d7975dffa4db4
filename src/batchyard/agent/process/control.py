"""How all that an attempt started is found and ended: cgroup v2, else the v1 freezer, else a walk of /proc.

Standard library only and light on imports, because the spawner is made of this and has to stay small.
Every attempt has a group. Invariant: `gone` answers True only when no process of the group is left.

The first move of a process between cgroups after a pause waits some 10 ms for the kernel. So the one who starts
processes always stands in the group of the next attempt already, and moves on after each start, not before it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from batchyard.agent.process.cgroups import PREFIX, Cgroup2, Cgroups, Freezer, read, remove, send, write

MARK = "AZ_BATCH_TASK_DIR"
"""Variable that tells an orphan's attempt when there are no cgroups; one directory never has two attempts at once."""


class Group(Protocol):
    """All processes of one attempt."""

    def kill(self, main: int | None) -> None:
        """Kill every process; may be repeated. `main` is the first process unless it was already waited for."""

    def gone(self) -> bool:
        """True when no process is left; forgets the group then."""


class Control(Protocol):
    """A way of ending everything."""

    name: str

    def take(self, mark: str, *, tame: bool = False) -> Group:
        """Empty group that holds what the caller spawns until it advances; nobody may kill it before. Raises OSError.

        `mark` is the value of MARK in the attempt's environment; `tame` says that what is spawned may not write to the group's
        files, so that a later attempt may have it too.
        """

    def inside(self, host: Group, key: int) -> Group:
        """A group within that of an attempt, which ends with it and can be ended alone; as with `take`, but for `back`. Raises OSError."""

    def back(self) -> None:
        """Move the caller from a group that is inside of another to where it was before. Raises OSError."""

    def advance(self) -> None:
        """Move the caller out of the group that was taken, to where the next one will be. Raises OSError."""

    def leave(self) -> None:
        """Move the caller back to where it came from. Raises OSError."""

    def sweep(self) -> None:
        """Kill what an earlier life left behind and forget it."""


class Session:
    """Without cgroups: orphans become children of the spawner (a subreaper) and tell their attempt by session or environment.

    A process that leaves its session, loses its parent and changes its environment is not found.
    """

    name = "session"

    def __init__(self) -> None:
        self.groups: set[_SessionGroup] = set()
        self._children = f"/proc/self/task/{os.getpid()}/children"

    def take(self, mark: str, *, tame: bool = False) -> _SessionGroup:
        group = _SessionGroup(self, mark)
        self.groups.add(group)
        return group

    def inside(self, host: Group, key: int) -> _SessionGroup:
        """What is found by its session alone: the mark of its environment is its host's, who finds it by that."""
        return self.take(f"inside {key}")

    def back(self) -> None:
        """Nothing to do."""

    def advance(self) -> None:
        """Nothing to do: the session is the group."""

    def leave(self) -> None:
        """Nothing to do."""

    def sweep(self) -> None:
        """Nothing is written down, so nothing is known; the spawner of the earlier life ends its own."""

    def strangers(self) -> bool:
        """True when the caller has children beyond the first processes of the groups: orphans that it inherited."""
        mains = {group.main for group in self.groups}
        try:
            children = read(self._children).split()
        except FileNotFoundError:
            return any(parent == os.getpid() and pid not in mains for pid, (parent, _) in processes().items())
        return any(int(pid) not in mains for pid in children)


class _SessionGroup:
    def __init__(self, control: Session, mark: str) -> None:
        self._control = control
        self._mark = f"{MARK}={mark}".encode()
        self.main: int | None = None
        self.session: int | None = None

    def started(self, main: int) -> None:
        """Note the first process, which leads the session."""
        self.main = self.session = main

    def stays(self) -> None:
        """The first process was waited for, so another one may get its number and session: what is left is found by its mark alone."""
        self.main = self.session = None

    def kill(self, main: int | None) -> None:
        self.main = main
        stopped: set[int] = set()
        while found := self._members() - stopped:
            for pid in found:
                send(pid, signal.SIGSTOP)
            stopped |= found
        for pid in stopped:
            send(pid, signal.SIGKILL)

    def gone(self) -> bool:
        self.main = None
        if self._control.strangers() and any(self._members() for _ in range(2)):  # one walk may miss who loses its parent meanwhile
            return False
        self._control.groups.discard(self)
        return True

    def _members(self) -> set[int]:
        table = processes()
        below: dict[int, list[int]] = {}
        for pid, (parent, _) in table.items():
            below.setdefault(parent, []).append(pid)
        todo = [pid for pid in below.get(os.getpid(), []) if pid == self.main or self._is_ours(pid, table[pid][1])]
        todo += [pid for pid, (_, session) in table.items() if self.session is not None and session == self.session]
        members: set[int] = set()
        while todo:
            pid = todo.pop()
            if pid not in members:
                members.add(pid)
                todo += below.get(pid, [])
        return members

    def _is_ours(self, pid: int, session: int) -> bool:
        return session == self.session or self._mark in _environment(pid)


def hunt(variables: Collection[str]) -> None:
    """Kill every process that has one of these `NAME=value` in its environment, the caller excepted."""
    wanted = {variable.encode() for variable in variables}
    for _ in range(20):
        found = [pid for pid in processes() if pid != os.getpid() and not wanted.isdisjoint(_environment(pid))]
        for pid in found:
            send(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.005)


def _environment(pid: int) -> list[bytes]:
    try:
        return read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return []


def processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is not a zombie."""
    return dict(_walk())


def _walk() -> Iterator[tuple[int, tuple[int, int]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in b"ZX":
                yield int(name), (int(fields[1]), int(fields[3]))


def enter(groups: Sequence[str]) -> None:
    """Stand in these v1 groups from now on, with all that is started later. Raises OSError."""
    for group in groups:
        write(group + "/cgroup.procs", b"0")


def leave(groups: Sequence[str]) -> None:
    """Move back to where these groups are; the last one to leave removes them."""
    for group in groups:
        with contextlib.suppress(OSError):
            write(os.path.dirname(group) + "/cgroup.procs", b"0")
        with contextlib.suppress(OSError):
            os.rmdir(group)


def make(name: str, base: str, home: str) -> Control:
    """The control of that name; `base` and `home` matter to cgroups only."""
    if name == Cgroup2.name:
        return Cgroup2(base, home)
    if name == Freezer.name:
        return Freezer(base, home)
    return Session()


def probe(tag: str, only: str = "") -> tuple[str, str, str]:
    """Best control that works here as (name, base, home); `only` restricts the choice to one name.

    `tag` names the sub-tree and is the same in every life of one node: what an earlier life left in it is killed.
    """
    for kind in (Cgroup2, Freezer):
        if only in ("", kind.name):
            for home in places(kind.name):
                base = f"{home}/{PREFIX}{tag}"
                if works(kind, base, home):
                    return kind.name, base, home
    return Session.name, "", ""


def works(kind: type[Cgroups], base: str, home: str) -> bool:
    """Try a way of ending everything: make a group, go in and out, remove it."""
    control = kind(base, home)
    try:
        control.sweep()
        try:
            group = control.take("")
        finally:
            control.leave()
        group.kill(None)
        return group.gone() and remove(base)
    except OSError:
        return False


def places(name: str) -> Iterator[str]:
    """The caller's own cgroup in every mount of the hierarchy: `cgroup2`, or a controller of v1."""
    own: dict[str, str] = {}
    for line in read("/proc/self/cgroup").decode().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    for mount in mounts(name):
        path = own.get("", "") if name == Cgroup2.name else next((path for names, path in own.items() if name in names.split(",")), "")
        home = mount + path.rstrip("/")
        yield home if os.path.exists(home + "/cgroup.procs") else mount


def mounts(name: str) -> Iterator[str]:
    """Where the hierarchy is mounted: `cgroup2`, or a controller of v1."""
    for line in read("/proc/self/mounts").decode().splitlines():
        _, mount, kind, options = line.split(" ")[:4]
        if kind == "cgroup2" if name == Cgroup2.name else kind == "cgroup" and name in options.split(","):
            yield mount
