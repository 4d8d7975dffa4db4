"""Which user numbers a node's root directory is made of: as it was noted there, else as its files tell.

The note outlasts the machine's claims, in a volume for instance that a new container gets. Roots of releases that noted
nothing have what tasks left.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from batchyard.agent.places import beneath
from batchyard.agent.places.layout import Layout
from batchyard.agent.places.users import BLOCK, BLOCKS_FROM

log = structlog.get_logger()

BLOCKS = 1_000_000
"""Ranges that there are, so that the highest number is far below the largest."""
_LEFT_BY_TASKS = ("workitems/*/*/*/wd", "startup/wd", "shared/*")
_ROOT = "root"
_DEEPEST = 200
"""Levels of directories whose owners change; each holds two descriptors."""


def _note(root: str) -> Path:
    return Path(Layout(root).volatile, "numbers")


def noted(root: str) -> int | None:
    """First number of the range that an agent on this root had last, as it noted."""
    try:
        base = int(_note(root).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return base if 0 < base < 2**31 else None


def of_files(root: str) -> int | None:
    """First number of the range that most likely was the node's, by who owns what tasks left; None when nothing tells."""
    for pattern in _LEFT_BY_TASKS:
        for path in Path(root).glob(pattern):
            with contextlib.suppress(OSError):
                number = (path.lstat().st_uid - BLOCKS_FROM) // BLOCK
                if 0 <= number < BLOCKS:
                    return BLOCKS_FROM + number * BLOCK
    return None


def former(root: str) -> int | None:
    """First number of the range that the node had, as far as its root tells."""
    base = noted(root)
    return of_files(root) if base is None else base


def beside(root: str, known: set[str]) -> Iterator[int]:
    """Ranges of the nodes that a server keeps beside this one (`{node}/root`), but for `known` roots."""
    own = Path(root)
    for other in own.parent.parent.glob(f"*/{_ROOT}") if own.name == _ROOT else ():
        if other != own and str(other) not in known and (base := former(str(other))) is not None:
            yield base


def settle(root: str, before: int | None, base: int) -> None:
    """Make the root one of the range from `base` on: what belongs to the users of `before` goes to their successors.

    To be called before anything runs there. What a crash leaves undone is done by the next call.
    """
    try:
        if before is not None and before != base:
            _remember(root, before)
            _hand_over(root, before, base)
            log.warning("the node's user numbers changed", root=root, before=before, now=base)
        _remember(root, base)
    except OSError as error:
        log.warning("files may belong to the node's former users", root=root, reason=str(error))


def _remember(root: str, base: int) -> None:
    path, text = _note(root), str(base)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="ascii") == text:
            return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _hand_over(root: str, before: int, base: int) -> None:
    """Give the files of one range to the other, on this file system, following no link; a file with several names may be another's."""
    with beneath.trusted(root) as top:
        for name in os.listdir(top):
            if name != os.path.basename(Layout(root).mounts):
                _give(top, name, before, base, os.fstat(top).st_dev, _DEEPEST)


def _give(above: int, name: str, before: int, base: int, device: int, levels: int) -> None:
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        one = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        stack.callback(os.close, one)
        seen = os.fstat(one)
        if seen.st_dev != device:
            return
        directory = stat.S_ISDIR(seen.st_mode)
        uid, gid = (base + number - before if 0 <= number - before < BLOCK else number for number in (seen.st_uid, seen.st_gid))
        if (uid, gid) != (seen.st_uid, seen.st_gid) and (directory or seen.st_nlink == 1):
            beneath.give(one, uid, gid)
        if directory and levels:
            fd = stack.enter_context(beneath.directory(one))
            for inner in os.listdir(fd):
                _give(fd, inner, before, base, device, levels - 1)
