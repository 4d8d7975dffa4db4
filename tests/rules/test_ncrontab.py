"""NCRONTAB against an oracle that looks at every second, in three zones, and its published examples (study B1)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from batchyard.rules.cron import NCRONTAB, BadCron, Cron, last_before, next_after, parse, shortest_us, warnings

SECOND = timedelta(seconds=1)
EXPRESSIONS = int(os.environ.get("BATCHYARD_B1_EXPRESSIONS", "60"))
"""10,000 take half an hour."""
WINDOW_S = 3 * 3600
CHANGES = {
    ZoneInfo("Europe/Berlin"): (datetime(2026, 3, 28, 23, 30, tzinfo=UTC), datetime(2026, 10, 24, 23, 30, tzinfo=UTC)),
    ZoneInfo("America/New_York"): (datetime(2026, 3, 8, 5, 30, tzinfo=UTC), datetime(2026, 11, 1, 4, 30, tzinfo=UTC)),
    ZoneInfo("Australia/Lord_Howe"): (datetime(2026, 10, 3, 14, 0, tzinfo=UTC), datetime(2026, 4, 4, 13, 30, tzinfo=UTC)),
}
FIELDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split()


def part(rng: random.Random, at: int, likely: list[int]) -> tuple[str, set[int]]:
    """A part of a field and the numbers that it means; `likely` are those that the window has."""
    low, high = FIELDS[at]
    one, other = (rng.choice(likely) if rng.random() < 0.6 else rng.randint(low, high) for _ in range(2))
    step = rng.randint(1, high + 5)
    first, last = min(one, other), max(one, other)
    kind = rng.randrange(6)
    if kind == 0:
        return "*", set(range(low, high + 1))
    if kind == 1:
        return f"*/{step}", set(range(low, high + 1, step))
    if kind == 2:
        return f"{one}-{other}", set(range(first, last + 1))
    if kind == 3:
        return f"{one}-{other}/{step}", set(range(first, last + 1, step))
    if kind == 4:
        return f"{one}/{step}", set(range(one, high + 1, step))
    if at < 4:
        return str(one), {one}
    names, least = (MONTHS, 3) if at == 4 else (DAYS, 2)
    name = names[one - low]
    return rng.choice([str.lower, str.upper, str])(name[: rng.randint(least, len(name))]), {one}


def expression(rng: random.Random, begin: datetime) -> tuple[str, list[set[int]]]:
    """An expression and the oracle's sets of numbers, mostly with times within a window."""
    likely = [
        list(range(60)),
        list(range(60)),
        [(begin.hour + h) % 24 for h in range(4)],
        [begin.day, begin.day % 28 + 1],
        [begin.month],
        [],
    ]
    likely[5] = [begin.isoweekday() % 7, (begin.isoweekday() + 1) % 7]
    texts, sets = [], []
    for at in range(6):
        parts = [("*", set(range(FIELDS[at][0], FIELDS[at][1] + 1)))] if at > 2 and rng.random() < 0.7 else []
        parts = parts or [part(rng, at, likely[at]) for _ in range(rng.choice((1, 1, 2)))]
        texts.append(",".join(text for text, _ in parts))
        sets.append(set.union(*(numbers for _, numbers in parts)))
    return " ".join(texts), sets


def meant(sets: list[set[int]], wall: datetime) -> bool:
    seconds, minutes, hours, days, months, weekdays = sets
    return (
        wall.second in seconds
        and wall.minute in minutes
        and wall.hour in hours
        and wall.day in days
        and wall.isoweekday() % 7 in weekdays
        and wall.month in months
    )


def oracle(text: str, sets: list[set[int]], zone: ZoneInfo, begin: datetime) -> Iterator[datetime]:
    """Every instant of a window that is meant: what a gap skips at the first behind it, what comes twice once, an interval twice."""
    interval = any(sign in field for field in text.split()[:3] for sign in "*/-")
    before = begin.astimezone(zone)
    for n in range(1, WINDOW_S + 1):
        instant = begin + timedelta(seconds=n)
        local = instant.astimezone(zone)
        wall, fires = local.replace(tzinfo=None, fold=0), False
        skipped = before.replace(tzinfo=None, fold=0) + SECOND
        while skipped < wall:
            fires = fires or meant(sets, skipped)
            skipped += SECOND
        if fires or (meant(sets, wall) and (local.fold == 0 or interval)):
            yield instant
        before = local


