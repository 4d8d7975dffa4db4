"""Nodes are held for tasks that find no room: for whom, against whom, and how long such a task waits at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules.placement import MOST_HELD, MOST_PASSED, Queue, Room, Rooms, Waiting, most_held, place

SLOTS = 4


def rooms(*free: int, slots: int = SLOTS) -> list[Room]:
    """Nodes 1, 2, … with so many free slots."""
    return [Room(node, each, slots) for node, each in enumerate(free, 1)]


def job(number: int, *slots: int, priority: int = 0, running: int = 0, may_start: int | None = None, patient: bool = False) -> Queue:
    """Job whose tasks have the keys 100 * number, 100 * number + 1, …"""
    tasks = [Waiting(100 * number + nth, need, patient=patient, job=number) for nth, need in enumerate(slots)]
    lines = [[task for task in tasks if task.slots == size] for size in sorted(set(slots))]
    return Queue(priority, running, lines, may_start)


def late(queue: Queue) -> Queue:
    """The same, behind its equals."""
    queue.late = True
    return queue


def held(nodes: list[Room]) -> dict[int, int]:
    """Node and the key of the task that it is held for."""
    return {room.node: room.held.key for room in nodes if room.held is not None}


# (queues, free slots, what starts, what is held)
CASES: dict[str, tuple[list[Queue], list[Room], list[tuple[int, int]], dict[int, int]]] = {
    "the roomiest is held": ([job(1, 4)], rooms(1, 3, 2), [], {2: 100}),
    "nobody of lower priority starts there": ([job(1, 4, priority=1), job(2, 1, 1, 1)], rooms(2, 3), [(200, 1), (201, 1)], {2: 100}),
    "nor an equal": ([job(1, 4), job(2, 1, 1, 1)], rooms(2, 3), [(200, 1), (201, 1)], {2: 100}),
    "nor one of its own job": ([job(1, 4, 1, 1)], rooms(3), [], {1: 100}),
    "who waits for a moment only lets its equals pass": ([job(1, 4, patient=True), job(2, 1)], rooms(3), [(200, 1)], {}),
    "but nobody of lower priority": ([job(1, 4, priority=1, patient=True), job(2, 1)], rooms(3), [], {1: 100}),
    "who comes later than the first holds nothing against equals": ([job(1, 4, 4), job(2, 1, 1)], rooms(1, 1), [(200, 2)], {1: 100}),
    "but against lower priorities": ([job(1, 4, 4, priority=1), job(2, 1, 1)], rooms(1, 1), [], {1: 100, 2: 101}),
    "a hold counts as one that runs": ([job(1, 4, 1, may_start=1), job(2, 1)], rooms(3, 1), [(200, 2)], {1: 100}),
    "who is too large for every node holds none": ([job(1, 5), job(2, 1)], rooms(1), [(200, 1)], {}),
    "who has room needs no hold": ([job(1, 3), job(2, 1)], rooms(3, 1), [(100, 1), (200, 2)], {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_case(case: tuple[list[Queue], list[Room], list[tuple[int, int]], dict[int, int]]) -> None:
    queues, nodes, expected, holds = deepcopy(case)
    assert [(task.key, node) for task, node, _ in place(queues, Rooms(nodes), pack=False)] == expected
    assert held(nodes) == holds


def test_a_closed_or_unfit_node_is_not_held() -> None:
    nodes = [Room(1, 3, SLOTS), Room(2, 2, SLOTS, dedicated=False), Room(3, 1, SLOTS)]
    assert Rooms(nodes).soonest(Waiting(1, 4, dedicated_only=True), frozenset({1})) is nodes[2]


def test_an_exclusive_task_holds_the_node_that_is_nearly_empty() -> None:
    nodes = rooms(2, 3)
    manager = Queue(0, 0, [[Waiting(1, 1, exclusive=True, ahead=True)], [Waiting(2, 1), Waiting(3, 1), Waiting(4, 1)]])
    assert [(task.key, node) for task, node, _ in place([manager], Rooms(nodes), pack=True)] == [(2, 1), (3, 1)]
    assert held(nodes) == {2: 1}


def test_patience_ends_when_many_are_passed_over() -> None:
    nodes = rooms(3)
    crowd = [job(number, 4, patient=True) for number in range(1, MOST_PASSED + 2)]
    assert list(place([*crowd, job(99, 1)], Rooms(nodes), pack=False)) == []
    assert held(nodes) == {1: 100 * (MOST_PASSED + 1)}


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("whole", [False, True], ids=["large", "manager"])
def test_who_goes_before_its_equals_takes_no_other_of_its_job_along(oldest: bool, whole: bool) -> None:
    """Held for again, or a manager that is restarted: what else its job has waits for its turn, behind that of an older or smaller job."""
    nodes = rooms(2, 1, 1, 1, 1)
    urgent = Waiting(100, 1 if whole else 4, exclusive=whole, ahead=True, first=True, job=1)
    lines = [[urgent], [Waiting(101 + nth, 1, job=1) for nth in range(9)]]
    queues = [Queue(0, 3, lines, age=2, first=True), Queue(0, 3, [[Waiting(200 + nth, 1, job=2) for nth in range(9)]], age=1)]
    started = [task.job for task, _, _ in place(queues, Rooms(nodes), pack=False, oldest_first=oldest)]
    assert held(nodes) == {1: 100}
    assert started == ([2] * 4 if oldest else [2, 1, 2, 1])


def test_a_task_goes_before_its_equals_as_soon_as_it_has_room() -> None:
    lines = [[Waiting(100, 4, ahead=True, first=True, job=1)], [Waiting(101, 1, job=1)]]
    queues = [Queue(0, 3, lines, age=2, first=True), Queue(0, 0, [[Waiting(200, 1, job=2)]], age=1)]
    assert [task.key for task, _, _ in place(queues, Rooms(rooms(4, 2)), pack=False)] == [100, 200, 101]


@pytest.mark.parametrize(("nodes", "most"), [(0, 1), (1, 1), (7, 1), (8, 2), (100, 25), (10_000, MOST_HELD)])
def test_a_share_of_the_nodes_is_held(nodes: int, most: int) -> None:
    assert most_held(nodes) == most


def test_no_more_nodes_are_held_than_may_be() -> None:
    nodes = rooms(1, 2, 2, 1)
    started = [(task.key, node) for task, node, _ in place([job(1, 4, 4, 4, priority=1), job(2, *[1] * 9)], Rooms(nodes, 2), pack=True)]
    assert held(nodes) == {2: 100, 3: 101}
    assert started == [(200, 1), (201, 4)]


def test_a_more_important_one_holds_first() -> None:
    nodes = rooms(1, 1)
    assert list(place([job(1, 4, priority=2), job(2, 4, priority=1)], Rooms(nodes, 1), pack=True)) == []
    assert held(nodes) == {1: 100}


def marks(queues: list[Queue], nodes: Rooms) -> tuple[list[int], list[bool], list[bool]]:
    """Keys of the tasks whose turn was in vain; which jobs were served; which were barred."""
    lines = [[list(line) for line in queue.lines] for queue in queues]
    for queue, tasks in zip(queues, lines, strict=True):
        queue.lines = tasks
    list(place(queues, nodes, pack=False))
    passed = [task.key for of_job in lines for line in of_job for task in line if task.passed]
    return passed, [queue.served for queue in queues], [queue.barred for queue in queues]


# (queues, free slots, most that may be held, turns in vain, served, barred)
MARKS: dict[str, tuple[list[Queue], list[Room], int, list[int], list[bool], list[bool]]] = {
    "who starts had no turn in vain": ([job(1, 1, 1)], rooms(1, 1), 1, [], [True], [False]),
    "who comes behind no room has none": ([job(1, 2, 2), job(2, 1)], rooms(1), 0, [100], [False, True], [False, False]),
    "a hold serves its job": ([job(1, 4)], rooms(1), 1, [100], [True], [False]),
    "what is too large for all is barred": ([job(1, 5), job(2, 1)], rooms(1), 1, [100], [False, True], [True, False]),
    "late, and no more may be held": ([late(job(1, 4, 4))], rooms(1, 1), 0, [100], [False], [False]),
    "late, and each may hold": ([late(job(1, 4, 4))], rooms(1, 1), 2, [100, 101], [True], [False]),
}


@pytest.mark.parametrize("case", MARKS.values(), ids=MARKS.keys())
def test_what_is_noted_of_a_turn(case: tuple[list[Queue], list[Room], int, list[int], list[bool], list[bool]]) -> None:
    queues, nodes, most, passed, served, barred = deepcopy(case)
    assert marks(queues, Rooms(nodes, most)) == (passed, served, barred)


def test_a_job_is_barred_by_any_of_its_tasks() -> None:
    """The first may not run where there is room; the second waits for room as everybody does."""
    lines = [[Waiting(1, 1, dedicated_only=True)], [Waiting(2, 3)]]
    nodes = [Room(1, 2, SLOTS, dedicated=False), Room(2, 0, SLOTS)]
    for order in (lines, lines[::-1]):
        for nth, (task,) in enumerate(order):
            task.key = nth
        assert marks([Queue(0, 0, order)], Rooms(deepcopy(nodes), 0))[2] == [True]


def test_only_a_hold_against_equals_is_kept() -> None:
    nodes = rooms(1, 1, 1)
    assert list(place([job(1, 4, 4, priority=1), late(job(2, 4))], Rooms(nodes), pack=False)) == []
    assert {room.held.key: room.kept for room in nodes if room.held is not None} == {100: True, 101: False, 200: False}


def test_the_preferred_node_is_held_when_it_is_as_roomy_as_any() -> None:
    """Not one that is held, or has less room, or may not be used, or is too small."""
    task = Waiting(1, 4, prefers=2, dedicated_only=True)
    other = Waiting(9, 4)
    assert chosen(task, rooms(1, 1)) == 2
    assert chosen(task, rooms(2, 1)) == 1
    assert chosen(task, rooms(1, 2)) == 2
    assert chosen(task, [Room(1, 1, SLOTS), Room(2, 1, SLOTS, held=other)]) == 1
    assert chosen(task, [Room(1, 1, SLOTS), Room(2, 1, SLOTS, dedicated=False)]) == 1
    assert chosen(task, [Room(1, 1, SLOTS), Room(2, 1, 3)]) == 1
    assert chosen(task, rooms(1, 1), closed={2}) == 1
    assert chosen(task, rooms(1, 1), closed={1, 2}) is None


def chosen(task: Waiting, nodes: list[Room], closed: Collection[int] = ()) -> int | None:
    """The node that would be held for a task."""
    room = Rooms(nodes).soonest(task, closed)
    return None if room is None else room.node


class Looked(Room):
    """A node that counts how often it is looked at."""

    def need(self, task: Waiting) -> int:
        looks.append(self.node)
        return super().need(task)


looks: list[int] = []


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("many", [20, 400])
def test_a_start_and_a_hold_cost_the_same_however_many_nodes_there_are(many: int, pack: bool) -> None:
    looks.clear()
    nodes = [Looked(node, 3, SLOTS) for node in range(many)]
    queues = [job(1, *[4] * many, priority=1), job(2, *[1] * 4 * many)]
    started = list(place(queues, Rooms(nodes, many // 4), pack=pack))
    assert (len(held(nodes)), len(started)) == (many // 4, 3 * (many - many // 4))
    assert len(looks) <= 5 * many


def test_queues_are_read_only_as_far_as_there_is_room() -> None:
    read: list[int] = []

    def queues() -> object:
        for number in range(1, 1000):
            read.append(number)
            yield job(number, 1, priority=-number)

    assert len(list(place(queues(), Rooms(rooms(2, 1)), pack=False))) == 3  # type: ignore[arg-type]
    assert len(read) <= 5


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Queue], list[Room], bool, bool]:
    """Jobs in the order of their turns, nodes, pack, oldest first."""
    queues = [
        job(
            number,
            *draw(st.lists(st.integers(1, 5), max_size=6)),
            priority=draw(st.integers(-1, 1)),
            running=draw(st.integers(0, 3)),
            may_start=draw(st.none() | st.integers(1, 4)),
            patient=draw(st.booleans()),
        )
        for number in range(1, draw(st.integers(2, 5)))
    ]
    oldest = draw(st.booleans())
    queues.sort(key=lambda queue: (-queue.priority, 0 if oldest else queue.running))
    return queues, rooms(*draw(st.lists(st.integers(0, SLOTS), max_size=5))), draw(st.booleans()), oldest


@given(situations())
def test_nothing_starts_on_a_node_that_is_held_and_no_node_is_overfull(situation: tuple[list[Queue], list[Room], bool, bool]) -> None:
    queues, nodes, pack, oldest = situation
    by_key = {room.node: room for room in nodes}
    for _, node, _ in place(queues, Rooms(nodes), pack=pack, oldest_first=oldest):
        assert by_key[node].held is None
    assert all(0 <= room.free <= SLOTS for room in nodes)
    tasks = [room.held.key for room in nodes if room.held is not None]
    assert len(tasks) == len(set(tasks))


@given(situations())
def test_what_waits_has_a_reason(situation: tuple[list[Queue], list[Room], bool, bool]) -> None:
    """Nothing that fits on a node which nobody holds waits, and what started before a more important one left that a node."""
    queues, nodes, pack, oldest = situation
    waiting = {task.key: (queue, task) for queue in queues for line in queue.lines for task in line}
    started = [waiting.pop(task.key)[0] for task, _, _ in place(deepcopy(queues), Rooms(nodes), pack=pack, oldest_first=oldest)]
    holds = held(nodes)
    jobs = {task.job: queue for queue, task in waiting.values()}
    spent = {number: sum(waiting[key][1].job == number for key in holds.values() if key in waiting) for number in jobs}
    for queue, task in waiting.values():
        begun = sum(other is queue for other in started)
        if queue.may_start is not None and begun + spent[task.job] >= queue.may_start:
            continue
        assert not any(room.free >= task.slots and room.held is None for room in nodes), "it fits"
        if task.slots <= SLOTS and task.key not in holds.values() and any(other.priority < queue.priority for other in started):
            assert all(room.held is not None or not room.free for room in nodes), "a node was left to others"


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 1),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 4)), min_size=80, max_size=80),
)
def test_a_large_task_waits_for_a_bounded_time_beside_a_stream_of_small_ones(
    used: list[int], ahead: int, pack: bool, stream: list[tuple[int, int, int]]
) -> None:
    """Whatever the small ones need and prefer, however long they run (up to five ticks), however they pack or spread.

    Where both jobs run equally many it comes behind them.
    """
    kept = False
    longest, patience = 5, 3
    running = [(node, 1, 1 + node % longest) for node, many in enumerate(used, 1) for _ in range(min(many, SLOTS))]
    small: deque[Waiting] = deque()
    for tick, (lasts, slots, prefers) in enumerate(stream):
        running = [(node, held, left - 1) for node, held, left in running if left > 1]
        small += [Waiting(1000 + 10 * tick + nth, slots if nth else 1, prefers or None, job=2) for nth in range(5)]
        nodes = [Room(n, SLOTS - sum(held for node, held, _ in running if node == n), SLOTS) for n in range(1, len(used) + 1)]
        patient = tick < patience and not kept
        large = Queue(ahead, 0, [[Waiting(1, SLOTS, patient=patient, ahead=kept, job=1)]], first=kept)
        lines = [[task for task in small if task.slots == size] for size in (1, 2, 3)]
        others = Queue(0, len(running), lines)
        queues = [large, others] if ahead or kept or running else [others, large]
        placed = list(place(queues, Rooms(nodes), pack=pack))
        if any(task.key == 1 for task, _, _ in placed):
            assert tick <= patience + SLOTS * longest
            return
        kept = any(room.kept for room in nodes)
        gone = {task.key for task, _, _ in placed}
        small = deque(task for task in small if task.key not in gone)
        running += [(node, held, lasts) for _, node, held in placed]
    raise AssertionError("it never started")
