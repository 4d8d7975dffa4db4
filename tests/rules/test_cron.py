"""Cron expressions against an oracle that looks at every second; clocks that are set forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.rules.cron import BadCron, Cron, last_before, next_after, next_local, parse, shortest_us

SECOND = timedelta(seconds=1)
BERLIN, LORD_HOWE, CHATHAM = ZoneInfo("Europe/Berlin"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Pacific/Chatham")


def field(low: int, high: int) -> st.SearchStrategy[str]:
    """A field of an expression, with all that it may have."""
    number = st.integers(low, high)
    span = st.tuples(number, number).map(sorted)
    part = st.one_of(
        number.map(str),
        span.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.tuples(span, st.integers(1, high)).map(lambda both: f"{both[0][0]}-{both[0][1]}/{both[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.tuples(number, st.integers(1, high)).map(lambda both: f"{both[0]}/{both[1]}"),
    )
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


expressions = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).map(" ".join)


@cache
def numbers(text: str, low: int, high: int) -> frozenset[int]:
    """The oracle's own reading of a field."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        start = low if first == "*" else int(first)
        end = int(last) if last else high if first == "*" or step else start
        found |= set(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def meant(text: str, wall: datetime) -> bool:
    """The oracle: is this second of a calendar meant? The two days are joined as crontab(5) says."""
    minute, hour, day, month, weekday = text.split()
    if wall.second or wall.minute not in numbers(minute, 0, 59) or wall.hour not in numbers(hour, 0, 23):
        return False
    of_month, of_week = wall.day in numbers(day, 1, 31), wall.isoweekday() % 7 in numbers(weekday, 0, 6)
    either = not day.startswith("*") and not weekday.startswith("*")
    return wall.month in numbers(month, 1, 12) and (of_month or of_week if either else of_month and of_week)


def understood(text: str) -> Cron | None:
    """None for days that never come, which is all that may be wrong with what is made here."""
    try:
        return parse(text)
    except BadCron as error:
        if str(error) != "no such day ever comes":
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(expressions, st.datetimes(datetime(2023, 1, 1), datetime(2032, 1, 1)))
def test_the_next_time_is_the_first_second_that_is_meant(text: str, after: datetime) -> None:
    cron = understood(text)
    if cron is None:
        return
    found = next_local(cron, after)
    second = after.replace(microsecond=0)
    for _ in range(3600):
        second += SECOND
        if second == found:
            assert meant(text, second)
            return
        assert not meant(text, second), f"{second} was left out"
    assert found is None or found > second
    minute = second.replace(second=0)
    for _ in range(3000):  # further on by minutes: nothing but second 0 is meant
        minute += timedelta(minutes=1)
        if minute == found:
            assert meant(text, minute)
            return
        assert not meant(text, minute), f"{minute} was left out"


def fires(text: str, instant: datetime, zone: ZoneInfo) -> bool:
    """The oracle with zones: this instant, once or twice as the rule for clocks says, or as the first behind a gap."""
    local = instant.astimezone(zone)
    interval = any(sign in part for part in text.split()[:2] for sign in "*/-")
    if meant(text, local.replace(tzinfo=None)) and (local.fold == 0 or interval):
        return True
    before = (instant - SECOND).astimezone(zone)
    skipped = before.replace(tzinfo=None) + SECOND
    while skipped < local.replace(tzinfo=None):
        if meant(text, skipped):
            return True
        skipped += SECOND
    return False


CHANGES = [
    (BERLIN, datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 25, 0, 0, tzinfo=UTC)),
    (LORD_HOWE, datetime(2026, 10, 3, 14, 45, tzinfo=UTC)),
    (LORD_HOWE, datetime(2026, 4, 4, 14, 15, tzinfo=UTC)),
    (CHATHAM, datetime(2026, 4, 4, 13, 30, tzinfo=UTC)),
    (ZoneInfo("America/St_Johns"), datetime(2026, 11, 1, 3, 45, tzinfo=UTC)),
]
near = st.tuples(field(0, 59), st.sampled_from(["*", "0-4", "1", "2", "3", "1,2", "*/2"])).map(lambda both: f"{both[0]} {both[1]} * * *")


@settings(max_examples=25, deadline=None)
@given(near, st.sampled_from(CHANGES), st.integers(0, 3600))
def test_around_changes_of_the_clock_every_second_is_as_the_oracle_says(text: str, change: tuple[ZoneInfo, datetime], start: int) -> None:
    zone, begin = change
    cron, instant = parse(text), begin + timedelta(seconds=start)
    expected = next_after(cron, zone, instant)
    for _ in range(5400):
        instant += SECOND
        if fires(text, instant, zone):
            assert expected == instant
            expected = next_after(cron, zone, instant)
        else:
            assert expected != instant


