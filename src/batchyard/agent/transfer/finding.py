"""Searching a machine for the files that a pattern means, with the rights of whoever calls.

Links are followed; whoever searches for a task does so with the rights of its user. Bounds: names looked at, files found,
levels and time; a search that meets one keeps what it found and says so. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from batchyard.agent.places import beneath
from batchyard.agent.transfer.patterns import Matching

_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SAID = 1_000
"""How many sentences of a kind are kept."""
_LOOK_EVERY = 256


@dataclass(slots=True, frozen=True)
class Bounds:
    """How much one search may do."""

    names: int = 500_000
    files: int = 100_000
    levels: int = 64
    seconds: float = 60.0


@dataclass(slots=True)
class Sentences:
    """What there is to say, bounded."""

    kept: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, text: str) -> None:
        """Keep a sentence, or count it."""
        if len(self.kept) < _SAID:
            self.kept.append(text)
        else:
            self.more += 1

    def __iter__(self) -> Iterator[str]:
        yield from self.kept
        if self.more:
            yield f"and {self.more} more"


@dataclass(slots=True)
class Found:
    """What a search came to."""

    paths: list[str] = field(default_factory=list)
    """Files, relative to where the search began, each once, in order of their names."""
    skipped: Sentences = field(default_factory=Sentences)
    """What is no file: links that lead nowhere or back, pipes, devices."""
    refused: Sentences = field(default_factory=Sentences)
    """What may not be read or was too much."""


class _TooMuch(Exception):
    """A bound was met; the text says which."""


def find(base: str, below: list[str], check: Callable[[], None], bounds: Bounds = Bounds()) -> Found:
    """The files below an absolute path that the parts of a pattern mean. Raises what `check`, which is called often, raises."""
    found = Found()
    with beneath.trusted("/") as slash:
        search = _Search(slash, base, Matching(below), check, bounds, found)
        try:
            search.all()
        except _TooMuch as error:
            found.refused.add(f"{beneath.shown(base)}: {error}")
    return found


def open_file(path: str) -> int:
    """Descriptor for reading a regular file; links are followed. Raises OSError."""
    with beneath.trusted("/") as slash:
        try:
            fd = beneath.open_below(slash, beneath.parts(path.lstrip("/")), beneath.READ)
        except (OSError, beneath.Outside):  # a link is on the way, or it cannot be at all
            with beneath.chased(slash, path) as (holder, name):
                fd = os.open(name, beneath.READ, dir_fd=holder)
    if stat.S_ISREG(os.fstat(fd).st_mode) and not beneath.of_the_kernel(fd):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no file on a disk", path)


class _Search:
    """One search; `slash` is the root of all, which links are followed from."""

    def __init__(self, slash: int, base: str, matching: Matching, check: Callable[[], None], bounds: Bounds, found: Found) -> None:
        self._slash, self._base, self._matching, self._check, self._bounds, self._found = slash, base, matching, check, bounds, found
        self._deadline = time.monotonic() + bounds.seconds
        self._names = 0

    def all(self) -> None:
        """Search. Raises _TooMuch."""
        try:
            with beneath.chased(self._slash, self._base) as (fd, name):
                if name == ".":
                    self._directory(fd, "", self._matching.start, ())
        except OSError as error:
            if error.errno not in _NOWHERE:
                self._refuse("", error)

    def _directory(self, fd: int, at: str, state: frozenset[int], above: tuple[tuple[int, int], ...]) -> None:
        """Search what is in a directory, which needs not be readable when its names are known."""
        seen = os.fstat(fd)
        here = seen.st_dev, seen.st_ino
        if here in above:
            self._found.skipped.add(f"{self._shown(at)} leads back to a directory above it: skipped")
            return
        if len(above) >= self._bounds.levels:
            self._found.refused.add(f"{self._shown(at)} is more than {self._bounds.levels} directories deep: not searched")
            return
        try:
            steps = self._steps(fd, state)
        except OSError as error:
            self._refuse(at, error)
            return
        for name, mode, further, matches in steps:
            self._entry(fd, at, name, mode, further, matches, (*above, here))

    def _steps(self, fd: int, state: frozenset[int]) -> list[tuple[str, int, frozenset[int], bool]]:
        """Names that may lead on, with their kind of file, sorted. Raises OSError."""
        names = self._matching.names(state)
        found = []
        for name, mode in _listed(fd) if names is None else _known(fd, names):
            self._count()
            further, matches = self._matching.after(state, name)
            if further or matches:
                found.append((name, mode, further, matches))
        found.sort(key=lambda step: step[0])
        return found

    def _entry(
        self, fd: int, at: str, name: str, mode: int, further: frozenset[int], matches: bool, above: tuple[tuple[int, int], ...]
    ) -> None:
        """Note a file or search a directory, behind a link or not."""
        path = at + name
        if mode == stat.S_IFDIR and not further:
            return
        way: AbstractContextManager[tuple[int, str]] = contextlib.nullcontext((fd, name))
        try:
            if mode == stat.S_IFLNK:
                way = beneath.chased(self._slash, f"{self._base}/{path}")
            elif mode == stat.S_IFDIR:
                way = _below(fd, name)
            with way as (holder, last):
                if last == ".":
                    if further:
                        self._directory(holder, path + "/", further, above)
                elif matches:
                    if mode == stat.S_IFLNK:
                        mode = stat.S_IFMT(os.stat(last, dir_fd=holder, follow_symlinks=False).st_mode)
                    self._file(path, mode)
        except OSError as error:
            if error.errno not in _NOWHERE:
                self._refuse(path, error)
            elif mode == stat.S_IFLNK:
                self._found.skipped.add(f"{self._shown(path)} is a link that leads nowhere: skipped")

    def _file(self, path: str, mode: int) -> None:
        if mode != stat.S_IFREG:
            self._found.skipped.add(f"{self._shown(path)} is no regular file: skipped")
            return
        if len(self._found.paths) >= self._bounds.files:
            raise _TooMuch(f"more than {self._bounds.files} files match")
        self._found.paths.append(path)

    def _count(self) -> None:
        """Hold the bounds. Raises _TooMuch or what `check` raises."""
        self._names += 1
        if self._names > self._bounds.names:
            raise _TooMuch(f"the search was given up after {self._bounds.names} names")
        if self._names % _LOOK_EVERY == 1:
            self._check()
            if time.monotonic() > self._deadline:
                raise _TooMuch(f"the search was given up after {self._bounds.seconds:g} s")

    def _refuse(self, path: str, error: OSError) -> None:
        self._found.refused.add(f"{self._shown(path)} cannot be read: {error.strerror}")

    def _shown(self, path: str) -> str:
        return beneath.shown(f"{self._base}/{path}".rstrip("/"))


@contextlib.contextmanager
def _below(fd: int, name: str) -> Iterator[tuple[int, str]]:
    """The same as `chased` for a directory that is no link."""
    below = beneath.open_below(fd, [name], os.O_PATH | os.O_DIRECTORY)
    try:
        yield below, "."
    finally:
        os.close(below)


def _listed(fd: int) -> Iterator[tuple[str, int]]:
    """Names in a directory and their kinds. Raises OSError."""
    with beneath.directory(fd) as readable, os.scandir(readable) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield entry.name, stat.S_IFLNK
            elif entry.is_dir(follow_symlinks=False):
                yield entry.name, stat.S_IFDIR
            else:
                yield entry.name, stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFIFO


def _known(fd: int, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Those of the names that are there. Raises OSError when the directory may not be entered."""
    for name in names:
        try:
            yield name, stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
