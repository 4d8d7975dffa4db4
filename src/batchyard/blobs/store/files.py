"""Data files of a local blob store: written once under a random name, never changed, removed when nobody needs them.

Invariant: a name gets into the catalogue only after file and directory entry are on disk; so a file without a catalogue
entry is left over from a crash. A file that is being read (pinned) outlives its catalogue entry until the last reader closes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from batchyard.disk.trees import sync_directory

# Content up to this size goes into the catalogue itself: one fsync in place of three.
INLINE_BYTES = 32 * 1024
_FANOUT = 256


class DataFiles:
    """The directory of data files; safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self.lock = threading.Lock()  # held while a reader looks up and pins, so that no file goes in between
        for number in range(_FANOUT):
            (directory / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        sync_directory(directory)

    def path(self, name: str) -> Path:
        """Where the file of that name is."""
        return self._directory / name[:2] / name

    def link(self, name: str) -> str:
        """A second name for the same bytes (they never change), durable."""
        twin = secrets.token_hex(16)
        os.link(self.path(name), self.path(twin))
        sync_directory(self.path(twin).parent)
        return twin

    def pin(self, names: Iterable[str]) -> None:
        """Keep the files until unpinned; the caller holds `lock`."""
        self._pins.update(names)

    def unpin(self, names: Iterable[str]) -> None:
        """End of reading; removes what was given up meanwhile."""
        with self.lock:
            free = []
            for name in names:
                self._pins[name] -= 1
                if self._pins[name] <= 0:
                    del self._pins[name]
                    free.append(name)
            gone = [name for name in free if name in self._doomed]
            self._doomed.difference_update(gone)
        self._unlink(gone)

    def give_up(self, names: Iterable[str]) -> None:
        """Remove files that the catalogue no longer names, now or when the last reader closes."""
        with self.lock:
            unique = set(names)
            pinned = {name for name in unique if name in self._pins}
            self._doomed |= pinned
        self._unlink(unique - pinned)

    def sweep(self, known: Callable[[str, str], Iterable[str]]) -> int:
        """Remove files that a crash left behind; `known(low, high)` gives the catalogue's names in that range. Returns how many."""
        count = 0
        for number in range(_FANOUT):
            low = f"{number:02x}"
            present = set(os.listdir(self._directory / low))
            left = present - set(known(low, low + "g")) if present else set()
            self._unlink(left)
            count += len(left)
        return count

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            self.path(name).unlink(missing_ok=True)


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
            self._files.give_up([self.name])
            self.name = None

    def _open(self) -> None:
        self.name = secrets.token_hex(16)
        self._descriptor = os.open(self._files.path(self.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