def understood(text: str) -> Cron | None:
    """None for days that never come, which is all that may be wrong with what is made here."""
    try:
        return parse(text, NCRONTAB)
    except BadCron as error:
        if str(error) != "no such day ever comes":
            raise
        return None


def test_b1_every_second_of_random_expressions_is_as_the_oracle_says() -> None:
    rng = random.Random(1)
    found = 0
    for n in range(EXPRESSIONS):
        zone = list(CHANGES)[n % 3]
        begin = rng.choice(CHANGES[zone]) + timedelta(seconds=rng.randint(0, 1800))
        text, sets = expression(rng, begin.astimezone(zone).replace(tzinfo=None))
        cron = understood(text)
        if cron is None:
            continue
        at, end, times = begin, begin + timedelta(seconds=WINDOW_S), []
        while (following := next_after(cron, zone, at)) is not None and following <= end:
            times.append(following)
            at = following
        assert times == list(oracle(text, sets, zone, begin)), f"{text} in {zone} from {begin}"
        assert not times or last_before(cron, zone, times[0], end) == times[-1], text
        found += len(times)
    assert found > EXPRESSIONS, "windows in which nothing is due would prove nothing"


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [  # from the table of NCrontab's own tests
        ("* * * * * *", "2003-01-01T00:00:00", "2003-01-01T00:00:01"),
        ("*/45 * * * * *", "2003-01-01T00:00:45", "2003-01-01T00:01:00"),
        ("* * * * *", "2003-01-01T00:00:00", "2003-01-01T00:01:00"),
        ("2,4-7 * * * *", "2003-01-01T00:04:00", "2003-01-01T00:05:00"),
        ("* 2 * * *", "2003-01-01T03:00:00", "2003-01-02T02:00:00"),
        ("* * 9-11 * *", "2003-01-01T00:00:00", "2003-01-09T00:00:00"),
        ("0 0 1 1,7 *", "2003-01-01T00:00:00", "2003-07-01T00:00:00"),
        ("0 0 29 2 *", "2003-01-01T00:00:00", "2004-02-29T00:00:00"),
        ("0 12 * * Mo", "2003-01-01T00:00:00", "2003-01-06T12:00:00"),
        ("0 12 * * Mon-WeD", "2003-01-07T13:00:00", "2003-01-08T12:00:00"),
        ("0 12 * january,DECEMBER SunDay", "2003-02-01T00:00:00", "2003-12-07T12:00:00"),
        ("0 1-12/3 * * *", "2003-01-01T01:00:00", "2003-01-01T04:00:00"),
        ("0 0 0 13 * 5", "2003-01-01T00:00:00", "2003-06-13T00:00:00"),
        ("0 0 22-2 * * *", "2003-01-01T03:00:00", "2003-01-01T04:00:00"),
    ],
)
def test_b1_published_examples(text: str, start: str, expected: str) -> None:
    found = next_after(parse(text, NCRONTAB), UTC, datetime.fromisoformat(start).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "* * * * * * *", "60 * * * * *", "* * 24 * * *", "* * * * * 7", "* * * 0 * *", "* * * * 13 *", "*/0 * * * * *"),
        *("? * * * * *", "* * * L * *", "* * * * * 5#2", "* * * * x *", "0 0 0 31 2 *", "1,,2 * * * * *", "*-5 * * * * *"),
    ],
)
def test_b1_what_is_refused_has_a_sentence(text: str) -> None:
    with pytest.raises(BadCron) as refusal:
        parse(text, NCRONTAB)
    assert len(str(refusal.value)) > 10


def test_the_usual_mistakes_are_warned_of() -> None:
    assert "both must agree" in warnings("0 0 0 13 * 5", NCRONTAB)[0]
    assert warnings("0 0 22-2 * * *", NCRONTAB) == ["the hour 22-2 is read as 2-22: a range does not go beyond its field's end"]
    assert warnings("0 0 9 * * Fri-Mon", NCRONTAB) == [
        "the day of the week Fri-Mon is read as Mon-Fri: a range does not go beyond its field's end"
    ]
    assert warnings("0 30 2 * * *", NCRONTAB) == []


def test_the_shortest_distance_of_seconds() -> None:
    assert shortest_us(parse("* * * * * *", NCRONTAB)) == 1_000_000
    assert shortest_us(parse("*/7 * * * * *", NCRONTAB)) == 4_000_000
    assert shortest_us(parse("0,59 0 0 * * *", NCRONTAB)) == 59_000_000
