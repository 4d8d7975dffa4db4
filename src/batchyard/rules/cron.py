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
_MONTHS = "january february march april may june july august september october november december".split()
_DAYS = "sunday monday tuesday wednesday thursday friday saturday".split()
_PART = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?", re.ASCII)
_LONGEST = 200


class BadCron(ValueError):
    """The text is no expression of the dialect, or no time is meant by it."""


class Dialect(msgspec.Struct, frozen=True):
    """Where the dialects of cron part ways."""

    either_day: bool
    """Where both days are given, a day of the month or of the week is enough; otherwise both must agree."""
    sunday_is_seven_too: bool
    seconds: bool = False
    """A field for seconds may stand in front; without it second 0 is meant."""
    swaps: bool = False
    """A range that ends before it begins is meant the other way round; otherwise it is refused."""
    prefixes: bool = False
    """A name may be any beginning of it, the first that fits is meant; otherwise it has three letters."""
    any_step: bool = False
    """A step may be longer than its field."""


CRON = Dialect(either_day=True, sunday_is_seven_too=True)
"""Five fields, as crontab(5) has them: minute, hour, day of the month, month, day of the week."""
NCRONTAB = Dialect(either_day=False, sunday_is_seven_too=False, seconds=True, swaps=True, prefixes=True, any_step=True)
"""Six fields, seconds first, or those five: what timer triggers of Azure Functions and WebJobs take (github.com/atifaziz/NCrontab)."""


class _Field(msgspec.Struct, frozen=True):
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
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
    parts, names = text.split(), [field.name for field in _FIELDS]
    if len(parts) == len(_FIELDS) - 1:
        parts = ["0", *parts]
    elif not dialect.seconds or len(parts) != len(_FIELDS):
        wanted = f"{len(_FIELDS)} fields ({', '.join(names)}) or the last {len(_FIELDS) - 1} of them"
        wanted = wanted if dialect.seconds else f"{len(_FIELDS) - 1} fields ({', '.join(names[1:])})"
        raise BadCron(f"it needs {wanted} and has {len(parts)}")
    seconds, minutes, hours, days, months, weekdays = (_mask(part, field, dialect) for part, field in zip(parts, _FIELDS, strict=True))
    interval = any(sign in part for part in parts[:3] for sign in "*/-")
    cron = Cron(seconds, minutes, hours, days, months, weekdays, dialect.either_day and _both_days(parts), interval)
    if next_local(cron, datetime(2024, 1, 1)) is None:
        raise BadCron("no such day ever comes")
    return cron


def warnings(text: str, dialect: Dialect) -> list[str]:
    """What of an expression that is understood may not mean what its writer thinks."""
    parts = text.split()
    found: list[str] = []
    if not dialect.either_day and _both_days(parts):
        found.append("a day of the month and one of the week are given, and both must agree; crontab(5) is content with one of them")
    for part, field in zip(parts, _FIELDS[len(_FIELDS) - len(parts) :], strict=True):
        for each in part.split(","):
            span = _PART.fullmatch(each)
            if span is None or not span["high"]:
                continue
            low, high = (_number(span[end], field, field.high, dialect) for end in ("low", "high"))
            if dialect.swaps and high < low:
                found.append(f"the {field.name} {each} is read as {span['high']}-{span['low']}: a range does not go beyond its field's end")
    return found


def _both_days(parts: list[str]) -> bool:
    return not parts[-3].startswith("*") and not parts[-1].startswith("*")


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
        low = _number(found["low"], field, sunday, dialect)
        high = _number(found["high"], field, sunday, dialect) if found["high"] else field.high if found["step"] else low
    if high < low and not dialect.swaps:
        raise BadCron(f"{found[0]!r} ends before it begins")
    low, high = min(low, high), max(low, high)
    step = int(found["step"] or 1)
    if step < 1 or (step > field.high and not dialect.any_step):
        raise BadCron(f"the step of {found[0]!r} must be between 1 and {field.high}")
    return sum(1 << (number if number <= field.high else field.low) for number in range(low, high + 1, step))


def _number(text: str, field: _Field, high: int, dialect: Dialect) -> int:
    for number, word in enumerate(field.words, field.low):
        if word.startswith(text.lower()) if dialect.prefixes else word[:3] == text.lower():
            return number
    if not text.isdigit() or not field.low <= int(text) <= high:
        names = f" or {field.words[0][:3]} to {field.words[-1][:3]}" if field.words else ""
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
    if not cron.interval:
        return _first(cron, zone, wall, after, 0)
    found = _first(cron, zone, wall, after, local.fold)
    twice = _instant(wall, zone, 1) - _instant(wall, zone, 0)
    if local.fold or twice <= timedelta():
        return found
    back = _behind_change(after, after + twice, zone)  # the second pass begins again with what the first pass had before
    again = _first(cron, zone, back.astimezone(zone).replace(tzinfo=None, fold=0) - timedelta(seconds=1), after, 1)
    return min((at for at in (found, again) if at is not None), default=None)


def _first(cron: Cron, zone: tzinfo, wall: datetime, after: datetime, fold: int) -> datetime | None:
    """The first instant behind `after` that is meant by a time behind `wall`, in the first or the second pass of those that come twice."""
    for found in _walls(cron, wall):
        once, again = _instant(found, zone, 0), _instant(found, zone, 1)
        instant = _behind_change(again, once, zone) if again < once else again if fold else once
        if instant > after:
            return instant
    return None


def _walls(cron: Cron, after: datetime) -> Iterator[datetime]:
    found = next_local(cron, after)
    while found is not None:
        yield found
        found = next_local(cron, found)


def _instant(wall: datetime, zone: tzinfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _behind_change(low: datetime, high: datetime, zone: tzinfo) -> datetime:
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
    while (found := next_after(cron, zone, low)) is not None and found <= now:  # where each second is meant
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
