"""Placement of multi-instance tasks on random pools and arrivals: no part of one, no slot twice, nobody waits without bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules.placement import GANG_HOLD_US, PATIENCE_US, GangRooms, Queue, Room, Waiting, is_resting, place
from batchyard.rules.preemption import Victim, choose_nodes, reach_nodes

TICK_US = 5_000_000
LONGEST = 20
"""Ticks that a task runs at most, which is less than the first span for which nodes are kept."""


@dataclass
class Work:
    """A task of the simulation; `nodes` 0 for an ordinary one. Times in ticks."""

    key: int
    arrives: int
    lasts: int
    nodes: int
    job: int
    priority: int
    holds: bool = False
    held_since: int | None = None
    started: int | None = None


@dataclass
class Pool:
    """Nodes of one slot each, and what runs there until when."""

    nodes: int
    work: list[Work]
    gone: int = 0
    """Nodes that are gone, on which preparation had failed."""
    tick: int = 0
    until: dict[int, int] = field(default_factory=dict)

    def turn(self) -> None:
        """What ended leaves, then one round of placement."""
        self.until = {node: end for node, end in self.until.items() if end > self.tick}
        now = self.tick * TICK_US
        rooms = [Room(node, 1, 1) for node in range(self.nodes) if node not in self.until]
        waiting = [one for one in self.work if one.started is None and one.arrives <= self.tick]
        by_key = {one.key: one for one in waiting}
        asked: list[Waiting] = []
        starts: dict[int, list[int]] = {}
        for task, node, held in place(self._queues(waiting, now, asked), GangRooms(rooms, range(self.nodes)), pack=False):
            assert held == 1
            assert node not in self.until, "a slot that two have"
            one = by_key[task.key]
            self.until[node], one.started = self.tick + one.lasts, self.tick
            starts.setdefault(task.key, []).append(node)
        for key, nodes in starts.items():
            assert len(set(nodes)) == len(nodes) == max(1, by_key[key].nodes), "a part of a task"
        keeping = {room.held.key for room in rooms if room.held is not None}
        assert len(keeping) <= 1
        kept = {room.held.key for room in rooms if room.held is not None and room.kept}
        for task in asked:
            one = by_key[task.key]
            one.holds = task.key in kept or (one.holds and not (task.passed and task.key not in keeping))
            if task.key in keeping and one.held_since is None:
                one.held_since = now
        self.tick += 1

    @property
    def _closed(self) -> frozenset[int]:
        return frozenset(range(1_000, 1_000 + self.gone))

    def _queues(self, waiting: list[Work], now: int, asked: list[Waiting]) -> list[Queue]:
        found: dict[int, Queue] = {}
        for one in waiting:
            task = Waiting(
                one.key,
                max(1, one.nodes),
                ahead=one.holds,
                first=one.holds,
                patient=not one.holds and now - one.arrives * TICK_US < PATIENCE_US,
                job=one.job,
                gang=one.nodes > 0,
                resting=one.nodes > 0 and is_resting(one.held_since, now),
            )
            asked.append(task)
            running = sum(other.job == one.job and other.started is not None for other in self.work)
            queue = found.setdefault(one.job, Queue(one.priority, running, [], closed=self._closed, age=one.job))
            queue.lines = [*queue.lines, [task]]
            queue.first |= task.first
        return sorted(found.values(), key=lambda queue: (-queue.priority, not queue.first, queue.running, queue.age))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    nodes = draw(st.integers(1, 6))
    several = st.integers(0, nodes) | st.just(0)
    some = st.tuples(st.integers(0, 30), st.integers(1, LONGEST), several, st.integers(1, 4))
    drawn = draw(st.lists(some, min_size=1, max_size=25))
    priorities = {job: draw(st.integers(0, 1)) for job in range(1, 5)}
    return Pool(
        nodes,
        [Work(key, arrives, lasts, size, job, priorities[job]) for key, (arrives, lasts, size, job) in enumerate(drawn, 1)],
        draw(st.integers(0, 3)),
    )


@given(pools())
def test_all_start_whole_and_none_waits_for_longer_than_all_the_others_take(pool: Pool) -> None:
    gangs = sum(one.nodes > 0 for one in pool.work)
    patience = PATIENCE_US // TICK_US + 1
    bound = 31 + sum(one.lasts for one in pool.work) + (gangs + 1) * (patience + LONGEST)
    while any(one.started is None for one in pool.work):
        assert pool.tick <= bound, [one for one in pool.work if one.started is None]
        pool.turn()


@given(nodes=st.integers(2, 8), size=st.integers(2, 8), lasts=st.integers(1, LONGEST))
def test_beside_a_stream_that_never_ends_it_starts_when_what_runs_has_ended(nodes: int, size: int, lasts: int) -> None:
    """As many ordinary tasks wait at any time as there are nodes."""
    size = min(size, nodes)
    stream = [Work(key, key // nodes, 1 + key % lasts, 0, 1, 0) for key in range(10, 10 + 40 * nodes)]
    wanted = Work(1, 3, 1, size, 2, 0)
    pool = Pool(nodes, [*stream, wanted])
    while wanted.started is None:
        assert pool.tick <= 3 + PATIENCE_US // TICK_US + lasts + 2
        pool.turn()
    for _ in range(3):  # and the others go on
        pool.turn()
    assert pool.until or all(one.started is not None for one in stream)


@given(st.integers(0, 10**13))
def test_others_have_half_of_any_span_of_time(until: int) -> None:
    step = GANG_HOLD_US // 4
    seen = [is_resting(0, at) for at in range(0, min(until, 400 * step), step)]
    assert not seen or not seen[0]
    assert sum(seen) <= len(seen) / 2
    assert sum(seen) >= len(seen) / 4 - 4


def test_spans_double_and_what_was_never_held_does_not_rest() -> None:
    assert not is_resting(None, 10**15)
    assert not is_resting(100, 50), "a clock that went back"
    spans = [is_resting(0, at * GANG_HOLD_US) for at in range(14)]
    assert spans == [False, True, False, False, True, True, *[False] * 4, *[True] * 4]


def test_one_that_cannot_ever_have_enough_keeps_nothing() -> None:
    rooms = [Room(node, 1, 1) for node in range(3)]
    task = Waiting(1, 4, gang=True)
    assert list(place([Queue(5, 0, [[task]]), Queue(0, 0, [[Waiting(2, 1)]])], GangRooms(rooms, range(3)), pack=False)) != []
    closed = Queue(5, 0, [[Waiting(1, 3, gang=True)]], closed=frozenset({1}))
    rooms = [Room(node, 1, 1) for node in range(3)]
    assert list(place([closed], GangRooms(rooms, range(3)), pack=False)) == []
    assert all(room.held is None for room in rooms)
    assert closed.barred


def test_the_primary_is_where_the_task_likes_it_best() -> None:
    rooms = [Room(node, 1, 1) for node in range(3)]
    placed = list(place([Queue(0, 0, [[Waiting(1, 2, prefers=2, gang=True)]])], GangRooms(rooms, range(3)), pack=False))
    assert [node for _, node, _ in placed] == [2, 0]


@pytest.mark.parametrize(
    ("needed", "free", "chosen"),
    [(1, 0, [3]), (2, 0, [3, 2]), (2, 2, []), (3, 1, [3, 2]), (5, 0, []), (4, 0, [3, 2, 1])],
)
def test_as_few_and_as_unimportant_ones_as_it_takes_are_pushed_off(needed: int, free: int, chosen: list[int]) -> None:
    victims = [Victim(1, 10, 1, 5, 0), Victim(1, 11, 1, 5, 0), Victim(2, 12, 1, 1, 0), Victim(3, 13, 1, 1, 9)]
    assert [victim.key for victim in choose_nodes(needed, victims, free)] == chosen
    assert reach_nodes(victims, free) == [(1, free + 2), (5, free + 4)]


@given(
    st.integers(1, 8),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=8),
)
def test_who_is_pushed_off_is_enough_and_none_of_them_could_stay(needed: int, free: int, drawn: list[tuple[int, int]]) -> None:
    victims = [Victim(key, 10 * key + nth, 1, priority, key) for key, (n, priority) in enumerate(drawn) for nth in range(n)]
    sizes = {key: n for key, (n, _) in enumerate(drawn)}
    chosen = choose_nodes(needed, victims, free)
    total = free + sum(sizes[victim.key] for victim in chosen)
    if free + sum(sizes.values()) < needed:
        assert chosen == []
    elif free < needed:
        assert total >= needed
        assert all(total - sizes[victim.key] < needed for victim in chosen)
