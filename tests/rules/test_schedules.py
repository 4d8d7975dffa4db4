"""When a job schedule makes jobs, against a simulation that looks at every minute (contract 3.11)."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.rules import schedules
from batchyard.rules.cron import parse
from batchyard.rules.schedules import Calendar, Missed, Step, Timing, changed_due, first_due, step

MINUTE = 60_000_000
START = 1_700_000_000_000_000 // MINUTE * MINUTE
some = st.none() | st.integers(1, 40).map(lambda n: n * MINUTE)
moments = st.none() | st.integers(-20, 60).map(lambda n: START + n * MINUTE)
spans = st.lists(st.tuples(st.integers(1, 15), st.integers(0, 25)), min_size=1, max_size=12)
"""Pairs: minutes until somebody looks next, minutes that a job which is made then is active."""
timings = st.builds(Timing, until=moments, end=moments, window=some, interval=some)


def simulated(timing: Timing, looks: list[int], lengths: list[int]) -> list[tuple[int, int]]:
    """The oracle: (due time, when its job is made), said in the words of the contract, each due time looked at by itself."""
    made: list[tuple[int, int]] = []
    first = max(START, timing.until or START)
    grid = [first] if timing.interval is None else [first + n * timing.interval for n in range(2000)]
    free = 0
    for look, length in zip(looks, lengths, strict=True):
        if timing.end is not None and look >= timing.end:
            break
        passed = [due for due in grid if due <= look]
        if not passed or look < free or passed[-1] in [due for due, _ in made]:
            continue
        if timing.window is not None and look >= passed[-1] + timing.window:
            continue
        made.append((passed[-1], look))
        free = look + length
    return made


@settings(max_examples=300, deadline=None)
@given(timings, spans)
def test_jobs_are_made_as_the_contract_says_however_late_somebody_looks(timing: Timing, pauses: list[tuple[int, int]]) -> None:
    looks, now = [], START
    for pause, _ in pauses:
        looks.append(now)
        now += pause * MINUTE
    lengths = [length * MINUTE for _, length in pauses]
    made, free, due = [], 0, first_due(timing, START)
    for look, length in zip(looks, lengths, strict=True):
        found = step(timing, due, look, busy=look < free)
        due = found.due
        if found.fire is not None:
            made.append((found.fire, look))
            free = look + length
            assert found.fire <= look
        assert found.look is None or found.look > look, "it would be looked at for ever"
        assert not (found.over and look < free)
        if found.over:
            break
    assert made == simulated(timing, looks, lengths)


@settings(max_examples=200, deadline=None)
@given(timings, timings, st.integers(0, 50))
def test_a_change_makes_nothing_due_that_a_new_schedule_would_not_wait_for(old: Timing, new: Timing, passed: int) -> None:
    now = START + passed * MINUTE
    due = first_due(old, START)
    newest = due if due is not None and due <= now else None
    left = old.following(due) if newest is not None and due is not None else due
    assert changed_due(old, old, left, newest, now) == left
    found = changed_due(old, new, left, newest, now)
    if newest is not None and new.interval is not None and (new.until, new.interval) != (old.until, old.interval):
        assert found is not None
        assert found >= newest + new.interval
        assert found >= (new.until or 0)


def test_a_calendar_and_its_end() -> None:
    timing = Timing(end=START + 3 * MINUTE, calendar=Calendar(parse("* * * * *"), UTC))
    assert timing.recurs
    assert first_due(timing, START + 1) == START + MINUTE
    assert first_due(timing, START) == START
    assert step(timing, START, START + 2 * MINUTE, busy=True) == Step(
        due=START + 2 * MINUTE, look=START + 3 * MINUTE, missed=START, why=Missed.BUSY
    )
    assert step(timing, START, START + 3 * MINUTE, busy=False).over
    assert step(timing, START, START + 3 * MINUTE, busy=True) == Step(due=START)


@pytest.mark.parametrize("recurs", [True, False])
def test_what_passes_while_it_is_disabled(recurs: bool) -> None:
    timing = Timing(interval=10 * MINUTE if recurs else None)
    found = step(timing, START, START + MINUTE, busy=False, enabled=False)
    assert found == (
        Step(due=START + 10 * MINUTE, look=START + 10 * MINUTE, missed=START, why=Missed.DISABLED) if recurs else Step(due=START)
    )


def test_an_interval_behind_all_years_never_comes() -> None:
    timing = Timing(interval=9_000_000 * 86_400_000_000)
    assert timing.following(START) is None
    assert step(timing, None, START, busy=False) == Step()
    assert schedules.changed_due(Timing(), timing, None, START, START) is None
