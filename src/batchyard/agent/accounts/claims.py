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
from itertools import chain
from pathlib import Path

import msgspec

from batchyard.agent.accounts import numbers
from batchyard.agent.accounts.numbers import BLOCKS
from batchyard.agent.places.users import BLOCK, BLOCKS_FROM

DIRECTORY = Path("/var/lib/batchyard-users")
MAPS = ("/proc/self/uid_map", "/proc/self/gid_map")
"""Which numbers there are at all, in a container perhaps few."""
_NUMBERS = 2**32 - 1
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

    Files of a range that the node had before, and cannot have again, go to the users of the one that it gets.
    Raises OSError when `wanted` overlaps the range of another node. Without root's rights nothing is claimed.
    """
    if os.geteuid() != 0:
        yield Claim(BLOCKS_FROM if wanted is None else wanted)
        return
    me = _Note(root, os.stat(root).st_ino)
    former = numbers.former(root) if wanted is None else numbers.noted(root)
    lock = -1
    try:
        with _alone(directory):
            base = _choose(directory, me, wanted, former)
            lock = _lock(directory / str(base))
        claim = Claim(base)
    except Taken:
        raise
    except OSError as error:
        reason = str(error) if isinstance(error, NoneLeft) else f"{directory} cannot be used ({error.strerror})"
        base = _unclaimed(root, former) if wanted is None else wanted
        claim = Claim(base, f"Another node of this machine may have the same users: {reason}.")
    numbers.settle(root, former, base)
    try:
        yield claim
    finally:
        if lock >= 0:
            os.close(lock)


class Taken(OSError):
    """The range that was asked for is another node's."""


class NoneLeft(OSError):
    """Every range that there is here is another node's."""


def free_range(directory: Path | None = None) -> int | None:
    """First number of the range that a new node would get; None when none is left. Claims nothing, and reads what it may."""
    directory = directory or DIRECTORY
    try:
        return _next(directory, {base: note for base, note in _claims(directory).items() if not _is_stale(directory / str(base), note)})
    except NoneLeft:
        return None
    except OSError:
        return next((BLOCKS_FROM + span.start * BLOCK for span in _spans()), None)


def _unclaimed(root: str, former: int | None) -> int:
    """A range for a node that cannot claim one: its former one, else one that hardly any other has."""
    if former is not None and _is_possible(former):
        return former
    spans = _spans()
    at = zlib.crc32(os.fsencode(root)) % (sum(map(len, spans)) or 1)
    for span in spans:
        if at < len(span):
            return BLOCKS_FROM + span[at] * BLOCK
        at -= len(span)
    return BLOCKS_FROM


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _choose(directory: Path, me: _Note, wanted: int | None, former: int | None) -> int:
    """The range for a node, with its claim written. Raises Taken or OSError."""
    claims = _claims(directory)
    mine = [base for base, note in claims.items() if note == me]
    others = {base: note for base, note in claims.items() if note != me}
    for base in [base for base, note in others.items() if _is_stale(directory / str(base), note)]:
        (directory / str(base)).unlink(missing_ok=True)
        del others[base]
    if wanted is not None:
        _require_free(wanted, others)
        base = wanted
    elif mine and _is_possible(mine[0]):
        return mine[0]
    elif former is not None and _is_possible(former) and _holder(former, others) is None:
        base = former
    else:
        beside = dict.fromkeys(numbers.beside(me.root, {note.root for note in others.values()}), me)
        base = _next(directory, {**beside, **others})
        _write(directory / _LAST, str(base).encode())
    _write(directory / str(base), msgspec.json.encode(me))
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
    if (note := _holder(wanted, others)) is not None:
        raise Taken(f"the users from {wanted} on are those of the node at {note.root}; choose another --uid-base, or leave it out")


def _holder(wanted: int, others: Mapping[int, _Note]) -> _Note | None:
    """Whose range overlaps the one from `wanted` on."""
    return next((note for base, note in others.items() if abs(base - wanted) < BLOCK), None)


def _next(directory: Path, others: Mapping[int, _Note]) -> int:
    """The first free range behind the one that was given last, from the lowest again after the highest. Raises NoneLeft."""
    try:
        last = int((directory / _LAST).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        last = BLOCKS_FROM - BLOCK
    number = (last - BLOCKS_FROM) // BLOCK
    taken = {(base + end - BLOCKS_FROM) // BLOCK for base in others for end in (0, BLOCK - 1)}
    spans = _spans()
    behind = (range(max(span.start, number + 1), span.stop) for span in spans)
    again = (range(span.start, min(span.stop, number + 1)) for span in spans)
    for found in chain(*behind, *again):
        if found not in taken:
            return BLOCKS_FROM + found * BLOCK
    raise NoneLeft(f"no range of {BLOCK} users that {' and '.join(MAPS)} allow from {BLOCKS_FROM} on is free")


def _spans() -> list[range]:
    """Counts of the ranges that lie within what the kernel lets us be, in order."""
    spans = (range(max(0, -((BLOCKS_FROM - one.start) // BLOCK)), min(BLOCKS, (one.stop - BLOCKS_FROM) // BLOCK)) for one in _possible())
    return [span for span in spans if span]


def _is_possible(base: int) -> bool:
    """True when the kernel lets us be all users of the range from `base` on."""
    return any(one.start <= base and base + BLOCK <= one.stop for one in _possible())


def _possible() -> list[range]:
    """Numbers that the kernel lets us be, as users and as groups, in order."""
    found = [range(_NUMBERS)]
    for path in MAPS:
        mapped = _mapped(path)
        found = [both for one in found for other in mapped if (both := range(max(one.start, other.start), min(one.stop, other.stop)))]
    return sorted(found, key=lambda one: one.start)


def _mapped(path: str) -> list[range]:
    """What a map of users or groups has, neighbours as one; everything when it cannot be read."""
    try:
        lines = sorted((int(first), int(count)) for first, _, count in map(str.split, Path(path).read_text(encoding="ascii").splitlines()))
    except (OSError, ValueError):
        return [range(_NUMBERS)]
    whole: list[range] = []
    for first, count in lines:
        if whole and whole[-1].stop == first:
            whole[-1] = range(whole[-1].start, first + count)
        else:
            whole.append(range(first, first + count))
    return whole


def _write(path: Path, content: bytes) -> None:
    """Replace a file, all of it or nothing, on the disk."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
