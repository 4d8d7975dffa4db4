"""Errands: one at a time for each key, later each time that one fails, and none left behind at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from engine_world import SECOND_US, StandingClock

from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.errands import FIRST_DELAY_US, LONGEST_DELAY_US, Errands, delay_us


async def well() -> None:
    """Work that goes well."""


async def badly() -> None:
    raise RuntimeError("no")


def waiting(until: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await until.wait()

    return work


@pytest.mark.parametrize(
    ("failures", "us"),
    [(-1, 0), (0, 0), (1, 250_000), (2, 500_000), (3, 1_000_000), (8, 32_000_000), (9, 60_000_000), (10**6, 60_000_000)],
)
def test_the_wait_doubles_up_to_a_minute(failures: int, us: int) -> None:
    assert delay_us(failures) == us
    assert (FIRST_DELAY_US, LONGEST_DELAY_US) == (250_000, 60 * SECOND_US)


async def test_what_is_under_way_is_counted_by_kind_and_busy_by_key() -> None:
    errands, end = Errands(StandingClock()), asyncio.Event()
    errands.start("launch", [1, 2], waiting(end))
    errands.start("launch", ["a"], waiting(end))
    errands.start("stop", [3], waiting(end))
    assert (errands.under_way("launch"), errands.under_way("stop"), errands.under_way("release")) == (2, 1, 0)
    assert [errands.busy(key) for key in (1, 2, "a", 3, 4)] == [True, True, True, True, False]
    assert [errands.due(key) for key in (1, 4)] == [False, True]
    end.set()
    await errands.settle()
    assert (errands.under_way("launch"), errands.under_way("stop")) == (0, 0)
    assert not any(errands.busy(key) for key in (1, 2, "a", 3))
    assert errands.due(1)


async def test_a_failure_is_due_again_when_its_wait_is_over_and_success_forgets_it() -> None:
    clock = StandingClock()
    errands = Errands(clock)
    for failures, wait in ((1, FIRST_DELAY_US), (2, 2 * FIRST_DELAY_US)):
        errands.start("launch", [1, 2], badly)
        await errands.settle()
        assert [errands.failures(key) for key in (1, 2, 3)] == [failures, failures, 0]
        assert not errands.due(1)
        clock.advance(wait - 1)
        assert not errands.due(1)
        clock.advance(1)
        assert errands.due(1)
    errands.start("launch", [1], well)
    await errands.settle()
    assert (errands.failures(1), errands.failures(2)) == (0, 2)
    errands.start("launch", [1], badly)
    await errands.settle()
    clock.advance(-SECOND_US)
    assert errands.due(1), "a clock that was set back holds up nothing"


async def test_at_the_end_what_does_not_end_by_itself_is_given_up() -> None:
    errands = Errands(StandingClock())
    errands.start("launch", [1], waiting(asyncio.Event()))
    errands.start("stop", [2], well)
    await errands.close(0)
    assert not errands.busy(1)
    assert not errands.busy(2)
    await errands.close(60)


def test_a_clock_that_may_be_moved_goes_forward_only() -> None:
    clock = MovableClock()
    before = Clock().now()
    clock.advance(0)
    clock.advance(60 * SECOND_US)
    clock.advance(SECOND_US)
    assert clock.ahead == 61 * SECOND_US
    assert before + 61 * SECOND_US <= clock.now() <= Clock().now() + 61 * SECOND_US
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(-1)
    assert clock.ahead == 61 * SECOND_US
