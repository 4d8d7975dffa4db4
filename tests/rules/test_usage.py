"""Core time by half hour: every microsecond of a node is counted once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules.usage import INTERVAL_US, Lifetime, by_interval, floor, last_interval

HOUR_US = 2 * INTERVAL_US
TEN = 20 * INTERVAL_US  # ten o'clock


def life(start: int, end: int | None, cores: int = 2, pool: int = 1) -> Lifetime:
    return Lifetime(pool, f"p{pool}", "standard_d2s_v3", cores, start, end)


def test_a_node_of_an_hour_and_a_half() -> None:
    found = by_interval([life(TEN + INTERVAL_US // 2, TEN + 2 * HOUR_US - INTERVAL_US // 2)], TEN, TEN + 2 * HOUR_US)
    assert [(used.start, used.core_us) for used in found] == [
        (TEN, INTERVAL_US),
        (TEN + INTERVAL_US, 2 * INTERVAL_US),
        (TEN + HOUR_US, 2 * INTERVAL_US),
        (TEN + 3 * INTERVAL_US, INTERVAL_US),
    ]


def test_pools_are_apart_and_in_order() -> None:
    found = by_interval([life(0, None, pool=2), life(0, None, pool=1), life(0, None, cores=1, pool=2)], TEN, TEN + HOUR_US)
    seen = [(used.start, used.pool_id, used.core_us // INTERVAL_US) for used in found]
    assert seen == [(TEN, "p1", 2), (TEN, "p2", 3), (TEN + INTERVAL_US, "p1", 2), (TEN + INTERVAL_US, "p2", 3)]


def test_nothing_is_no_item() -> None:
    assert by_interval([life(TEN, TEN), life(0, TEN), life(TEN + HOUR_US, None)], TEN, TEN + HOUR_US) == []


def test_the_newest_interval_ends_two_hours_ago_at_the_latest() -> None:
    assert last_interval(TEN) == (TEN - 5 * INTERVAL_US, TEN - 4 * INTERVAL_US)
    assert last_interval(TEN - 1) == (TEN - 6 * INTERVAL_US, TEN - 5 * INTERVAL_US)


times = st.integers(0, 6 * INTERVAL_US)


@given(st.lists(st.tuples(times, times, st.integers(1, 5), st.integers(1, 2)), max_size=6))
def test_all_intervals_together_are_all_core_time(lives: list[tuple[int, int, int, int]]) -> None:
    made = [life(start, start + length, cores, pool) for start, length, cores, pool in lives]
    found = by_interval(made, 0, 20 * INTERVAL_US)
    assert sum(used.core_us for used in found) == sum(length * cores for _, length, cores, _ in lives)
    assert all(used.start == floor(used.start) for used in found)
    assert [(used.start, used.pool_pk) for used in found] == sorted({(used.start, used.pool_pk) for used in found})
