"""Inputs that tasks of a node share, where their pool wants that: what was downloaded once is copied for whoever asks for it again.

Who gets what is here has to be allowed to: each use asks the source with the asker's own URL, and only its answer that the ETag still
counts opens the copy. Tasks get files of their own (a reflink where the file system has them, else a copy), never one of these, and the
directory is the agent's alone. Content has a name for each version and is there before the note that says which version a source has, so
a note never speaks of other bytes. What a machine that broke down had not written yet cannot be told from what it had, so notes count
in the life of the machine that made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakValueDictionary

import msgspec
import structlog

from batchyard.agent.places.identity import boot
from batchyard.agent.places.layout import Layout
from batchyard.agent.transfer.download import Download, strong_etag
from batchyard.agent.transfer.stop import Stop
from batchyard.disk.space import Disk, sample

log = structlog.get_logger()

FULL = (errno.ENOSPC, errno.EDQUOT)
_SPARE_BYTES, _SPARE_PART = 4 << 30, 10
"""What the cache leaves free of a disk: so many bytes, and one of so many parts; more than what makes a node complain."""
_PIECE = 8 << 20
_FICLONE = 0x40049409
_NOTE = ".note"
_DELEGATED = ("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid")
_SHOWN_AS = ("rscc", "rscd", "rsce", "rscl", "rsct")
_SIGNED = frozenset(("sv", "ss", "srt", "sr", "st", "se", "sp", "sip", "spr", "si", "sig", "sdd", *_DELEGATED, *_SHOWN_AS))
"""Parameters of a SAS, which say who asks and not for what."""


class _Note(msgspec.Struct):
    """Which version of a source is here."""

    etag: str
    name: str
    """File with the content."""
    bytes: int
    boot: str


_note = msgspec.json.Decoder(_Note)


def source_of(url: str) -> str:
    """What a URL stands for, whoever signed it."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if "sig" not in dict(pairs):
        return url
    rest = urlencode([(name, value) for name, value in pairs if name not in _SIGNED])
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{rest}"


