"""Leases where requests come to their turn in another order than they came in."""

from __future__ import annotations

import pytest

from batchyard.blobs import leases
from batchyard.blobs.errors import BlobError
from batchyard.blobs.leases import INFINITE, LeaseState

ID, OTHER = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
NOW, SECOND = 1_700_000_000_000_000, 1_000_000


@pytest.mark.parametrize("seconds", [INFINITE, 15])
def test_a_break_without_a_period_counts_for_who_came_before_it(seconds: int) -> None:
    """A write that waits for its turn since before the break is refused like any other, and one without the lease is let in."""
    broken, rest = leases.broken(leases.acquire(None, ID, seconds, NOW), 0, NOW + SECOND)
    assert rest == 0
    assert leases.state(broken, NOW) is LeaseState.BROKEN
    with pytest.raises(BlobError, match="LeaseLost"):
        leases.check_write(broken, ID, NOW, "Blob")
    leases.check_write(broken, None, NOW, "Blob")


def test_what_is_broken_is_not_broken_later_by_another_break() -> None:
    broken, _ = leases.broken(leases.acquire(None, ID, INFINITE, NOW), 0, NOW)
    again, rest = leases.broken(broken, 10, NOW + 5 * SECOND)
    assert rest == 0
    assert leases.state(again, NOW + SECOND) is LeaseState.BROKEN
    assert leases.acquire(again, OTHER, INFINITE, NOW + SECOND).id == OTHER


def test_a_break_with_a_period_is_over_behind_it() -> None:
    breaking, rest = leases.broken(leases.acquire(None, ID, INFINITE, NOW), 10, NOW)
    assert rest == 10
    assert [leases.state(breaking, NOW + at * SECOND) for at in (0, 9, 10)] == [LeaseState.BREAKING, LeaseState.BREAKING, LeaseState.BROKEN]
    shorter, rest = leases.broken(breaking, 2, NOW + SECOND)
    assert (rest, leases.state(shorter, NOW + 3 * SECOND)) == (2, LeaseState.BROKEN)
