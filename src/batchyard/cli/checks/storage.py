"""Where the state lives: the directory, who may read it, its file system."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchyard.cli import daemon
from batchyard.cli.checks.finding import Finding, Place, note, ok, problem, root, size

FULL, NEARLY_FULL = 200 << 20, 2 << 30
FEW_INODES = 10_000
SLOW_S = 0.02
"""An fsync that takes longer makes every acknowledged change slow."""
_FSYNCS = 7
_SHARED = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "lustre", "ceph", "glusterfs", "fuse.glusterfs")
_PRIVATE = ("account.json", "batchyard.db", "batchyard.db-wal", "batchyard.db-shm", "server.lock")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What a directory lies on."""

    kind: str
    mount: str
    options: frozenset[str]


def file_system(path: Path, mounts: str) -> FileSystem:
    """The file system of a path, for a text like that of /proc/self/mounts; of mounts above each other the last."""
    best = FileSystem("unknown", "/", frozenset())
    for line in mounts.splitlines():
        _, where, kind, options = line.split(" ")[:4]
        where = where.replace("\\040", " ")
        if path.is_relative_to(where) and len(where) >= len(best.mount):
            best = FileSystem(kind, where, frozenset(options.split(",")))
    return best


def directory(place: Place) -> Iterator[Finding]:
    """Whether the server can write its state, others cannot read it, and tasks reach their files."""
    there = place.existing
    if not _writable(there):
        yield problem(
            "state directory", f"{there} cannot be written to by this user", "Choose another with --dir, or use the user that owns it."
        )
        return
    yield ok("state directory", f"{place.directory} is there" if there == place.directory else f"{place.directory} can be made")
    for name in _PRIVATE:
        with contextlib.suppress(OSError):
            path = place.directory / name
            if path.stat().st_mode & 0o077:
                yield problem("state directory", f"others may read {path}, which holds keys and jobs", f"chmod 600 {path}")
    if there == place.directory and there.stat().st_mode & 0o022:
        yield problem("state directory", f"others may change {there}", f"chmod go-w {there}")
    if root() and (closed := daemon.not_passable(there)):
        yield note(
            "state directory",
            f"tasks run as users of their own, and these may not enter {closed}",
            f"chmod o+x {closed}, or choose another --dir.",
        )


def _writable(there: Path) -> bool:
    """Try it: rights alone do not say what root may, nor what a file system takes."""
    try:
        with tempfile.TemporaryFile(dir=there, prefix=".doctor-"):
            return True
    except OSError:
        return False


def disk(place: Place) -> Iterator[Finding]:
    """Free space, free inodes, and what kind of file system it is."""
    there = place.existing
    yield _kind(file_system(there.resolve(), Path("/proc/self/mounts").read_text()))
    found = os.statvfs(there)
    yield space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    if found.f_files:  # some file systems make inodes as they need them
        yield inodes(found.f_favail, found.f_files)


def _kind(found: FileSystem) -> Finding:
    if found.kind in _SHARED:
        return problem(
            "disk",
            f"{found.mount} is a network file system ({found.kind}), on which the database is not safe",
            "Choose a --dir on a local disk; outputs may go elsewhere.",
        )
    if "ro" in found.options:
        return problem("disk", f"{found.mount} is mounted read-only", f"mount -o remount,rw {found.mount}, or choose another --dir.")
    if found.kind in ("tmpfs", "ramfs"):
        return note(
            "disk", f"{found.mount} is memory ({found.kind}): the state is lost when the machine restarts", "Choose a --dir on a disk."
        )
    if "noexec" in found.options:
        return note(
            "disk",
            f"{found.mount} is mounted noexec: tasks cannot run programs that they bring along",
            f"mount -o remount,exec {found.mount}",
        )
    if found.kind == "overlay":
        return note("disk", f"{found.mount} is a container's own layer: the state goes with the container", "Mount a volume for --dir.")
    return ok("disk", f"{found.mount} is {found.kind}")


def space(free: int, total: int) -> Finding:
    """The finding for so many bytes."""
    text = f"{size(free)} of {size(total)} are free"
    if free < FULL:
        return problem("disk", text, "Make room, or choose a --dir on another disk: writes are refused when nothing is left.")
    return note("disk", text, "Make room: tasks' files and the database need it.") if free < NEARLY_FULL else ok("disk", text)


def inodes(free: int, total: int) -> Finding:
    """The finding for so many inodes."""
    if free < FEW_INODES:
        return problem("disk", f"{free:,} of {total:,} inodes are free", "Remove small files: every task has a handful.")
    return ok("disk", f"{free:,} of {total:,} inodes are free")


def fsync(place: Place) -> Iterator[Finding]:
    """How long it takes until something is on the disk, which every acknowledged change waits for."""
    there = place.existing
    if not _writable(there):
        return  # `directory` says so
    yield fsync_of(_fsync_s(there))


def fsync_of(seconds: float) -> Finding:
    """The finding for an fsync of so many seconds."""
    text = f"an fsync takes {seconds * 1000:.2f} ms"
    if seconds > SLOW_S:
        return note(
            "fsync",
            f"{text}; every acknowledged change waits for one",
            "Use a disk with a write cache that keeps (SSD), or fewer, larger requests.",
        )
    return ok("fsync", text)


def _fsync_s(where: Path) -> float:
    """Median of some fsyncs after small writes, in seconds."""
    times = []
    with tempfile.TemporaryFile(dir=where, prefix=".doctor-") as file:
        for _ in range(_FSYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times)
