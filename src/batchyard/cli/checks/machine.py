"""The machine itself: Python, kernel, system, cores, memory, open files, container runtimes."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from batchyard.cli.checks import isolation
from batchyard.cli.checks.finding import Finding, Place, note, ok, problem, size

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 35, 0)  # RETURNING
FEW_FILES, FILES = 256, 4_096
"""Open files with which a server hardly works, and with which it serves some thousand waiting nodes and clients."""
LITTLE_MEMORY, MEMORY = 256 << 20, 1 << 30
_ANSWER_S = 5.0


def python(_: Place) -> Iterator[Finding]:
    """Version of Python, and of the SQLite that it brings."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield problem("python", f"Python {version} is too old", "Install Python 3.11 or newer and Batchyard with it.")
    else:
        yield ok("python", f"Python {version}")
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        yield problem("python", f"SQLite {sqlite3.sqlite_version} is too old", "Use a Python that is built with SQLite 3.35 or newer.")
    else:
        yield ok("python", f"SQLite {sqlite3.sqlite_version}")


def kernel(_: Place) -> Iterator[Finding]:
    """What the agent needs of the kernel, tried out."""
    name = f"{os.uname().sysname} {os.uname().release}"
    if reason := _pidfd():
        yield problem("kernel", f"{name} gives no handle on a process (pidfd_open: {reason})", "Use Linux 5.4 or newer.")
    elif reason := _spawn():
        yield problem("kernel", f"a process could not be started ({reason})", "Allow posix_spawn with setsid: look at seccomp filters.")
    else:
        yield ok("kernel", f"{name}: pidfd and posix_spawn with a session of its own work")
    yield _user_namespaces(Path("/proc/sys"))


def system(_: Place) -> Iterator[Finding]:
    """What tasks really run on; the names of images say nothing about it."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        yield note("system", "this machine does not say what it is (/etc/os-release)", "Its nodes are listed as plain Linux.")
    else:
        yield ok("system", f"{name}: tasks of nodes on this machine run on it, whatever image their pool names")


def _user_namespaces(settings: Path) -> Finding:
    """Whether ordinary users can have namespaces of their own, as rootless containers need."""
    try:
        most = int((settings / "user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        return note("kernel", "the kernel has no user namespaces; only rootless containers would need them")
    switch = settings / "kernel/unprivileged_userns_clone"
    if most == 0 or (switch.exists() and switch.read_text().strip() == "0"):
        return note(
            "kernel", "user namespaces are switched off; only rootless containers would need them", "sysctl user.max_user_namespaces=15000"
        )
    return ok("kernel", f"user namespaces are available ({most} at most)")


def _pidfd() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        return str(error)
    return ""


def _spawn() -> str:
    """Why a process cannot be started as the agent's spawner does it; empty when it can."""
    try:
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}, file_actions=actions, setsid=True)
        _, status = os.waitpid(pid, 0)
    except (OSError, NotImplementedError) as error:
        return str(error)
    return "" if status == 0 else f"status {status}"


def cores(_: Place) -> Iterator[Finding]:
    """Cores that nodes may use."""
    quota = isolation.held_to("cpu", "cpu.max", "cpu.cfs_quota_us")
    period = isolation.held_to("cpu", "cpu.max", "cpu.cfs_period_us").split()[-1:]
    yield cores_of(len(os.sched_getaffinity(0)), os.cpu_count() or 1, quota.split()[0] if quota else "", period[0] if period else "")


def cores_of(usable: int, there: int, quota: str, period: str) -> Finding:
    """The finding for so many cores, and so many microseconds in each period of microseconds; `max` and -1 are no quota."""
    if quota.isdigit() and period.isdigit() and int(quota) < usable * int(period):
        share = int(quota) / int(period)
        return note("cores", f"this process's cgroup gets {share:.1f} of {there} cores", "Raise its quota: cpu.max, CPUQuota=, --cpus.")
    if usable < there:
        return note(
            "cores", f"{usable} of {there} cores may be used by this process", "taskset or the container's cpuset keeps it from the rest."
        )
    return ok("cores", f"{usable} cores")


def memory(_: Place) -> Iterator[Finding]:
    """Memory, and what is left of it."""
    limit = isolation.held_to("memory", "memory.max", "memory.limit_in_bytes")
    yield memory_of(Path("/proc/meminfo").read_text(), int(limit) if limit.isdigit() else None)


def memory_of(meminfo: str, limit: int | None = None) -> Finding:
    """The finding for a text like that of /proc/meminfo, and the limit of the process's cgroup."""
    values = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in meminfo.splitlines()) if rest.strip()}
    total, available = values["MemTotal"], values.get("MemAvailable", values["MemFree"])
    text = f"{size(available)} of {size(total)} memory are available"
    if limit is not None and limit < total:
        text, available = f"{text}, and this process's cgroup gets {size(limit)}", min(available, limit)
    if available < LITTLE_MEMORY:
        return problem(
            "memory", text, "End what uses it, or use a larger machine: server and agent take some 50 MiB each, tasks come on top."
        )
    if available < MEMORY:
        return note("memory", text, "Few tasks will fit beside each other; use fewer nodes (--nodes) or task slots.")
    return ok("memory", text)


def open_files(_: Place) -> Iterator[Finding]:
    """Files that one process may have open: every waiting node and client is one."""
    yield open_files_of(*resource.getrlimit(resource.RLIMIT_NOFILE))


def open_files_of(soft: int, hard: int) -> Finding:
    """The finding for these limits."""
    if soft == resource.RLIM_INFINITY or soft >= FILES:
        return ok("open files", f"a process may have {'any number of' if soft == resource.RLIM_INFINITY else soft} files open")
    room = hard == resource.RLIM_INFINITY or hard > soft
    mend = (
        f"ulimit -n {65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)}"
        if room
        else "Raise the hard limit (limits.conf, LimitNOFILE=)."
    )
    text = f"a process may have only {soft} files open; every waiting node and client is one"
    return problem("open files", text, mend) if soft < FEW_FILES else note("open files", text, mend)


def containers(_: Place) -> Iterator[Finding]:
    """Container runtimes that are here, and whether they work."""
    here = [name for name in ("podman", "docker") if shutil.which(name)]
    if not here:
        yield note("containers", "neither podman nor docker is installed; tasks in containers are not served yet, so nothing is missing")
    for name in here:
        reason = runtime_fails(name)
        text = f"{name} is installed but does not work ({reason})" if reason else f"{name} works"
        yield note("containers", f"{text}; tasks in containers are not served yet")


def runtime_fails(program: str) -> str:
    """Why a runtime does not answer; empty when it does."""
    try:
        done = subprocess.run([program, "info"], capture_output=True, text=True, timeout=_ANSWER_S, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {_ANSWER_S:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # docker says 0 although it did not reach its daemon
    errors = [line for line in lines if line.lower().startswith(("error", "cannot connect"))]
    if done.returncode or errors:
        return (errors or lines or [f"exit code {done.returncode}"])[-1].rstrip(".")
    return ""
