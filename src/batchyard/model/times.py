"""Times and durations as the wire writes them, and as the store keeps them.

A time is kept as microseconds since 1970 (UTC); a duration as microseconds, or None for "infinite".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache

INFINITE = "P10675199DT2H48M5.4775807S"
_INFINITE_DAYS = 10_675_199
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US, END_US = -62_135_596_800_000_000, 253_402_300_800_000_000
"""The years 1 to 9999, which is all that can be written."""
_EPOCH_TICKS = 621_355_968_000_000_000
_DURATION = re.compile(
    r"P(?:(?P<years>\d+(?:\.\d+)?)Y)?(?:(?P<months>\d+(?:\.\d+)?)M)?(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"years": 365 * 86400, "months": 30 * 86400, "weeks": 7 * 86400, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(us: int) -> datetime:
    """Aware UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def iso(us: int) -> str:
    """ISO 8601 in UTC with `Z`, trailing zeros of the fraction trimmed: `2020-03-21T02:14:17.451Z`."""
    thousands, micro = divmod(us, 1_000)
    seconds, milli = divmod(thousands, 1_000)
    text = f"{_iso_seconds(seconds)}.{_THREE[milli]}{_THREE[micro]}"
    return f"{text}Z" if micro % 10 else f"{text.rstrip('0').rstrip('.')}Z"


_THREE = [f"{n:03}" for n in range(1_000)]
"""Looked up, because a format takes twice as long and a page has thousands."""


@lru_cache(maxsize=4096)
def _iso_seconds(seconds: int) -> str:
    """Remembered, because the times of a page lie close together and a page has thousands."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:-6]


def iso_ticks(us: int, more: int = 0) -> str:
    """ISO 8601 in UTC with seven digits of a second, as snapshots are named; `more` ticks of 100 ns later."""
    seconds, ticks = divmod(us * 10 + more, 10_000_000)
    return f"{_iso_seconds(seconds)}.{ticks:07}Z"


def from_iso(text: str) -> int:
    """Microseconds since 1970; a time without zone is UTC. Raises ValueError."""
    whole, dot, rest = text.partition(".")
    if dot:
        digits = re.match(r"\d+", rest)
        if digits is None:
            raise ValueError(f"not a time: {text!r}")
        text = f"{whole}.{digits[0][:6]:0<6}{rest[digits.end() :]}"
    return _kept(datetime.fromisoformat(text), text)


def _kept(parsed: datetime, text: str) -> int:
    """Microseconds since 1970. Raises ValueError where UTC has another year than 1 to 9999: it could not be written again."""
    us = micros(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))
    if not _FIRST_US <= us < END_US:
        raise ValueError(f"not within the years 1 to 9999 of UTC: {text!r}")
    return us


def http_date(us: int) -> str:
    """RFC 1123 time, one-second resolution."""
    return _http_date(us // 1_000_000)


@lru_cache(maxsize=1024)
def _http_date(seconds: int) -> str:
    """Remembered, as what is listed or asked for again says the same ones again."""
    return format_datetime(moment(seconds * 1_000_000), usegmt=True)


def from_http_date(text: str) -> int:
    """Microseconds since 1970 of an RFC 1123 time. Raises ValueError."""
    try:
        parsed = parsedate_to_datetime(text)
    except (TypeError, IndexError) as error:
        raise ValueError(f"not an HTTP date: {text!r}") from error
    return _kept(parsed, text)


def etag(us: int) -> str:
    """Tag of a version: the .NET tick count of its `lastModified` in hexadecimal, unquoted (contract 1.3)."""
    return f"0x{us * 10 + _EPOCH_TICKS:X}"


def duration(text: str) -> int | None:
    """Microseconds of an ISO 8601 duration, None for infinite (10,675,199 days and more).

    Years count 365 days and months 30; the bare `P` that 15.x writes is zero (contract 1.4). Raises ValueError.
    """
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith("T"):
        raise ValueError(f"not an ISO 8601 duration: {text!r}")
    seconds = 0.0
    whole = 0
    for unit, value in match.groupdict(default="0").items():
        if "." in value:
            seconds += float(value) * _SECONDS[unit]
        else:
            whole += int(value) * _SECONDS[unit]
    if whole >= _INFINITE_DAYS * 86400 or whole + seconds >= _INFINITE_DAYS * 86400:  # the first, because no float is as large as ints
        return None
    return whole * 1_000_000 + round(seconds * 1_000_000)


def duration_text(us: int | None) -> str:
    """The form the service answers in: `PT6M`, `P1DT2H`, `PT0S`."""
    if us is None:
        return INFINITE
    days, rest = divmod(us, 86_400_000_000)
    hours, rest = divmod(rest, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    seconds, fraction = divmod(rest, 1_000_000)
    clock = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if seconds or fraction:
        clock += f"{seconds}" + f".{fraction:06d}".rstrip("0") * bool(fraction) + "S"
    if not days and not clock:
        return "PT0S"
    return "P" + f"{days}D" * bool(days) + ("T" + clock if clock else "")
