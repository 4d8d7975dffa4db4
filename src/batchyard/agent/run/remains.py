"""What an agent leaves to the next one on its root, should it be ended without a word: ends that the server may not know, and a watch.

An end is written before it is reported and removed when the server has taken it in. It counts for the same node (its
token) and the same run of the machine only: elsewhere attempts of the same names are others, and what a machine that
went down had on its way to the disk is lost.

A watch is a file that each spawner holds locked while it lives, and removes when it has ended all that it ran. One that
is there with nobody to hold it says that tasks ran on unwatched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterable

import msgspec
import structlog

from batchyard.agent.places.layout import Layout
from batchyard.model.sync import Ended

log = structlog.get_logger()

_PATIENCE_S = 10.0
"""How long a spawner whose agent is gone may take; its own patience with what does not go away is half of it."""
_BOOT = "/proc/sys/kernel/random/boot_id"


class _Note(msgspec.Struct):
    """An end, and whose it is."""

    whose: str
    ended: Ended


class Ends:
    """Ends that the server may not know; `token` is the node's."""

    def __init__(self, layout: Layout, token: str) -> None:
        self._directory = layout.volatile + "/ends"
        self._whose = hashlib.sha256(f"{token} {_boot()}".encode()).hexdigest()
        self._noted: set[str] = set()

    def earlier(self) -> dict[str, Ended]:
        """What earlier agents of the node did not get told; all else that is there is removed. Raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        found: dict[str, Ended] = {}
        for name in os.listdir(self._directory):
            note = self._read(name)
            if note is not None and note.whose == self._whose and note.ended.attempt == name:
                found[name] = note.ended
                self._noted.add(name)
            else:
                self._remove(name)
        return found

    def _read(self, name: str) -> _Note | None:
        try:
            with open(f"{self._directory}/{name}", "rb") as file:
                return msgspec.json.decode(file.read(), type=_Note)
        except (OSError, msgspec.DecodeError):
            return None

    def note(self, ended: Ended) -> None:
        """Write down how an attempt ended. Where that cannot be done, a crash of the agent costs another run."""
        try:
            fd = os.open(f"{self._directory}/{ended.attempt}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        self._noted.add(ended.attempt)
        try:
            os.write(fd, msgspec.json.encode(_Note(self._whose, ended)))
        except OSError:
            self.forget([ended.attempt])
        finally:
            os.close(fd)

    def forget(self, attempts: Iterable[str]) -> None:
        """The server has taken these ends in."""
        for attempt in attempts:
            if attempt in self._noted:
                self._noted.discard(attempt)
                self._remove(attempt)

    def forget_all(self) -> None:
        """The session that they belong to is over."""
        self.forget(list(self._noted))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{name}")


def _boot() -> str:
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def watches(layout: Layout) -> str:
    """Directory of the watches, made when missing. Raises OSError."""
    path = layout.volatile + "/watches"
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def ran_unwatched(layout: Layout) -> bool:
    """True when spawners of earlier agents ended without ending what they ran; waits for those that still do that.

    To be asked before what is left is ended: what a spawner that lives sees die it would take for an end. Raises OSError.
    """
    directory, found = watches(layout), False
    deadline = time.monotonic() + _PATIENCE_S
    for name in os.listdir(directory):
        found |= _is_abandoned(f"{directory}/{name}", deadline)
    if found:
        log.warning("tasks of an earlier agent ran on with nobody watching", root=layout.root)
    return found


def _is_abandoned(path: str, deadline: float) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        while not _try_lock(fd) and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            return True
        return False
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
