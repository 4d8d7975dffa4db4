"""Placement: a table of cases, then what must hold for any queues and rooms."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules.placement import Queue, Room, Rooms, Waiting, place


def rooms(*free: int) -> list[Room]:
    """Nodes 1, 2, … with so many free slots."""
    return [Room(node, slots) for node, slots in enumerate(free, 1)]


def job(number: int, *slots: int, priority: int = 0, running: int = 0, may_start: int | None = None) -> Queue:
    """Job whose tasks have the keys 100 * number, 100 * number + 1, …"""
    tasks = [Waiting(100 * number + nth, need, job=number) for nth, need in enumerate(slots)]
    return Queue(priority, running, by_size(tasks), may_start)


def by_size(tasks: list[Waiting]) -> list[list[Waiting]]:
    """A line for each size."""
    return [[task for task in tasks if task.slots == slots] for slots in sorted({task.slots for task in tasks})]


def in_turn(queues: list[Queue]) -> list[Queue]:
    """As placement gets them."""
    return sorted(queues, key=lambda queue: (-queue.priority, not queue.first, queue.running))


def tasks_of(queue: Queue) -> list[Waiting]:
    return [task for line in queue.lines for task in line]


CASES: dict[str, tuple[list[Queue], list[Room], bool, list[tuple[int, int]]]] = {
    "nothing waits": ([], rooms(4), False, []),
    "no room": ([job(1, 1)], rooms(), False, []),
    "full nodes": ([job(1, 1)], rooms(0, 0), False, []),
    "order within a job": ([job(1, 1, 1, 1)], rooms(2), False, [(100, 1), (101, 1)]),
    "spread takes the emptiest": ([job(1, 1, 1, 1)], rooms(2, 3), False, [(100, 2), (101, 1), (102, 2)]),
    "pack fills one first": ([job(1, 1, 1, 1, 1)], rooms(3, 2), True, [(100, 2), (101, 2), (102, 1), (103, 1)]),
    "what fits nowhere is passed over": ([job(1, 3, 1)], rooms(2), False, [(101, 1)]),
    "slots are used up": ([job(1, 2, 2, 1)], rooms(3), False, [(100, 1), (102, 1)]),
    "a higher priority goes first": ([job(1, 1, 1), job(2, 1, 1, priority=5)], rooms(3), False, [(200, 1), (201, 1), (100, 1)]),
    "negative priorities go last": ([job(1, 1, priority=-1), job(2, 1)], rooms(1), False, [(200, 1)]),
    "a lower one fills what the higher cannot use": ([job(1, 3, priority=5), job(2, 1)], rooms(2), False, [(200, 1)]),
    "equal jobs take turns": ([job(1, 1, 1, 1), job(2, 1, 1, 1)], rooms(4), False, [(100, 1), (200, 1), (101, 1), (201, 1)]),
    "who runs less goes first": ([job(1, 1, 1, running=2), job(2, 1, 1)], rooms(2), False, [(200, 1), (201, 1)]),
    "maxParallelTasks": ([job(1, 1, 1, 1, may_start=2), job(2, 1)], rooms(4), False, [(100, 1), (200, 1), (101, 1)]),
    "nothing more may start": ([job(1, 1, may_start=0)], rooms(1), False, []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_case(case: tuple[list[Queue], list[Room], bool, list[tuple[int, int]]]) -> None:
    queues, nodes, pack, expected = deepcopy(case)
    assert [(task.key, node) for task, node, _ in place(in_turn(queues), Rooms(nodes), pack=pack)] == expected


@pytest.mark.parametrize("pack", [True, False])
def test_the_preferred_node_wins_while_it_has_room(pack: bool) -> None:
    tasks = [Waiting(1, 1, prefers=2), Waiting(2, 1, prefers=2), Waiting(3, 1, prefers=9)]
    placed = [(task.key, node) for task, node, _ in place([Queue(0, 0, by_size(tasks))], Rooms(rooms(3, 1, 2)), pack=pack)]
    assert placed[0] == (1, 2)
    assert {node for _, node in placed[1:]} <= {1, 3}
    assert len(placed) == 3


@st.composite
def situations(draw: st.DrawFn, largest: int = 4) -> tuple[list[Queue], list[Room], bool]:
    """Some jobs, some nodes."""
    numbers = st.integers(0, 3)
    queues = [
        job(
            number,
            *draw(st.lists(st.integers(1, largest), max_size=8)),
            priority=draw(st.integers(-1, 1)),
            running=draw(numbers),
            may_start=draw(st.none() | st.integers(0, 5)),
        )
        for number in range(draw(numbers) + 1)
    ]
    return queues, rooms(*draw(st.lists(st.integers(0, 6), max_size=4))), draw(st.booleans())


def job_of(key: int) -> int:
    return key // 100


@given(situations())
def test_no_node_gets_more_than_it_has_and_no_task_two_nodes(situation: tuple[list[Queue], list[Room], bool]) -> None:
    queues, nodes, pack = situation
    free = {room.node: room.free for room in nodes}
    placed = list(place(in_turn(queues), Rooms(nodes), pack=pack))
    assert len({task.key for task, _, _ in placed}) == len(placed)
    for task, node, _ in placed:
        free[node] -= task.slots
    assert all(left >= 0 for left in free.values())
    assert free == {room.node: room.free for room in nodes}


@given(situations())
def test_nothing_that_fits_is_left_waiting_and_no_job_exceeds_its_limit(situation: tuple[list[Queue], list[Room], bool]) -> None:
    queues, nodes, pack = situation
    placed = {task.key for task, _, _ in place(in_turn(queues), Rooms(nodes), pack=pack)}
    largest = max((room.free for room in nodes), default=0)
    for queue in queues:
        started = sum(task.key in placed for task in tasks_of(queue))
        assert queue.may_start is None or started <= queue.may_start
        if queue.may_start is None or started < queue.may_start:
            assert all(task.slots > largest for task in tasks_of(queue) if task.key not in placed)


@given(situations())
def test_a_task_starts_only_when_nothing_of_a_higher_priority_fits(situation: tuple[list[Queue], list[Room], bool]) -> None:
    queues, nodes, pack = situation
    free = {room.node: room.free for room in nodes}
    waiting = {task.key: (task, queue) for queue in queues for task in tasks_of(queue)}
    started = dict.fromkeys(range(len(queues)), 0)
    for task, node, _ in list(place(in_turn(queues), Rooms(nodes), pack=pack)):
        priority = waiting.pop(task.key)[1].priority
        for key, (other, queue) in waiting.items():
            allowed = queue.may_start is None or started[job_of(key)] < queue.may_start
            assert not (queue.priority > priority and allowed and other.slots <= max(free.values()))
        free[node] -= task.slots
        started[job_of(task.key)] += 1


@given(situations(largest=1))
def test_equal_jobs_end_up_even(situation: tuple[list[Queue], list[Room], bool]) -> None:
    queues, nodes, pack = situation
    started = dict.fromkeys(range(len(queues)), 0)
    for task, _, _ in place(in_turn(queues), Rooms(nodes), pack=pack):
        started[job_of(task.key)] += 1
    for number, queue in enumerate(queues):
        hungry = started[number] < len(tasks_of(queue)) and (queue.may_start is None or started[number] < queue.may_start)
        for other, rival in enumerate(queues):
            if hungry and rival.priority == queue.priority and started[other]:
                assert rival.running + started[other] <= queue.running + started[number] + 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 20))
def test_spread_keeps_nodes_even_and_pack_opens_one_at_a_time(free: list[int], tasks: int) -> None:
    queue = job(1, *[1] * tasks)
    spread = rooms(*free)
    list(place([queue], Rooms(spread), pack=False))
    touched = [room.free for room, before in zip(spread, free, strict=True) if room.free < before]
    assert not touched or max(room.free for room in spread) <= min(touched) + 1
    packed = rooms(*free)
    list(place([queue], Rooms(packed), pack=True))
    assert sum(0 < room.free < before for room, before in zip(packed, free, strict=True)) <= 1
