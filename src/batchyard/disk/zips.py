"""Zip files of strangers: looked through before a byte is unpacked, and unpacked into a directory that nobody else sees yet.

Bounds: as many entries and bytes as the limits say, whatever the file says of itself; its directory in memory takes at most
1 KiB for each entry allowed. Nothing leaves the target: no absolute names, no `..`, links only to what lies inside.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

_CHUNK = 1 << 20
_LISTED = 1 << 10
"""Bytes of the file's directory for each entry that is allowed."""
_HEAD, _HEAD_MARK = 46, b"PK\x01\x02"
_END64, _BEHIND64 = b"PK\x06\x06", 76
"""The mark of a large file's end record, and how much longer its ending is."""
_LONGEST_LINK = 4_096
_UNIX, _ENCRYPTED = 3, 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)


class Refused(Exception):
    """The file is not unpacked; the message is a sentence that says why."""


class Limits(NamedTuple):
    """What a file may hold."""

    bytes: int
    """Of all its content, unpacked."""
    entries: int


class Entry(NamedTuple):
    """A directory, file or link in the file."""

    info: zipfile.ZipInfo
    names: tuple[str, ...]
    """Its path below the target."""
    mode: int
    """Permissions of a file."""

    @property
    def is_link(self) -> bool:
        """True for a symbolic link."""
        return self.info.create_system == _UNIX and stat.S_ISLNK(self.info.external_attr >> 16)


def look_through(file: IO[bytes], limits: Limits) -> tuple[zipfile.ZipFile, list[Entry]]:
    """The opened file and all that is in it. Raises Refused, OSError."""
    try:
        _count(file, limits)
        opened = zipfile.ZipFile(file)
        entries = [_entry(info) for info in opened.infolist()]
    except _DAMAGE as error:
        raise Refused(f"It is no zip file that can be read: {error}") from None
    if sum(entry.info.file_size for entry in entries) > limits.bytes:
        raise Refused(f"It holds more than {limits.bytes} bytes")
    _check_distinct(entries)
    return opened, [entry for entry in entries if entry.names]


def _count(file: IO[bytes], limits: Limits) -> None:
    """Refuse too many entries before any of them is in memory."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is None:
        raise Refused("It is no zip file")
    mark, size, at = end[0], end[5], end[9]
    if size > limits.entries * _LISTED:
        raise Refused(f"Its directory is larger than that of {limits.entries} entries")
    file.seek(max(0, at - size - (_BEHIND64 if mark == _END64 else 0)))
    seen = read = 0
    while read < size:
        head = file.read(_HEAD)
        if len(head) < _HEAD or head[:4] != _HEAD_MARK:
            raise Refused("It is no zip file that can be read: its directory is damaged")
        more = sum(struct.unpack("<3H", head[28:34]))
        file.seek(more, os.SEEK_CUR)
        seen, read = seen + 1, read + _HEAD + more
        if seen > limits.entries:
            raise Refused(f"It holds more than {limits.entries} entries")


def _entry(info: zipfile.ZipInfo) -> Entry:
    shown = info.filename[:100]
    path = info.filename.replace("\\", "/")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if (
        path.startswith("/")
        or ".." in names
        or "\0" in info.orig_filename
        or (names and names[0].endswith(":"))
        or not (names or path.endswith("/"))
    ):
        raise Refused(f"The name {shown!r} leads out of the package")
    if any(len(name.encode("utf-8", "surrogateescape")) > 255 for name in names) or len(path) > 4_000 or len(names) > 200:
        raise Refused(f"The name {shown!r} is too long")
    if info.flag_bits & _ENCRYPTED:
        raise Refused(f"{shown!r} is encrypted")
    if info.compress_type not in _METHODS:
        raise Refused(f"{shown!r} is compressed in a way that is not known: only stored and deflated files are")
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise Refused(f"{shown!r} is no file, directory or link")
    runs = bool(mode & 0o111) or not stat.S_IMODE(mode)  # a file that says nothing of permissions may be a program
    return Entry(info, names, 0o755 if runs else 0o644)


def _check_distinct(entries: Sequence[Entry]) -> None:
    """No name twice, and nothing below a file or a link: what is unpacked later must not go through what came before."""
    leaves = [entry for entry in entries if entry.names and not _is_directory(entry)]
    known = {entry.names for entry in leaves}
    if len(known) < len(leaves):
        raise Refused("It holds a file twice")
    for entry in entries:
        deepest = len(entry.names) + _is_directory(entry)
        if any(entry.names[:depth] in known for depth in range(1, deepest)):
            raise Refused(f"{entry.info.filename[:100]!r} lies below a file")


def _is_directory(entry: Entry) -> bool:
    return entry.info.filename.endswith(("/", "\\"))


def unpack(opened: zipfile.ZipFile, entries: Sequence[Entry], target: str, limits: Limits, check: Callable[[], None]) -> None:
    """Unpack into a directory that is empty and the caller's alone; `check` is called between pieces and may raise.

    Raises Refused, OSError and what `check` raises; what was unpacked until then stays.
    """
    left, made = limits.bytes, set[tuple[str, ...]]()
    for entry in entries:
        check()
        _make(target, entry.names if _is_directory(entry) else entry.names[:-1], made)
        if not _is_directory(entry) and not entry.is_link:
            left -= _write(opened, entry, os.path.join(target, *entry.names), left, check)
    for entry in entries:  # last, so that nothing was written through one
        if entry.is_link and not _is_directory(entry):
            _link(opened, entry, target)


def _make(target: str, names: tuple[str, ...], made: set[tuple[str, ...]]) -> None:
    for depth in range(1, len(names) + 1):
        if names[:depth] not in made:
            path = os.path.join(target, *names[:depth])
            os.mkdir(path)
            os.chmod(path, 0o755)
            made.add(names[:depth])


def _write(opened: zipfile.ZipFile, entry: Entry, path: str, left: int, check: Callable[[], None]) -> int:
    """Bytes that were written. Raises Refused when there are more than `left`, whatever the file says of itself."""
    fd, written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), 0
    try:
        with opened.open(entry.info) as content:
            while chunk := content.read(_CHUNK):
                check()
                written += len(chunk)
                if written > left:
                    raise Refused("It holds more than it says, and more than is allowed")
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, entry.mode)
    except _DAMAGE as error:
        raise Refused(f"{entry.info.filename[:100]!r} is damaged: {error}") from None
    finally:
        os.close(fd)
    return written


def _link(opened: zipfile.ZipFile, entry: Entry, target: str) -> None:
    """Make a link whose way leads up first, through directories that are none, and only then down: so it ends inside."""
    shown = entry.info.filename[:100]
    try:
        with opened.open(entry.info) as content:
            text = content.read(_LONGEST_LINK + 1)
    except _DAMAGE as error:
        raise Refused(f"{shown!r} is damaged: {error}") from None
    steps = [step for step in text.split(b"/") if step not in (b"", b".")]
    up = sum(step == b".." for step in steps)
    if not steps or len(text) > _LONGEST_LINK or b"\0" in text or text.startswith(b"/"):
        raise Refused(f"The link {shown!r} leads out of the package")
    if up >= len(entry.names) or steps[:up] != [b".."] * up:
        raise Refused(f"The link {shown!r} leads out of the package")
    os.symlink(text, os.path.join(os.fsencode(target), *(os.fsencode(name) for name in entry.names)))