def runs(text: str, zone: ZoneInfo, after: datetime, n: int) -> list[str]:
    cron, found = parse(text), []
    for _ in range(n):
        after = next_after(cron, zone, after) or after
        found.append(after.astimezone(zone).isoformat()[:-9] + after.astimezone(zone).isoformat()[-6:])
    return found


def test_a_time_that_is_skipped_is_made_up_for_behind_the_gap_once() -> None:
    day = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert runs("30 2 * * *", BERLIN, day, 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]
    assert runs("*/20 2 * * *", BERLIN, day, 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]


def test_a_time_that_comes_twice_is_meant_once_and_an_interval_twice() -> None:
    day = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert runs("30 2 * * *", BERLIN, day, 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    assert runs("30 1-2 * * *", BERLIN, day, 3) == ["2026-10-25T01:30+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"]


def test_days_are_joined_as_crontab_says() -> None:
    cron = parse("0 0 13 * fri")
    found = []
    at: datetime | None = datetime(2026, 2, 1)
    while at is not None and len(found) < 5:
        at = next_local(cron, at)
        found.append(at.day if at else 0)
    assert found == [6, 13, 20, 27, 6], "Fridays, and every 13th"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0 0 * jan sun", "0 0 * 1 0"),
        ("0 0 * JAN,Dec SUN-tue", "0 0 * 1,12 0-2"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("5/20 * * * *", "5,25,45 * * * *"),
        ("\t0  0 * * * ", "0 0 * * *"),
    ],
)
def test_what_means_the_same(text: str, same: str) -> None:
    one, other = parse(text), parse(same)
    at = datetime(2026, 1, 1)
    for _ in range(50):
        found = next_local(one, at)
        assert found == next_local(other, at)
        assert found is not None
        at = found


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 * ", "* * * * 8", "-1 * * * *"),
        *("*-5 * * * *", "5-1 * * * *", "*/0 * * * *", "*/99 * * * *", "a * * * *", "* * * mon *", "* * * * monday", "1,,2 * * * *"),
        *("? * * * *", "L * * * *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "\u0663 * * * *", "1" * 300),
    ],
)
def test_what_is_no_expression_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(BadCron) as refusal:
        parse(text)
    assert len(str(refusal.value)) > 10


def test_a_leap_day_is_found_eight_years_away() -> None:
    cron = parse("0 0 29 2 *")
    assert next_after(cron, UTC, datetime(2096, 2, 29, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)
    assert next_local(cron, datetime(9996, 3, 1)) is None


@settings(max_examples=50, deadline=None)
@given(expressions, st.datetimes(datetime(2024, 1, 1), datetime(2024, 12, 1)), st.integers(0, 90 * 86_400))
def test_the_last_time_up_to_now_is_the_last_of_all(text: str, start: datetime, later: int) -> None:
    cron = understood(text)
    first = None if cron is None else next_after(cron, BERLIN, start.replace(tzinfo=UTC))
    if cron is None or first is None:
        return
    now = first + timedelta(seconds=later)
    last = last_before(cron, BERLIN, first, now)
    assert first <= last <= now
    following = next_after(cron, BERLIN, last)
    assert following is None or following > now
    assert last == first or next_after(cron, BERLIN, last - SECOND) == last


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("* * * * *", 60),
        ("*/7 * * * *", 240),
        ("0 0,23 * * *", 3600),
        ("0 0 * * 1", 604_800),
        ("0 0 1,31 * *", 86_400),
        ("0 12 29 2 *", 1461 * 86_400),
    ],
)
def test_the_shortest_distance(text: str, seconds: int) -> None:
    assert shortest_us(parse(text)) == seconds * 1_000_000


@settings(max_examples=50, deadline=None)
@given(expressions)
def test_no_distance_is_shorter_than_the_shortest(text: str) -> None:
    cron = understood(text)
    if cron is None:
        return
    shortest = timedelta(microseconds=shortest_us(cron))

    def walk() -> list[datetime]:
        found, at = [], next_local(cron, datetime(2025, 6, 1))
        while at is not None and len(found) < 300:
            found.append(at)
            at = next_local(cron, at)
        return found

    times = walk()
    assert all(later - earlier >= shortest for earlier, later in zip(times, islice(times, 1, None), strict=False))
