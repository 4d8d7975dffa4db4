"""Values of autoscale formulas: their operators and how they are printed (contract 6.2, 6.3, 6.9).

Every number is finite, every vector, interval and timestamp bounded: what would leave its bounds is Wrong, never an infinity.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from batchyard.model import times

TICKS_PER_US = 10
MOST_ELEMENTS = 10_000
"""Elements of a vector."""
_MOST_PRINTED, _LONGEST_PRINTED = 30, 200
"""Elements of a vector and characters of a string that a result string shows, so that it stays one."""
_LARGEST_INTERVAL = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800 * 10**7, 253_402_300_800 * 10**7
_SECOND = 10**7
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?: (\d{1,2}):(\d{2})(?::(\d{2}))?)?", re.ASCII)


class Wrong(Exception):
    """The formula asks for what cannot be; the message says what, whoever knows the place adds it."""


class Moment(msgspec.Struct, frozen=True, order=True):
    """A timestamp in units of 100 ns since 1970, UTC."""

    ticks: int


class Interval(msgspec.Struct, frozen=True, order=True):
    """A time interval in units of 100 ns."""

    ticks: int


class Word(msgspec.Struct, frozen=True, order=True):
    """A node deallocation option."""

    text: str


Vector = tuple[float, ...]
Value = float | Vector | str | Moment | Interval | Word

INTERVALS: Mapping[str, Interval] = {
    f"TimeInterval_{name}": Interval(ticks)
    for name, ticks in {
        "Zero": 0, "100ns": 1, "Microsecond": 10, "Millisecond": 10_000, "Second": _SECOND, "Minute": 60 * _SECOND, "Hour": 3600 * _SECOND,
        "Day": 86_400 * _SECOND, "Week": 7 * 86_400 * _SECOND, "Year": 365 * 86_400 * _SECOND,
    }.items()
}  # fmt: skip
COMPARISONS: Mapping[str, Callable[..., bool]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt, "!=": operator.ne,
}  # fmt: skip
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
_KINDS: Mapping[type, str] = {
    float: "a double", tuple: "a doubleVec", str: "a string", Moment: "a timestamp", Interval: "a timeinterval", Word: "a word",
}  # fmt: skip


def kind(value: Value) -> str:
    """What a value is, for sentences."""
    return _KINDS[type(value)]


def finite(number: float) -> float:
    """The number. Raises Wrong when it is none."""
    if not math.isfinite(number):
        raise Wrong("The number is too large")
    return number


def vector(elements: Vector) -> Vector:
    """The vector. Raises Wrong when it is too long or one of its numbers is none."""
    if len(elements) > MOST_ELEMENTS:
        raise Wrong(f"A vector has at most {MOST_ELEMENTS} elements")
    for element in elements:
        finite(element)
    return elements


def interval(ticks: float) -> Interval:
    """An interval of so many units. Raises Wrong when it is too long."""
    if not abs(ticks) < _LARGEST_INTERVAL:
        raise Wrong("The time interval is too long")
    return Interval(round(ticks))


def moment(ticks: int) -> Moment:
    """The time of so many units. Raises Wrong outside of the years 1 to 9999."""
    if not _FIRST <= ticks < _LAST:
        raise Wrong("The timestamp is not within the years 1 to 9999")
    return Moment(ticks)


def single(value: Value) -> Value:
    """The value, the only element of a vector of one in its place."""
    return _only(value) if isinstance(value, tuple) else value


def number(value: Value) -> float:
    """The value as a double, as which the only element of a vector counts too. Raises Wrong."""
    value = single(value)
    if not isinstance(value, float):
        raise Wrong(f"A double is wanted, not {kind(value)}")
    return value


def binary(sign: str, left: Value, right: Value) -> Value:
    """`left sign right` (contract 6.3). Raises Wrong."""
    try:
        found = _compare(sign, left, right) if sign in COMPARISONS else _combine(sign, left, right)
    except ZeroDivisionError:
        raise Wrong("Division by zero") from None
    except OverflowError:
        raise Wrong("The number is too large") from None
    if found is None:
        raise Wrong(f"Operator {sign} does not go with {kind(left)} and {kind(right)}")
    return found


def _compare(sign: str, left: Value, right: Value) -> float | None:
    left, right = single(left), single(right)
    if type(left) is not type(right) or isinstance(left, tuple):
        return None
    return float(COMPARISONS[sign](left, right))


def _combine(sign: str, left: Value, right: Value) -> Value | None:
    if isinstance(left, float | tuple) and isinstance(right, float | tuple):
        return _numbers(_ARITHMETIC[sign], left, right)
    left, right = single(left), single(right)
    if isinstance(left, Moment) or isinstance(right, Moment):
        return _times(sign, left, right)
    return _intervals(sign, left, right)


def _numbers(act: Callable[[float, float], float], left: float | Vector, right: float | Vector) -> float | Vector:
    if isinstance(left, tuple) and isinstance(right, tuple):
        if len(left) != len(right) and 1 in (len(left), len(right)):
            return _numbers(act, _only(left), _only(right))
        if len(left) != len(right):
            raise Wrong(f"Vectors of {len(left)} and {len(right)} elements do not go together")
        return vector(tuple(map(act, left, right)))
    if isinstance(left, tuple):
        return vector(tuple(act(element, right) for element in left)) if isinstance(right, float) else ()
    if isinstance(right, tuple):
        return vector(tuple(act(left, element) for element in right))
    return finite(act(left, right))


def _only(elements: Vector) -> float | Vector:
    """The only element, or the vector of several or none."""
    return elements[0] if len(elements) == 1 else elements


def _times(sign: str, left: Value, right: Value) -> Value | None:
    if isinstance(left, Moment) and isinstance(right, Moment):
        return interval(left.ticks - right.ticks) if sign == "-" else None
    if isinstance(left, Moment) and isinstance(right, Interval) and sign in "+-":
        return moment(left.ticks + right.ticks if sign == "+" else left.ticks - right.ticks)
    if isinstance(left, Interval) and isinstance(right, Moment) and sign == "+":
        return moment(left.ticks + right.ticks)
    return None


def _intervals(sign: str, left: Value, right: Value) -> Value | None:
    if isinstance(left, Interval) and isinstance(right, Interval) and sign in "+-":
        return interval(left.ticks + right.ticks if sign == "+" else left.ticks - right.ticks)
    if isinstance(left, Interval) and isinstance(right, float) and sign in "*/":
        return interval(_ARITHMETIC[sign](left.ticks, right))
    if isinstance(left, float) and isinstance(right, Interval) and sign == "*":
        return interval(left * right.ticks)
    return None


def negative(value: Value) -> Value:
    """`-value`. Raises Wrong."""
    if isinstance(value, Interval):
        return Interval(-value.ticks)
    return -number(value)


def member(value: Value, name: str) -> float:
    """A member of a timestamp. Raises Wrong."""
    if not isinstance(value, Moment):
        raise Wrong(f"Only a timestamp has members, not {kind(value)}")
    when = _datetime(value)
    if name == "weekday":
        return float(when.isoweekday())
    if name not in ("year", "month", "day", "hour", "minute", "second"):
        raise Wrong(f"A timestamp has no member {name}")
    return float(getattr(when, name))


def read_time(text: str) -> Moment:
    """A time from a date text: ISO 8601, RFC 1123 or month/day/year. Raises Wrong."""
    for read in (times.from_iso, times.from_http_date, _american):
        try:
            return moment(read(text.strip()) * TICKS_PER_US)
        except (ValueError, OverflowError):
            continue
    raise Wrong(f'"{text[:40]}" is no time')


def _american(text: str) -> int:
    """Raises ValueError."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("no date")
    month, day, year, hour, minute, second = (int(part or 0) for part in match.groups())
    return times.micros(datetime(year, month, day, hour, minute, second, tzinfo=UTC))


def _datetime(value: Moment) -> datetime:
    return _EPOCH + timedelta(microseconds=value.ticks // TICKS_PER_US)


def printed(value: Value) -> str:
    """The value as the result string shows it."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, tuple):
        return f"[{','.join([*map(printed, value[:_MOST_PRINTED]), *(['...'] if len(value) > _MOST_PRINTED else [])])}]"
    if isinstance(value, Moment):
        return _datetime(value).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, Interval):
        return _printed_interval(value.ticks)
    return value.text if isinstance(value, Word) else value[:_LONGEST_PRINTED]


def _printed_interval(ticks: int) -> str:
    """The form of .NET: `[-][d.]hh:mm:ss[.fffffff]`."""
    seconds, fraction = divmod(abs(ticks), _SECOND)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return ("-" if ticks < 0 else "") + (f"{days}." if days else "") + clock + (f".{fraction:07}" if fraction else "")
