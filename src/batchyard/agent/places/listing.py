"""A tree of files in the order of whole paths, from any name on: what lies before it is neither read nor looked at.

A page costs the directories on the way to its first name and what it shows. The names of a large directory that does not change are
kept for the next page.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from batchyard.agent.places import beneath
from batchyard.model.sync import FileEntry

_DEEPEST = 200
"""Levels of a recursive list; each holds one descriptor."""
_LARGE = 5_000
_MOST_KEPT = 400_000
"""Names from which a directory is kept, and of all that are."""
_SETTLED_NS = 2_000_000_000
"""How long ago a directory must have changed; within a tick of the clock its times do not tell one state from the next."""


def below(fd: int, prefix: str, after: str, *, recursive: bool, depth: int = 0) -> Iterator[FileEntry]:
    """What is in a directory and comes behind the path `after`; names begin with `prefix`.

    Names sort as whole paths, so what is in `a` comes where `a/` sorts: behind `a.txt`.
    """
    names = _names(fd, recursive and depth < _DEEPEST)
    rest = after[len(prefix) :] if after.startswith(prefix) else ""
    first = bisect_right(names, rest, key=beneath.shown) if rest else 0
    if first and names[first - 1].endswith("/") and rest.startswith(beneath.shown(names[first - 1])):
        first -= 1  # the list goes on within that directory
    for at in range(first, len(names)):
        name = names[at]
        if not name.endswith("/"):
            try:
                seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode):
                yield entry_of(prefix + name, seen)
            continue
        try:
            inner = os.open(name[:-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            continue  # removed or replaced meanwhile, or not ours to read
        try:
            yield from below(inner, prefix + beneath.shown(name), after, recursive=recursive, depth=depth + 1)
        finally:
            os.close(inner)


def entry_of(name: str, seen: os.stat_result) -> FileEntry:
    """A file or directory as the node sees it; bytes of the name that are not UTF-8 are replaced."""
    directory = stat.S_ISDIR(seen.st_mode)
    size = 0 if directory else seen.st_size
    return FileEntry(name=beneath.shown(name), is_directory=directory, size=size, modified=seen.st_mtime_ns // 1000, mode=seen.st_mode)


_kept: OrderedDict[tuple[int, int, int, int, bool], list[str]] = OrderedDict()
_lock = threading.Lock()


def _names(fd: int, recursive: bool) -> list[str]:
    """Names of files and directories in order, with `recursive` each directory once more with a slash behind, where its content goes."""
    state = os.fstat(fd)
    key = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, recursive)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    names: list[str] = []
    with os.scandir(fd) as found:
        for each in found:
            if each.is_dir(follow_symlinks=False):
                names += (each.name, each.name + "/") if recursive else (each.name,)
            elif each.is_file(follow_symlinks=False):
                names.append(each.name)
    names.sort(key=beneath.shown)
    if _LARGE <= len(names) <= _MOST_KEPT and time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS:
        with _lock:
            _kept[key] = names
            while sum(map(len, _kept.values())) > _MOST_KEPT:
                _kept.popitem(last=False)
    return names
