"""Ranges of user numbers: each belongs to one node of the machine, whichever server that is of.

A claim is a file, named by the first number, that says whose it is. It lasts as long as the node's root directory, not
as long as its agent: what tasks left there belongs to their numbers. Its agent holds a lock on it. Numbers that become
free are given again as late as possible.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batchyard.agent.places.users import BLOCK, BLOCKS_FROM

DIRECTORY = Path("/var/lib/batchyard-users")
BLOCKS = 1_000_000
"""Ranges that there are, so that the highest number is far below the largest."""
_LAST = "last"


@dataclass(slots=True, frozen=True)
class Claim:
    """The numbers from `base` on are this node's."""

    base: int
    obstacle: str | None = None
    """Why another node may have the same ones, as a sentence; None when none has."""


class _Note(msgspec.Struct, frozen=True):
    """Whose a claim is: a root directory by its path and inode, so that another one in its place is another one's."""

    root: str
    inode: int


@contextlib.contextmanager
def held(root: str, wanted: int | None = None, directory: Path = DIRECTORY) -> Iterator[Claim]:
    """Hold a range for the node with this root directory: that from `wanted` on, else its former one, else a new one.

    Raises OSError when `wanted` overlaps the range of another node. Without root's rights nothing is claimed.
    """
    if os.geteuid() != 0:
        yield Claim(BLOCKS_FROM if wanted is None else wanted)
        return
    me = _Note(root, os.stat(root).st_ino)
    lock = -1
    try:
        with _alone(directory):
            base = _choose(directory, me, wanted)
            lock = _lock(directory / str(base))
        claim = Claim(base)
    except Taken:
        raise
    except OSError as error:
        base = BLOCKS_FROM + zlib.crc32(os.fsencode(root)) % BLOCKS * BLOCK if wanted is None else wanted
        claim = Claim(base, f"Another node of this machine may have the same users: {directory} cannot be used ({error.strerror}).")
    try:
        yield claim
    finally:
        if lock >= 0:
            os.close(lock)


class Taken(OSError):
    """The range that was asked for is another node's."""


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _choose(directory: Path, me: _Note, wanted: int | None) -> int:
    """The range for a node, with its claim written. Raises Taken or OSError."""
    claims = _claims(directory)
    mine = [base for base, note in claims.items() if note == me]
    others = {base: note for base, note in claims.items() if note != me}
    for base in [base for base, note in others.items() if _is_stale(directory / str(base), note)]:
        (directory / str(base)).unlink(missing_ok=True)
        del others[base]
    if wanted is not None:
        _require_free(wanted, others)
    elif mine:
        return mine[0]
    base = _next(directory, others) if wanted is None else wanted
    _write(directory / str(base), msgspec.json.encode(me))
    if wanted is None:
        _write(directory / _LAST, str(base).encode())
    for former in mine:
        if former != base:
            (directory / str(former)).unlink(missing_ok=True)
    return base


def _claims(directory: Path) -> dict[int, _Note]:
    """All claims; one that a crash left without its words is nobody's, and stale unless it is locked."""
    found: dict[int, _Note] = {}
    for path in directory.iterdir():
        if path.name.isascii() and path.name.isdecimal():
            try:
                found[int(path.name)] = msgspec.json.decode(path.read_bytes(), type=_Note)
            except (FileNotFoundError, msgspec.DecodeError):
                found[int(path.name)] = _Note("", 0)
    return found


def _is_stale(path: Path, note: _Note) -> bool:
    """True when neither the root directory nor an agent of it is left."""
    try:
        if note.root and os.stat(note.root).st_ino == note.inode:
            return False
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        return False  # it cannot be seen now, which is not the same
    try:
        lock = _lock(path)
    except FileNotFoundError:
        return True
    if lock < 0:
        return False
    os.close(lock)
    return True


def _lock(path: Path) -> int:
    """A descriptor that holds a claim's lock; -1 when an agent has it: of the same root that is one on its way out."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def _require_free(wanted: int, others: Mapping[int, _Note]) -> None:
    for base, note in others.items():
        if abs(base - wanted) < BLOCK:
            raise Taken(f"the users from {wanted} on are those of the node at {note.root}; choose another --uid-base, or leave it out")


def _next(directory: Path, others: Mapping[int, _Note]) -> int:
    """The first free range behind the one that was given last."""
    try:
        last = int((directory / _LAST).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        last = BLOCKS_FROM - BLOCK
    number = (last - BLOCKS_FROM) // BLOCK
    taken = {(base + end - BLOCKS_FROM) // BLOCK for base in others for end in (0, BLOCK - 1)}
    for step in range(1, len(taken) + 2):
        if (number + step) % BLOCKS not in taken:
            return BLOCKS_FROM + (number + step) % BLOCKS * BLOCK
    raise AssertionError("there are more ranges than taken ones")


def _write(path: Path, content: bytes) -> None:
    """Replace a file, all of it or nothing, on the disk."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
