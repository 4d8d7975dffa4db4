"""Podman as the engine of one node: its configuration, and the commands that it is asked by.

A container's processes stay in the group of processes that podman was started in (`--cgroups=disabled`): so they are held to what
plain tasks are held to, and end with their task, whoever ends it, podman's own helpers with them. Each command has a mount
namespace of its own, so that what it mounted is gone with its last process. Images and containers are the node's own.
"""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass

from batchyard.agent.places.layout import Layout

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUNTIMES = ("crun", "runc")
"""What starts a container's first process, the better one first: crun makes no cgroups of its own when it is told so."""
_MOST_PROCESSES = 32_768
"""Podman lowers its own limit to this many, and cannot raise it again for the container."""
_HYBRID = "/sys/fs/cgroup/unified"
_RUNC = """#!/bin/sh
# Podman says so to crun; runc does not know the word, and makes its cgroups below those of its caller.
if [ "$1" = --cgroup-manager ]; then
    shift 2
fi
exec {runc} "$@"
"""
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "here"
runtime_supports_nocgroup = ["here"]
static_dir = "{home}/graph/libpod"
tmp_dir = "{run}/libpod"

[engine.runtimes]
here = ["{runtime}"]
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
        for path in (self.home, f"{self.home}/tmp", f"{self.home}/files", self.run):
            os.makedirs(path, mode=0o700, exist_ok=True)
        os.makedirs(f"{self.home}/empty", mode=0o755, exist_ok=True)
        if os.path.basename(runtime) == "runc":
            wrapper = f"{self.home}/runc"
            _write(wrapper, _RUNC.format(runc=runtime), 0o700)
            runtime = wrapper
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        processes = _MOST_PROCESSES if processes == resource.RLIM_INFINITY else min(processes, _MOST_PROCESSES)
        words = {"files": files, "processes": processes, "home": self.home, "run": self.run, "runtime": runtime}
        _write(f"{self.home}/containers.conf", _CONTAINERS.format(**words), 0o600)
        _write(f"{self.home}/storage.conf", _STORAGE.format(driver="overlay", **words), 0o600)


def find(layout: Layout) -> Podman | None:
    """Podman of this machine for a node; None where it has none."""
    program, unshare = shutil.which("podman", path=_PATH), shutil.which("unshare", path=_PATH)
    if program is None or unshare is None:
        return None
    root = os.geteuid() == 0
    # its sockets are below, whose paths have at most 107 characters
    run = f"/run/batchyard-{layout.tag}" if root else f"/tmp/batchyard-{os.geteuid()}-{layout.tag}"
    return Podman(f"{layout.volatile}/containers", run, program, unshare, root)


def _write(path: str, text: str, mode: int) -> None:
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(new, path)
