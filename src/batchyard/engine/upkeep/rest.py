"""When a world may be closed, and when it has to be opened again though nobody asks for it."""

from __future__ import annotations

from batchyard.engine.upkeep.upkeep import EVENTS_KEPT_US, TASK_LIFETIME_US, USAGE_KEPT_US
from batchyard.store import due
from batchyard.store.reader import Reader

WITHIN_US = 3_600_000_000
"""What is due within the hour keeps a world open."""


def until(reader: Reader, now: int, other: int | None = None) -> tuple[bool, int | None]:
    """Whether a world may rest, and when something in it is due, None for never; `other` is what is due beside its rows."""
    if due.at_once(reader):
        return False, now
    ends = [at for at in (other, due.next_due(reader, TASK_LIFETIME_US, EVENTS_KEPT_US, USAGE_KEPT_US)) if at is not None]
    first = min(ends, default=None)
    return first is None or first > now + WITHIN_US, first
