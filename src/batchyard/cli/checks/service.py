"""The running server, its port, its agents, and the clock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from batchyard.cli import counts, daemon, processes
from batchyard.cli.checks.finding import Finding, Place, note, ok, problem
from batchyard.cli.problem import Problem

SKEW_S, REFUSED_S = 5.0, 900.0
"""A difference of clocks that is worth a word, and one at which signatures are refused."""
SLOW_S = 1.0
_UNSYNCHRONISED, _STATUS_UNSYNCHRONISED = 5, 0x40
_DAEMONS = ("chronyd", "ntpd", "ntpsec", "systemd-timesyn", "openntpd", "ptp4l")


def server(place: Place) -> Iterator[Finding]:
    """Whether the server of the directory runs and answers, and agents that have lost theirs."""
    running = daemon.running(place.directory)
    if running is None:
        left = len(list(processes.agents_below(place.directory)))
        if left:
            yield note("server", f"{left} agents run without their server", f"batchyard down --dir {place.directory}")
        yield note("server", f"no server of {place.directory} is running", f"batchyard up --dir {place.directory}")
        return
    try:
        account = daemon.account(place.directory)
    except Problem as refused:
        yield note("server", f"the server at {running.url} runs, but {refused}", "Run the doctor as the user that owns the directory.")
        return
    start = time.perf_counter()
    daemon.trust(place.directory, running)
    held = counts.summary(running.url, account.name, account.keys[0])
    seconds = time.perf_counter() - start
    if held is None:
        yield problem(
            "server",
            f"the server at {running.url} (process {running.pid}) does not answer",
            f"See {place.directory / 'server.log'}; batchyard down ends it.",
        )
    else:
        text = f"the server at {running.url} answered in {seconds * 1000:.0f} ms: " + ", ".join(f"{n} {what}" for what, n in held.items())
        yield note("server", text, "It is busy: see `batchyard top`.") if seconds > SLOW_S else ok("server", text)


def port(place: Place) -> Iterator[Finding]:
    """Whether the server can listen, or does."""
    running = daemon.running(place.directory)
    if running is not None and (urlsplit(running.url).port == place.port or not place.port):
        yield ok("port", f"port {urlsplit(running.url).port} is this server's (process {running.pid})")
        return
    try:
        daemon.check_port(place.host, place.port)
    except Problem as taken:
        owner = listener(place.port)
        found = str(taken).partition(";")[0] + (f" by {owner}" if owner else "")
        mend = "Choose another with --port, or --port 0 for a free one."
        yield note("port", found, mend) if running is not None else problem("port", found, mend)
    else:
        yield ok("port", f"port {place.port} of {place.host} is free" if place.port else f"{place.host} can be listened on")


def listener(number: int) -> str:
    """Name and pid of the process that listens on a port, empty when it cannot be seen."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(Path(f"/proc/net/{table}"), number)}
    for entry in Path("/proc").iterdir() if inodes else ():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and any(os.readlink(fd) in inodes for fd in (entry / "fd").iterdir()):
                return f"{(entry / 'comm').read_text().strip()} (process {entry.name})"
    return ""


def _listening(table: Path, number: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == number:
                yield fields[9]


def clock(place: Place) -> Iterator[Finding]:
    """Whether the clock is kept right, and agrees with the server's."""
    state = kernel_clock()
    keepers = sorted({name for name in _names() if name in _DAEMONS})
    kept = f" ({', '.join(keepers)} runs)" if keepers else ""
    if state:
        yield ok("clock", f"the kernel's clock is synchronised{kept}")
    elif state is None:
        yield note("clock", f"whether the clock is synchronised cannot be seen{kept}", "Look at `timedatectl` on the host.")
    else:
        yield note(
            "clock",
            f"the kernel's clock is not synchronised{kept}: clients whose clock is more than 15 minutes off are refused",
            "Install chrony, or `timedatectl set-ntp true`; in a guest the host may keep the clock.",
        )
    running = daemon.running(place.directory)
    if running is not None and (skew := _skew(running.url)) is not None:
        yield skew_of(skew)


def skew_of(seconds: float) -> Finding:
    """The finding for a server's clock that is so far ahead."""
    if abs(seconds) < SKEW_S:
        return ok("clock", "the server's clock agrees with this one")
    text = f"the server's clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) >= REFUSED_S:
        return problem(
            "clock", f"{text}: it refuses what is signed here", "Set both clocks by NTP; a server with --test-clock may have been moved."
        )
    return note("clock", text, "Set both clocks by NTP; a server with --test-clock may have been moved.")


def _skew(url: str) -> float | None:
    """Seconds by which a server is ahead; its answers tell the time to the second."""
    try:
        with urlopen(url, timeout=5) as answer:
            told = answer.headers.get("date")
    except HTTPError as error:
        told = error.headers.get("date")
    except OSError:
        return None
    return parsedate_to_datetime(told).timestamp() + 0.5 - time.time() if told else None


def kernel_clock() -> bool | None:
    """Whether the kernel holds its clock for synchronised; None when it does not say."""
    timex = (ctypes.c_long * 64)()  # struct timex is shorter; all zero asks and sets nothing
    libc: Any = ctypes.CDLL(None, use_errno=True)
    try:
        state = libc.adjtimex(ctypes.byref(timex))
    except AttributeError:
        return None
    if state < 0:
        return None
    # modes, offset, freq, maxerror, esterror, then the int status
    status = ctypes.cast(timex, ctypes.POINTER(ctypes.c_int))[5 * ctypes.sizeof(ctypes.c_long) // ctypes.sizeof(ctypes.c_int)]
    return state != _UNSYNCHRONISED and not status & _STATUS_UNSYNCHRONISED


def _names() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                yield (entry / "comm").read_text().strip()
