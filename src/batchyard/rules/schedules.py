"""When a job schedule makes jobs: which time is due, what becomes of one that nobody could serve, when to look again (contract 3.11).

Times are microseconds since 1970. Due times of an interval lie on a grid that begins with the first, so that none of them drifts; a due
time that was not served within its window, or before the next one, is lost.
"""

from __future__ import annotations

from datetime import tzinfo
from enum import StrEnum

import msgspec

from batchyard.model import times
from batchyard.rules import cron as crons
from batchyard.rules.cron import Cron


class Missed(StrEnum):
    """Why no job was made at a due time."""

    BUSY = "the previous job was still active"
    LATE = "the server did not run, or the schedule was changed"
    DISABLED = "the schedule was disabled"
    QUOTA = "the quota of active jobs and schedules was reached"


class Calendar(msgspec.Struct, frozen=True):
    """An expression and the zone that it is meant in."""

    cron: Cron
    zone: tzinfo

    def following(self, after: int) -> int | None:
        """The first time behind another; None when none comes."""
        try:
            found = crons.next_after(self.cron, self.zone, times.moment(after))
        except OverflowError:
            return None
        return None if found is None else times.micros(found)

    def last(self, first: int, now: int) -> int:
        """The last time up to now; `first` is one of them."""
        return times.micros(crons.last_before(self.cron, self.zone, times.moment(first), times.moment(now)))


class Timing(msgspec.Struct, frozen=True):
    """What a client says of when; a schedule without interval and calendar makes one job."""

    until: int | None = None
    """No job before it."""
    end: int | None = None
    """No job from then on."""
    window: int | None = None
    """How long a due time may still be served."""
    interval: int | None = None
    calendar: Calendar | None = None

    @property
    def recurs(self) -> bool:
        """It makes more than one job."""
        return self.interval is not None or self.calendar is not None

    def following(self, due: int) -> int | None:
        """The due time behind another; None when it was the only one."""
        if self.calendar is not None:
            return self.calendar.following(due)
        return None if self.interval is None else _writable(due + self.interval)

    def last(self, due: int, now: int) -> int:
        """The last due time up to now; `due` is one of them."""
        if self.calendar is not None:
            return self.calendar.last(due, now)
        return due if self.interval is None else due + (now - due) // self.interval * self.interval


def first_due(timing: Timing, now: int) -> int | None:
    """The first due time of a schedule that is new at this moment."""
    start = max(now, timing.until or now)
    return start if timing.calendar is None else timing.calendar.following(start - 1)


def changed_due(old: Timing, new: Timing, due: int | None, newest: int | None, now: int) -> int | None:
    """What is due next once a client has changed the timing; `newest` is the due time of the newest job, None without any.

    The distance between two jobs holds across the change. A schedule that made its only job makes no second one.
    """
    same = (old.until, old.interval, old.calendar) == (new.until, new.interval, new.calendar)
    if same or (newest is not None and not old.recurs and not new.recurs):
        return due
    if newest is None or new.calendar is not None or new.interval is None:
        return first_due(new, now)
    return _writable(max(newest + new.interval, new.until or 0))


def _writable(due: int) -> int | None:
    """None for a time that comes behind all years."""
    return due if due < times.END_US else None


class Step(msgspec.Struct, frozen=True):
    """What is to be done with a schedule now."""

    fire: int | None = None
    """Due time for which a job is made now."""
    due: int | None = None
    """What is due next."""
    look: int | None = None
    """When time alone changes something again; None for never."""
    missed: int | None = None
    """The newest due time that is lost now."""
    why: Missed | None = None
    over: bool = False
    """No job will come any more, and none is active: the schedule is completed."""


def step(timing: Timing, due: int | None, now: int, *, busy: bool, enabled: bool = True) -> Step:
    """Take a schedule to now; `busy` while its previous job is active."""
    over = timing.end is not None and now >= timing.end
    if over or (due is None and not timing.recurs):
        return Step(due=due, over=not busy)
    if due is None or now < due:
        return Step(due=due, look=_first(due, timing.end))
    current = timing.last(due, now)
    lost, why = (due, Missed.LATE) if current > due else (None, None)
    following = timing.following(current)
    closes = None if timing.window is None else current + timing.window
    if closes is not None and now >= closes:
        reason = Missed.BUSY if busy else Missed.LATE
        return _lost(timing, current, following, reason if enabled else Missed.DISABLED, busy=busy)
    if not enabled:
        if timing.recurs:
            return _lost(timing, current, following, Missed.DISABLED, busy=busy)
        return Step(due=current, look=_first(closes, timing.end))
    if busy:
        return Step(due=current, look=_first(closes, following, timing.end), missed=lost, why=why and Missed.BUSY)
    return Step(fire=current, due=following, look=_first(following, timing.end), missed=lost, why=why)


def _lost(timing: Timing, current: int, following: int | None, why: Missed, *, busy: bool) -> Step:
    over = following is None and not timing.recurs and not busy
    return Step(due=following, look=_first(following, timing.end), missed=current, why=why, over=over)


def _first(*times_: int | None) -> int | None:
    return min((time for time in times_ if time is not None), default=None)
