"""Which task goes to which node: priority first, even among equal jobs, pack or spread within the pool (contract 3.1, 3.2)."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec


class Room(msgspec.Struct):
    """A node with free slots; placing uses `free` up."""

    node: int
    free: int
    slots: int = 0
    """All slots of the node; what an exclusive task takes."""
    dedicated: bool = True


class Waiting(msgspec.Struct):
    """A task that may start now."""

    key: int
    slots: int
    prefers: int | None = None
    """Node named by affinityInfo: taken when it has room, otherwise any."""
    exclusive: bool = False
    """Takes an empty node whole, whatever its slots (a job manager with runExclusive)."""
    dedicated_only: bool = False


class Queue(msgspec.Struct):
    """The ready tasks of one job, in the order they were added."""

    priority: int
    running: int
    """Tasks of the job that hold slots already; among equal jobs the one with fewest goes first."""
    tasks: Sequence[Waiting]
    may_start: int | None = None
    """How many more maxParallelTasks permits; None for no limit."""
    closed: frozenset[int] = frozenset()
    """Nodes that the job cannot use, because its preparation task failed there."""
    first: bool = False
    """Its first task goes before those of equal jobs: a job manager that is restarted (contract 3.5)."""


def place(queues: Iterable[Queue], rooms: Sequence[Room], *, pack: bool) -> Iterator[tuple[Waiting, int, int]]:
    """Yield (task, node, slots held) in the order of starts; uses up `rooms`. A task that fits nowhere is passed over.

    A job of higher priority is served until nothing of it fits, then the next. Jobs of equal priority take turns by
    how much they already run, so none starves the other.
    """
    order = [
        (-queue.priority, not queue.first, queue.running, turn, deque(queue.tasks), queue.may_start, queue.closed)
        for turn, queue in enumerate(queues)
    ]
    heapq.heapify(order)
    largest = max((room.free for room in rooms), default=0)
    while order and largest > 0:
        priority, _, running, turn, tasks, may_start, closed = heapq.heappop(order)
        if may_start is not None and may_start <= 0:
            continue
        while tasks:
            task = tasks.popleft()
            room = _room_for(task, rooms, closed, pack=pack) if task.slots <= largest or task.exclusive else None
            if room is None:
                continue
            held = room.slots if task.exclusive else task.slots
            room.free -= held
            largest = max(r.free for r in rooms) if room.free + held == largest else largest
            yield task, room.node, held
            heapq.heappush(order, (priority, True, running + 1, turn, tasks, None if may_start is None else may_start - 1, closed))
            break


def _room_for(task: Waiting, rooms: Sequence[Room], closed: Collection[int], *, pack: bool) -> Room | None:
    """Room for the task: the preferred node, else the fullest (pack) or emptiest (spread) that fits."""
    best: Room | None = None
    for room in rooms:
        if room.free < (room.slots if task.exclusive else task.slots):
            continue
        if room.node in closed or (task.dedicated_only and not room.dedicated):
            continue
        if room.node == task.prefers:
            return room
        if best is None or (room.free < best.free if pack else room.free > best.free):
            best = room
    return best
