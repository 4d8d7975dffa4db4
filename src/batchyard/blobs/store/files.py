"""Data files of a blob store: written once under a random name, never changed, removed when nobody needs them.

Invariant: a name gets into the catalogue only after file and directory entry are on disk; so a file without a catalogue
entry is left over from a crash. A file that is being read (pinned) outlives its catalogue entry until the last reader closes.
`DataFiles` is for the one process that has the directory; `sharing` is for several servers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from batchyard.disk.trees import sync_directory
from batchyard.drivers.base import Connection

# Content up to this size goes into the catalogue itself: one fsync in place of three.
INLINE_BYTES = 32 * 1024
FANOUT = 256


class Pin(Protocol):
    """What a reader holds."""

    def hold(self, names: Iterable[str]) -> None:
        """Keep the files until `release`; called while they are looked up."""

    def release(self) -> None:
        """End of reading; harmless when repeated."""


class DataFiles:
    """The directory of data files; safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._lock = threading.Lock()  # held while a reader looks up and pins, so that no file goes in between
        for number in range(FANOUT):
            (directory / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        sync_directory(directory)

    def path(self, name: str) -> Path:
        """Where the file of that name is."""
        return self._directory / name[:2] / name

    @property
    def owner(self) -> str:
        """Which of the servers that share the directory this is; empty for one that shares it with nobody."""
        return ""

    def new_name(self) -> str:
        """A name for a file that is not there yet."""
        return secrets.token_hex(16)

    def link(self, name: str) -> str:
        """A second name for the same bytes (they never change), durable."""
        twin = self.new_name()
        os.link(self.path(name), self.path(twin))
        sync_directory(self.path(twin).parent)
        return twin

    @contextmanager
    def looking(self) -> Iterator[Pin]:
        """Around a look into the catalogue: the files that it finds stay as long as the pin holds them."""
        with self._lock:
            yield _Names(self._pins, self._unpin)

    def vouch(self, tx: Connection, names: Iterable[str]) -> None:
        """In the transaction that names new files: they are there. Raises Fenced."""

    def doom(self, tx: Connection, names: Iterable[str]) -> None:
        """In the transaction after which no row names the files any more."""

    def close(self) -> None:
        """Nobody reads or writes any more."""

    def _unpin(self, names: Iterable[str]) -> None:
        """End of reading; removes what was given up meanwhile."""
        with self._lock:
            free = []
            for name in names:
                self._pins[name] -= 1
                if self._pins[name] <= 0:
                    del self._pins[name]
                    free.append(name)
            gone = [name for name in free if name in self._doomed]
            self._doomed.difference_update(gone)
        self.remove(gone)

    def give_up(self, names: Iterable[str]) -> None:
        """Remove files that the catalogue no longer names, now or when the last reader closes."""
        with self._lock:
            unique = set(names)
            pinned = {name for name in unique if name in self._pins}
            self._doomed |= pinned
        self.remove(unique - pinned)

    def sweep(self, known: Callable[[str, str], Iterable[str]]) -> int:
        """Remove files that a crash left behind; `known(low, high)` gives the catalogue's names in that range. Returns how many."""
        count = 0
        for number in range(FANOUT):
            low = f"{number:02x}"
            present = set(os.listdir(self._directory / low))
            left = present - set(known(low, low + "g")) if present else set()
            self.remove(left)
            count += len(left)
        return count

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that the catalogue does not name, and whom nobody reads."""
        for name in names:
            self.path(name).unlink(missing_ok=True)


class _Names:
    """A pin that counts readers of each file."""

    def __init__(self, pins: Counter[str], unpin: Callable[[Iterable[str]], None]) -> None:
        self._pins, self._unpin = pins, unpin
        self._held: Sequence[str] = ()

    def hold(self, names: Iterable[str]) -> None:
        self._held = list(names)
        self._pins.update(self._held)

    def release(self) -> None:
        held, self._held = self._held, ()
        if held:
            self._unpin(held)


class Incoming:
    """Content on its way in: in memory while small, then in a data file."""

    def __init__(self, files: DataFiles, *, inline: bool) -> None:
        self._files = files
        self._limit = INLINE_BYTES if inline else 0
        self._small = bytearray()
        self._descriptor: int | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.name: str | None = None
        self.length = 0

    @property
    def inline(self) -> bytes | None:
        """The content when it belongs into the catalogue, else None."""
        return bytes(self._small) if self.name is None else None

    def md5(self) -> bytes:
        """MD5 of what was written so far."""
        return self._md5.digest()

    def write(self, chunk: bytes) -> None:
        """Add bytes; raises OSError when the disk is full."""
        self._md5.update(chunk)
        self.length += len(chunk)
        if self._descriptor is None:
            self._small += chunk
            if len(self._small) <= self._limit:
                return
            chunk = bytes(self._small)
            self._small.clear()
            self._open()
        assert self._descriptor is not None
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def seal(self) -> None:
        """Make the content durable; it is still invisible."""
        if self._descriptor is None or self.name is None:
            return
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        sync_directory(self._files.path(self.name).parent)

    def discard(self) -> None:
        """Remove what was written; harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self.name is not None:
            self._files.remove([self.name])
            self.name = None

    def _open(self) -> None:
        self.name = self._files.new_name()
        self._descriptor = os.open(self._files.path(self.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
