"""Processes of this machine by pid and start time, so that a recycled pid is never taken for the process that had it before."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def end(pid: int, started: int, patience_s: float) -> bool:
    """SIGTERM, after `patience_s` seconds SIGKILL; returns when it is gone: True when it went by itself. Raises PermissionError."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if start_time(pid) != started:  # checked with the pidfd in hand: from here on it names this process or none
            return True
        for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
            if select.select([fd], [], [], seconds)[0]:
                return number == signal.SIGTERM
    finally:
        os.close(fd)
    return False


def agents_below(directory: Path) -> Iterator[tuple[int, int]]:
    """Pid and start time of every agent whose node lives below `directory`."""
    prefix = f"{directory}{os.sep}"
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        except OSError:
            continue
        roots = [after for word, after in pairwise(words) if word == "--root"]
        if "batchyard.agent.main" in words and any(root.startswith(prefix) for root in roots):
            pid = int(entry.name)
            found[pid] = _parent(pid), start_time(pid)
    for pid, (parent, started) in found.items():
        # What an agent starts has its words until it runs its own program.
        if started is not None and parent not in found:
            yield pid, started


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