class Inputs:
    """The cache of one node; off until `learn` gives it room. `fill` and `relieve` block: call them in threads."""

    def __init__(self, layout: Layout, look: Callable[[str], Disk] = sample) -> None:
        self._directory, self._look = layout.volatile + "/inputs", look
        self._most = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Note] = OrderedDict()
        """By the source's hash, the least recently used first."""
        self._coming = 0
        """Bytes that are on their way."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def learn(self, most: int) -> None:
        """Keep so many bytes at most, 0 for none; go on with what an earlier agent left. Raises nothing."""
        self._most = most
        if not most and not os.path.isdir(self._directory):
            return
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with self._lock:
                self._load()
                self._shrink(most)
        except OSError as error:
            log.warning("inputs are not shared", reason=str(error))
            self._most = 0

    @property
    def is_on(self) -> bool:
        """Whether inputs are shared."""
        return self._most > 0

    @contextlib.asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Wait until nobody else fetches the same: it will be here then."""
        if not self.is_on:
            yield
            return
        async with self._turns.setdefault(source_of(url), asyncio.Lock()):
            yield

    def fill(self, url: str, fd: int, stop: Stop) -> bool:
        """Fill an empty file with the content of a URL; False, with the file still empty, when that is to be downloaded directly.

        Raises Unreachable, Cancelled, or OSError where the file cannot be written.
        """
        if not self.is_on:
            return False
        key = hashlib.sha256(source_of(url).encode()).hexdigest()
        with contextlib.ExitStack() as stack:
            held = self._open(key, stack)
            try:
                path, fresh = self._new(stack)
            except OSError:
                return False
            reserved, refused = 0, False

            def accept(headers: Mapping[str, str]) -> bool:
                nonlocal reserved, refused
                self._give_back(reserved)
                reserved = self._reserve(headers)
                refused = reserved == 0
                return not refused

            download = Download(url, fresh, stop, held=held[1] if held else None)
            try:
                changed = download.run(accept)
                if changed:
                    self._take_in(key, path, fresh, download.etag)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self.relieve(everything=True)
                return False
            finally:
                self._give_back(reserved)
            if changed:
                _copy(fresh, fd, stop)
            elif held is not None and not refused:
                _copy(held[0], fd, stop)
            else:
                return False
        return True

    def relieve(self, *, everything: bool = False) -> int:
        """Remove the least recently used until the disk has room enough, or all; how many bytes."""
        with self._lock:
            before = self._bytes
            with contextlib.suppress(OSError):
                while self._known and (everything or self._lacks(0)):
                    self._drop(next(iter(self._known)))
            return before - self._bytes

    @property
    def _bytes(self) -> int:
        return sum(note.bytes for note in self._known.values())

    def _lacks(self, needed: int) -> bool:
        """Whether the disk would be left with too little. Raises OSError."""
        disk = self._look(self._directory)
        return disk.free_bytes - needed < min(_SPARE_BYTES, disk.bytes // _SPARE_PART)

    def _open(self, key: str, stack: contextlib.ExitStack) -> tuple[int, str] | None:
        """The content that is here of a source, and its ETag; it stays readable when it is removed meanwhile."""
        with self._lock:
            note = self._known.get(key)
            if note is None:
                return None
            try:
                fd = os.open(f"{self._directory}/{note.name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                if not _is_ours(fd, note.bytes):
                    raise OSError(errno.EIO, "it is not what was written")
                self._known.move_to_end(key)
                os.utime(f"{self._directory}/{key}{_NOTE}")
            except OSError as error:
                log.warning("a shared input is lost", reason=str(error))
                self._drop(key)
                return None
        return fd, note.etag

    def _new(self, stack: contextlib.ExitStack) -> tuple[str, int]:
        """A file to download into, which goes unless it was given another name by then. Raises OSError."""
        path = f"{self._directory}/{secrets.token_hex(8)}.part"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        stack.callback(_unlink, path)
        return path, fd

    def _reserve(self, headers: Mapping[str, str]) -> int:
        """Make room for what these headers announce; its bytes, 0 when it is not to be kept here."""
        length = headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0
        if strong_etag(headers) is None or not 0 < size <= self._most or "no-store" in headers.get("cache-control", "").lower():
            return 0
        with self._lock:
            self._shrink(self._most - size - self._coming)
            try:
                while self._lacks(2 * size) and self._known:
                    self._drop(next(iter(self._known)))
                if self._bytes + self._coming + size > self._most or self._lacks(2 * size):
                    return 0
            except OSError:
                return 0
            self._coming += size
        return size

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._coming -= size

    def _take_in(self, key: str, path: str, fd: int, etag: str | None) -> None:
        """What was downloaded is the source's version from now on. Raises OSError."""
        if etag is None:  # it was changed midway to one that says none
            return
        size = os.fstat(fd).st_size
        note = _Note(etag, hashlib.sha256(f"{key} {etag}".encode()).hexdigest(), size, boot())
        with self._lock:
            self._drop(key)
            os.rename(path, f"{self._directory}/{note.name}")
            with open(path, "wb") as file:
                file.write(msgspec.json.encode(note))
            os.rename(path, f"{self._directory}/{key}{_NOTE}")
            self._known[key] = note

    def _drop(self, key: str) -> None:
        note = self._known.pop(key, None)
        if note is not None:
            _unlink(f"{self._directory}/{key}{_NOTE}")
            _unlink(f"{self._directory}/{note.name}")

    def _shrink(self, most: int) -> None:
        while self._known and self._bytes > most:
            self._drop(next(iter(self._known)))

    def _load(self) -> None:
        """Take over what is whole; all else goes. Raises OSError."""
        self._known.clear()
        found: list[tuple[float, str, _Note]] = []
        names = set(os.listdir(self._directory))
        for name in sorted(names):
            if name.endswith(_NOTE) and (note := self._read(name)) is not None:
                found.append((os.stat(f"{self._directory}/{name}").st_mtime, name.removesuffix(_NOTE), note))
        for _, key, note in sorted(found, key=lambda each: each[:2]):
            self._known[key] = note
        kept = {name for key, note in self._known.items() for name in (key + _NOTE, note.name)}
        for name in names - kept:
            _unlink(f"{self._directory}/{name}")

    def _read(self, name: str) -> _Note | None:
        """A note that counts."""
        try:
            with open(f"{self._directory}/{name}", "rb") as file:
                note = _note.decode(file.read())
            size = os.stat(f"{self._directory}/{os.path.basename(note.name)}").st_size
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return note if note.boot == boot() and size == note.bytes and "/" not in note.name else None


def _is_ours(fd: int, size: int) -> bool:
    seen = os.fstat(fd)
    return stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_uid == os.geteuid() and seen.st_size == size


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _copy(source: int, target: int, stop: Stop) -> None:
    """Make an empty file the same as another, sharing nothing that can be written. Raises Cancelled, OSError."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return
    offset = 0
    while piece := os.pread(source, _PIECE, offset):
        stop.check()
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(target, rest, offset)
            offset += written
            rest = rest[written:]
