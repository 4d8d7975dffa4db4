"""Who has to make room: as few as possible on one node, the least important first and of equals the one that has run shortest."""

from __future__ import annotations

import pytest

from batchyard.rules.placement import Room
from batchyard.rules.preemption import Victim, choose, reach

ROOMS = [Room(1, 1), Room(2, 0)]


def victim(key: int, node: int = 1, held: int = 1, priority: int = 0, started: int = 0) -> Victim:
    return Victim(key, node, held, priority, started)


@pytest.mark.parametrize(
    ("needed", "victims", "chosen"),
    [
        (2, [], []),
        (2, [victim(1)], [1]),
        (3, [victim(1)], []),
        (2, [victim(1, started=5), victim(2, started=9), victim(3, started=7)], [2]),
        (2, [victim(1, priority=-1), victim(2, priority=-2), victim(3, started=9)], [2]),
        (3, [victim(1, started=1), victim(2, started=2), victim(3, started=3)], [3, 2]),
        (2, [victim(1, priority=1), victim(2, node=2, held=2)], [2]),
        (2, [victim(1), victim(2, node=2), victim(3, node=2)], [1]),
        (1, [victim(1, node=2)], [1]),
        (1, [victim(1, node=3)], [1]),
    ],
)
def test_who_makes_room(needed: int, victims: list[Victim], chosen: list[int]) -> None:
    assert [one.key for one in choose(needed, victims, ROOMS)] == chosen


def test_how_much_room_a_priority_can_make() -> None:
    assert reach([], ROOMS) == []
    victims = [victim(1, priority=5, held=4), victim(2, node=2, priority=-3, held=2), victim(3, priority=-3), victim(4, node=9, priority=7)]
    assert reach(victims, ROOMS) == [(-3, 2), (5, 6), (7, 6)]
