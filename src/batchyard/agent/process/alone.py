"""What the spawner does to itself: who ends it and whom it ends first, what it inherits, that it is known to live.

Standard library only, as the spawner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

FIRST_TO_GO, _NEVER = b"500", b"-1000"
"""The oom_score_adj that tasks are born with, so that the kernel ends a task where memory runs out and not what watches it, and a root
spawner's own; what is written with CAP_SYS_RESOURCE no task lowers without it."""


def own_score(root: bool) -> tuple[int, bytes]:
    """Descriptor of the own oom_score_adj, -1 where there is none, and what it is but for when a task is born."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1, b""
    found = os.pread(fd, 16, 0)
    with contextlib.suppress(OSError):  # the kernel may allow that to nobody here
        if root:
            os.pwrite(fd, _NEVER, 0)
            return fd, _NEVER
    return fd, found


def close_all_but(fd: int) -> None:
    """Close what was inherited besides the standard files, so that no task inherits it either."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != fd:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.set_inheritable(fd, False)


def become_subreaper() -> None:
    """Make orphans children of this process, so that they are reaped and can be found."""
    with contextlib.suppress(ImportError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def hold(path: str) -> None:
    """Make a file and hold it locked for as long as this process lives; where the disk is full, nobody will know of it."""
    with contextlib.suppress(OSError):
        fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
