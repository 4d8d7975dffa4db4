"""Where a row of a blob stands among those of its name: column `snapshot` of the catalogue says it, and orders them.

`~` is the blob itself; a time is a snapshot; `v` and a time an earlier version. Of what was deleted and is kept for a while, `x~` is the
blob, `x` and a time a snapshot or what was overwritten, `y` and a time a version. One name has each of these once.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchyard.blobs.base import CURRENT, ListQuery
from batchyard.model import times

VERSION, DELETED, DELETED_VERSION = "v", "x", "y"
DELETED_BLOB = DELETED + CURRENT
SNAPSHOTS = "(snapshot >= '0' AND snapshot < ':')"
_VERSIONS = f"(snapshot >= '{VERSION}' AND snapshot < 'w')"
_LAST_VERSIONS = (
    f"({_VERSIONS} AND NOT EXISTS (SELECT 1 FROM blobs later WHERE later.container = blobs.container AND later.name = blobs.name"
    f" AND later.snapshot > blobs.snapshot AND (later.snapshot < 'w' OR later.snapshot = '{CURRENT}')))"
)


def snapshot_in(slot: str) -> str | None:
    """The snapshot that a slot is of, as clients name it."""
    name = slot.removeprefix(DELETED)
    return name if name[:1].isdigit() else None


def free_moment(slots: Iterable[str], now_us: int) -> str:
    """A time, as clients read it, that no slot has yet."""
    taken = {slot.lstrip("vxy") for slot in slots}
    number, moment = 0, times.iso_ticks(now_us)
    while moment in taken:
        number += 1
        moment = times.iso_ticks(now_us, number)
    return moment


def listed(query: ListQuery) -> str:
    """Condition on the rows that a listing shows."""
    wanted = [f"snapshot = '{CURRENT}'"]
    if query.snapshots:
        wanted.append(SNAPSHOTS)
    if query.versions:
        wanted.append(_VERSIONS)
    elif query.only_versions:
        wanted.append(_LAST_VERSIONS)
    if query.deleted:
        wanted.append(f"snapshot = '{DELETED_BLOB}'")
        if query.snapshots:
            wanted.append(f"(snapshot >= '{DELETED}' AND snapshot < '{DELETED_BLOB}')")
        if query.versions:
            wanted.append(f"(snapshot >= '{DELETED_VERSION}' AND snapshot < 'z')")
    return f"({' OR '.join(wanted)})"
