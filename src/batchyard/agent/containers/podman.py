"""Podman as the engine of one node: its configuration, and the commands that it is asked by.

A container's processes stay in the group of processes that podman was started in (`--cgroups=disabled`): so they are held to what
plain tasks are held to, and end with their task, whoever ends it, podman's own helpers with them. Each command has a mount
namespace of its own, so that what it mounted is gone with its last process. Images and containers are the node's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import stat
from dataclasses import dataclass

from batchyard.agent.places.layout import Layout

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUNTIMES = ("crun", "runc")
"""What starts a container's first process, the better one first: crun makes no cgroups of its own when it is told so."""
_MOST_PROCESSES = 32_768
"""Podman lowers its own limit to this many, and cannot raise it again for the container."""
_LIMITS = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
_HYBRID = "/sys/fs/cgroup/unified"
_RUNC = """#!/bin/sh
# Podman says so to crun; runc does not know the word, and makes its cgroups below those of its caller.
if [ "$1" = --cgroup-manager ]; then
    shift 2
fi
exec {runc} "$@"
"""
_HELD = """#!/bin/sh
# Root without root's way past permissions: it enters a working directory, and makes mount points, as others may.
# It needs to write into the image's root directory, which podman makes unwritable.
for word in "$@"; do
    if [ "$before" = --bundle ]; then
        root=$(sed -n 's/.*"root":{{"path":"\\([^"]*\\)".*/\\1/p' "$word/config.json")
        chmod u+w "$root" || exit
    fi
    before=$word
done
exec {setpriv} --bounding-set=-dac_override,-dac_read_search {runtime} "$@"
"""
HELD = "held"
"""The runtime of containers whose task has no elevation."""
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "here"
runtime_supports_nocgroup = ["here", "held"]
static_dir = "{home}/graph/libpod"
tmp_dir = "{run}/libpod"

[engine.runtimes]
here = ["{runtime}"]
held = ["{home}/held"]
"""
_STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{home}/graph"
runroot = "{run}"
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """The engine of a node; `home` is the node's own directory for it, `run` one that a reboot may empty."""

    home: str
    run: str
    program: str
    unshare: str
    setpriv: str
    root: bool

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: nothing of a task's, which could tell an engine that runs as root what to load."""
        return {
            "PATH": _PATH,
            "HOME": self.home,
            "TMPDIR": f"{self.home}/tmp",
            "LANG": "C.UTF-8",
            "CONTAINERS_CONF": f"{self.home}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.home}/storage.conf",
            "XDG_RUNTIME_DIR": self.run,
        }

    def command(self, *words: str) -> list[str]:
        """A command of podman's as the words of a program."""
        if not self.root:
            return [self.program, *words]
        if not os.path.ismount(_HYBRID):
            return [self.unshare, "--mount", self.program, *words]
        # crun does not start, and runc leaves the task's group, where the second version is mounted among those of the first
        return [self.unshare, "--mount", "/bin/sh", "-c", f'umount {_HYBRID} && exec "$@"', "sh", self.program, *words]

    def runtimes(self) -> list[str]:
        """Paths of what the machine has to start a container's first process with."""
        return [found for name in _RUNTIMES if (found := shutil.which(name, path=_PATH))]

    def configure(self, runtime: str) -> None:
        """Write the configuration that every command is given. Raises OSError."""
        for path in (self.home, f"{self.home}/tmp", f"{self.home}/files"):
            os.makedirs(path, mode=0o700, exist_ok=True)
        _make_own(self.run)
        os.makedirs(f"{self.home}/empty", mode=0o755, exist_ok=True)
        if os.path.basename(runtime) == "runc":
            wrapper = f"{self.home}/runc"
            _write(wrapper, _RUNC.format(runc=runtime), 0o700)
            runtime = wrapper
        _write(f"{self.home}/{HELD}", _HELD.format(setpriv=self.setpriv, runtime=runtime), 0o700)
        hard = limits()
        words = {"files": hard["nofile"], "processes": hard["nproc"], "home": self.home, "run": self.run, "runtime": runtime}
        _write(f"{self.home}/containers.conf", _CONTAINERS.format(**words), 0o600)
        _write(f"{self.home}/storage.conf", _STORAGE.format(driver="overlay", **words), 0o600)


def find(layout: Layout) -> Podman | None:
    """Podman of this machine for a node; None where it has none."""
    program, unshare, setpriv = (shutil.which(name, path=_PATH) for name in ("podman", "unshare", "setpriv"))
    if program is None or unshare is None or setpriv is None:
        return None
    root = os.geteuid() == 0
    # its sockets are below, whose paths have at most 107 characters
    run = f"/run/batchyard-{layout.tag}" if root else f"/tmp/batchyard-{os.geteuid()}-{layout.tag}"
    return Podman(f"{layout.volatile}/containers", run, program, unshare, setpriv, root)


def limits() -> dict[str, int]:
    """The highest limits that a container can be given, by the names that `--ulimit` has; -1 for none."""
    found = {name: resource.getrlimit(number)[1] for name, number in _LIMITS.items()}
    processes = found["nproc"]
    return found | {"nproc": _MOST_PROCESSES if processes == resource.RLIM_INFINITY else min(processes, _MOST_PROCESSES)}


def _make_own(path: str) -> None:
    """Make a directory below one that everybody may write to. Raises OSError when somebody else has made it, or may enter it."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    seen = os.lstat(path)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise FileExistsError(errno.EEXIST, "somebody else's, or open to others", path)


def _write(path: str, text: str, mode: int) -> None:
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(new, path)
