"""Core time of nodes by half-hour interval (contract 1.6, 9.6).

Times are microseconds since 1970; intervals begin at full and half hours.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

INTERVAL_US = 30 * 60 * 1_000_000
START_AGE_US = 5 * INTERVAL_US
"""The start of a question lies at least this far back, ..."""
END_AGE_US = 4 * INTERVAL_US
"""... and its end this far, because later intervals are still being counted."""


class Lifetime(msgspec.Struct, frozen=True):
    """When a node had a machine, and how many cores that was."""

    pool_pk: int
    pool_id: str
    vm_size: str
    cores: int
    allocated: int
    released: int | None


class Used(msgspec.Struct):
    """Core time of one pool in one interval."""

    start: int
    pool_pk: int
    pool_id: str
    vm_size: str
    core_us: int = 0


def last_interval(now: int) -> tuple[int, int]:
    """The newest interval that is counted."""
    end = floor(now - END_AGE_US)
    return end - INTERVAL_US, end


def floor(at: int) -> int:
    """Begin of the interval that a time lies in."""
    return at // INTERVAL_US * INTERVAL_US


def by_interval(lifetimes: Iterable[Lifetime], start: int, end: int) -> list[Used]:
    """Core time of every pool in every interval that begins from `start` on and before `end`, in that order; none for pools without any."""
    found: dict[tuple[int, int], Used] = {}
    for life in lifetimes:
        until = end if life.released is None else life.released
        at = max(floor(life.allocated), start)
        while at < min(until, end):
            core_us = life.cores * (min(until, at + INTERVAL_US) - max(life.allocated, at))
            used = found.setdefault((at, life.pool_pk), Used(at, life.pool_pk, life.pool_id, life.vm_size))
            used.vm_size = life.vm_size
            used.core_us += core_us
            at += INTERVAL_US
    return [used for _, used in sorted(found.items()) if used.core_us]
