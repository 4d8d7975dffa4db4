"""What an agent leaves to the next one on its root, should it be ended without a word: ends that the server may not know, and a watch.

An end is written down before it is reported, and struck out when the server has taken it in. It counts for the same node (its
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
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import structlog

from batchyard.agent.places.layout import Layout
from batchyard.model.sync import Ended

log = structlog.get_logger()

_PATIENCE_S = 10.0
"""How long a spawner whose agent is gone may take; its own patience with what does not go away is half of it."""
_LARGEST = 64 << 10
"""Bytes after which a file of notes is written anew with those that still count, unless these are half of it."""
_BOOT = "/proc/sys/kernel/random/boot_id"


class _Note(msgspec.Struct, omit_defaults=True):
    """An end, or attempts whose ends the server has taken in; and whose they are."""

    whose: str
    ended: Ended | None = None
    taken: list[str] = []


_note = msgspec.json.Decoder(_Note)
_encoder = msgspec.json.Encoder()


class Ends:
    """Ends that the server may not know; `token` is the node's.

    Each life of an agent appends to a file of its own, because making and removing a file costs ten times as much as a line.
    """

    def __init__(self, layout: Layout, token: str) -> None:
        self._directory = layout.volatile + "/ends"
        self._whose = hashlib.sha256(f"{token} {_boot()}".encode()).hexdigest()
        self._lines: dict[str, bytes] = {}
        """By attempt what is to be known until it is taken in."""
        self._files: list[str] = []
        self._fd, self._size, self._most = -1, 0, 0
        """The last one of the files."""

    def earlier(self) -> dict[str, Ended]:
        """What earlier agents of the node did not get told; all else that is there is removed. Raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        found: dict[str, Ended] = {}
        self._files = sorted(os.listdir(self._directory), key=_age)
        for note in (note for name in self._files for note in self._read(name) if note.whose == self._whose):
            if note.ended is not None:
                found[note.ended.attempt] = note.ended
            for attempt in note.taken:
                found.pop(attempt, None)
        self._lines = {attempt: self._line(ended=end) for attempt, end in found.items()}
        if not found:
            self._clear()
        return found

    def _read(self, name: str) -> Iterator[_Note]:
        """The notes of a file, but for those that cannot be read, such as a last one that was cut off."""
        lines: list[bytes] = []
        with contextlib.suppress(OSError), open(f"{self._directory}/{name}", "rb") as file:
            lines = file.read().split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield _note.decode(line)

    def _line(self, **said: Any) -> bytes:
        return _encoder.encode(_Note(self._whose, **said)) + b"\n"

    def note(self, ended: Ended) -> None:
        """Write down how an attempt ended. Where that cannot be done, a crash of the agent costs another run."""
        line = self._lines[ended.attempt] = self._line(ended=ended)
        if self._fd < 0 or self._size > self._most:
            self._begin()
        else:
            self._append(line)

    def _begin(self) -> None:
        """Go on in a new file with what still counts; the earlier ones go once it is there."""
        old, number = self._files, 1 + max(map(_age, self._files), default=0)
        try:
            fd = os.open(f"{self._directory}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        self._close()
        self._fd, self._files = fd, [*old, str(number)]
        if self._append(b"".join(self._lines.values())):
            for name in old:
                self._remove(name)
            self._files = [str(number)]
        self._most = max(_LARGEST, 2 * self._size)

    def _append(self, lines: bytes) -> bool:
        """Write whole lines or none; whether they are there."""
        with contextlib.suppress(OSError):
            if os.pwrite(self._fd, lines, self._size) == len(lines):
                self._size += len(lines)
                return True
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size)  # the disk is full; half a line would spoil the next one
        return False

    def forget(self, attempts: Iterable[str]) -> None:
        """The server has taken these ends in."""
        taken = [attempt for attempt in attempts if self._lines.pop(attempt, None) is not None]
        if not taken:
            return
        if not self._lines:
            self._clear()
        elif self._fd >= 0:
            self._append(self._line(taken=taken))

    def forget_all(self) -> None:
        """The session that they belong to is over."""
        self.forget(list(self._lines))

    def _clear(self) -> None:
        """Nothing counts any more; the file that is written is kept for the next end."""
        own = self._files[-1:] if self._fd >= 0 else []
        if own:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            self._size = 0
        for name in self._files:
            if name not in own:
                self._remove(name)
        self._files = own

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{name}")


def _age(name: str) -> int:
    """Files are read in this order; agents of older releases had one for each attempt, with the attempt's name."""
    return int(name) if name.isascii() and name.isdigit() else 0


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
