"""Cron expressions: which times they mean, and which of them comes next.

A field is a set of numbers, kept as a bit mask; the search jumps from field to field, so its time does not depend on how far away the next
time is. A time zone is an argument. A local time that a zone skips stands for the first instant behind the gap; one that comes twice is
meant once, the first time, unless hours or minutes are given as an interval (`*`, `/`, `-`): then both times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise

import msgspec

YEARS = 8
"""How far a time is looked for: 29 February comes within that many years."""
_RUNS = 1500
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAYS = "sun mon tue wed thu fri sat".split()
_PART = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?", re.ASCII)
_LONGEST = 200


class BadCron(ValueError):
    """The text is no expression of the dialect, or no time is meant by it."""


class Dialect(msgspec.Struct, frozen=True):
    """Where the dialects of cron part ways."""

    either_day: bool
    """Where both days are given, a day of the month or of the week is enough; otherwise both must agree."""
    sunday_is_seven_too: bool


CRON = Dialect(either_day=True, sunday_is_seven_too=True)
"""Five fields, as crontab(5) has them: minute, hour, day of the month, month, day of the week."""


class _Field(msgspec.Struct, frozen=True):
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS)),
    _Field("day of the week", 0, 6, tuple(_DAYS)),
)


class Cron(msgspec.Struct, frozen=True):
    """An expression that was understood: a bit for every number that a field may have."""

    seconds: int
    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    """Bit 0 is Sunday."""
    either_day: bool
    """Days of the month and of the week are both restricted, and one of them is enough."""
    interval: bool
    """Hours or minutes are given as an interval."""


def parse(text: str, dialect: Dialect = CRON) -> Cron:
    """Understand an expression. Raises BadCron, with a sentence for people."""
    if len(text) > _LONGEST:
        raise BadCron(f"an expression has at most {_LONGEST} characters")
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise BadCron(f"it needs {len(_FIELDS)} fields (minute, hour, day of the month, month, day of the week) and has {len(parts)}")
    minutes, hours, days, months, weekdays = (_mask(part, field, dialect) for part, field in zip(parts, _FIELDS, strict=True))
    restricted = not parts[2].startswith("*") and not parts[4].startswith("*")
    interval = any(sign in part for part in parts[:2] for sign in "*/-")
    cron = Cron(1, minutes, hours, days, months, weekdays, dialect.either_day and restricted, interval)
    if next_local(cron, datetime(2024, 1, 1)) is None:
        raise BadCron("no such day ever comes")
    return cron


def _mask(text: str, field: _Field, dialect: Dialect) -> int:
    mask = 0
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise BadCron(f"{part!r} is no {field.name}; use numbers, a-b, */n, a-b/n and lists of them with commas")
        mask |= _bits(found, field, dialect)
    return mask


def _bits(found: re.Match[str], field: _Field, dialect: Dialect) -> int:
    sunday = 7 if field.low == 0 and field.high == 6 and dialect.sunday_is_seven_too else field.high
    if found["low"] == "*":
        if found["high"]:
            raise BadCron(f"{found[0]!r} is no {field.name}; * stands alone")
        low, high = field.low, field.high
    else:
        low = _number(found["low"], field, sunday)
        high = _number(found["high"], field, sunday) if found["high"] else field.high if found["step"] else low
    if high < low:
        raise BadCron(f"{found[0]!r} ends before it begins")
    step = int(found["step"] or 1)
    if not 1 <= step <= field.high:
        raise BadCron(f"the step of {found[0]!r} must be between 1 and {field.high}")
    return sum(1 << (number if number <= field.high else field.low) for number in range(low, high + 1, step))


def _number(text: str, field: _Field, high: int) -> int:
    if text.lower() in field.words:
        return field.words.index(text.lower()) + field.low
    if not text.isdigit() or not field.low <= int(text) <= high:
        names = f" or {field.words[0]} to {field.words[-1]}" if field.words else ""
        raise BadCron(f"{text!r} is no {field.name}, which is {field.low} to {high}{names}")
    return int(text)


def next_local(cron: Cron, after: datetime) -> datetime | None:
    """The first time of a calendar without zones that is meant, behind another; None when there is none within `YEARS`."""
    after = after.replace(microsecond=0)
    day, first = after.date(), after.hour * 3600 + after.minute * 60 + after.second + 1
    last = min(day.year + YEARS, date.max.year)
    while (day.year, day.month) <= (last, after.month):
        if not cron.months >> day.month & 1:
            day, first = _next_month(day), 0
        elif _is_day(cron, day) and (second := _next_second(cron, first)) is not None:
            return datetime(day.year, day.month, day.day) + timedelta(seconds=second)
        elif day == date.max:
            return None
        else:
            day, first = day + timedelta(days=1), 0
    return None


def _next_month(day: date) -> date:
    if (day.year, day.month) == (date.max.year, 12):
        return date.max
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def _is_day(cron: Cron, day: date) -> bool:
    of_month, of_week = cron.days >> day.day & 1, cron.weekdays >> day.isoweekday() % 7 & 1
    return bool(of_month | of_week if cron.either_day else of_month & of_week)


def _next_second(cron: Cron, first: int) -> int | None:
    """The first second of a day that is meant, not before another."""
    hour, minute, second = first // 3600, first // 60 % 60, first % 60
    if hour < 24 and cron.hours >> hour & 1:
        if cron.minutes >> minute & 1 and (found := _lowest(cron.seconds, second)) is not None:
            return hour * 3600 + minute * 60 + found
        if (found := _lowest(cron.minutes, minute + 1)) is not None:
            return hour * 3600 + found * 60 + (_lowest(cron.seconds, 0) or 0)
    if (found := _lowest(cron.hours, hour + 1)) is not None:
        return found * 3600 + (_lowest(cron.minutes, 0) or 0) * 60 + (_lowest(cron.seconds, 0) or 0)
    return None


def _lowest(mask: int, start: int) -> int | None:
    """The lowest number of a set that is not below another."""
    rest = mask >> start
    return None if not rest else start + (rest & -rest).bit_length() - 1


def next_after(cron: Cron, zone: tzinfo, after: datetime) -> datetime | None:
    """The first instant that is meant behind another, both UTC; None when there is none within `YEARS`."""
    local = after.astimezone(zone)
    wall = local.replace(tzinfo=None, fold=0, microsecond=0)
    twice = _instant(wall, zone, 1) - _instant(wall, zone, 0)
    if cron.interval and twice > timedelta():  # the second pass begins again with what the first pass had before
        wall -= twice + timedelta(seconds=1)
    best: datetime | None = None
    for found in _walls(cron, wall):
        once, again = _instant(found, zone, 0), _instant(found, zone, 1)
        if again < once:
            once = again = _behind_gap(again, once, zone)
        if cron.interval and again > once and again > after:
            best = again if best is None else min(best, again)
        if once > after:
            return once if best is None else min(best, once)
    return best


def _walls(cron: Cron, after: datetime) -> Iterator[datetime]:
    found = next_local(cron, after)
    while found is not None:
        yield found
        found = next_local(cron, found)


def _instant(wall: datetime, zone: tzinfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _behind_gap(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """The first instant behind the change of a zone's offset that lies between two instants."""
    offset = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle <= low:
            break
        low, high = (low, middle) if middle.astimezone(zone).utcoffset() == offset else (middle, high)
    return high


def last_before(cron: Cron, zone: tzinfo, first: datetime, now: datetime) -> datetime:
    """The last instant that is meant and not behind `now`; `first` is one that is not."""
    low, high = first, now
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        found = next_after(cron, zone, middle)
        if found is None or found > now:
            high = middle
        else:
            low = found
    return low


def shortest_us(cron: Cron) -> int:
    """The shortest distance between two times that are meant, in microseconds, by a calendar without changes of the clock."""
    runs = [datetime(2024, 1, 1)]
    for found in _walls(cron, runs[0] - timedelta(seconds=1)):
        runs.append(found)
        if len(runs) > _RUNS or found.year > 2024 + 2 * YEARS:
            break
    distances = [later - earlier for earlier, later in pairwise(runs[1:])]
    return min(distances, default=timedelta(days=365)) // timedelta(microseconds=1)
