"""Which task goes to which node: priority first, even among equal jobs, pack or spread within the pool (contract 3.1, 3.2).

A task that finds no room is waited for: the node that will soonest have enough is held, and nothing else starts there. Against jobs
of lower priority every such task holds a node at once; among equals only the first in turn does, once its patience is at an end, and
it goes before them until it has started.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

PATIENCE_US = 10_000_000
"""So long since it was added a task that finds no room lets its equals pass on all nodes."""
MOST_PASSED = 20
"""Lines of one priority that are passed over before a node is held whatever their patience."""


class Waiting(msgspec.Struct):
    """A task that may start now."""

    key: int
    slots: int
    prefers: int | None = None
    """Node named by affinityInfo: taken when it has room, otherwise any."""
    exclusive: bool = False
    """Takes an empty node whole, whatever its slots (a job manager with runExclusive)."""
    dedicated_only: bool = False
    ahead: bool = False
    """Goes before all others of its job: its manager, or one that a node is held for."""
    patient: bool = False
    """Waits for less than `PATIENCE_US`: its equals may still pass it."""
    job: int = 0


class Room(msgspec.Struct):
    """A node with free slots; placing uses `free` up."""

    node: int
    free: int
    slots: int = 0
    """All slots of the node; what an exclusive task takes."""
    dedicated: bool = True
    held: Waiting | None = None
    """The task that the node is held for: no other starts there."""
    kept: bool = False
    """Held against equals too: from now on the task goes before them, or each would take its turn as soon as there is room."""

    def need(self, task: Waiting) -> int:
        """Slots that the task takes here."""
        return self.slots if task.exclusive else task.slots

    def takes(self, task: Waiting, closed: Collection[int]) -> bool:
        """True when the task may run here, room or not."""
        return self.node not in closed and (self.dedicated or not task.dedicated_only)


class Queue(msgspec.Struct):
    """The ready tasks of one job."""

    priority: int
    running: int
    """Tasks of the job that hold slots already; among equal jobs the one with fewest goes first."""
    lines: Iterable[Iterable[Waiting]]
    """By what they need, in the order they were added; where one finds no room, none behind it in its line does. Read once."""
    may_start: int | None = None
    """How many more maxParallelTasks permits; None for no limit."""
    closed: frozenset[int] = frozenset()
    """Nodes that the job cannot use, because its preparation task failed there."""
    first: bool = False
    """Its first task goes before those of equal jobs: one that a node is held for, or a manager that is restarted (contract 3.5)."""
    late: bool = False
    """None of its tasks finds room now; it comes behind its equals, only to hold nodes against jobs of lower priority."""


def place(queues: Iterable[Queue], rooms: Sequence[Room], *, pack: bool, oldest_first: bool = False) -> Iterator[tuple[Waiting, int, int]]:
    """Yield (task, node, slots held) in the order of starts; uses up `rooms`, and notes there which nodes are held for whom.

    `queues` come by priority, equal ones in the order of their turns (`late` ones last), and are read only as far as there is room.
    Jobs of equal priority take turns by how much they already run, so none starves the other; with `oldest_first` each is
    served until nothing of it finds room.
    """
    return _Round(queues, rooms, pack, oldest_first).starts()


def soonest(task: Waiting, rooms: Iterable[Room], closed: Collection[int]) -> list[Room]:
    """Nodes that nobody holds and that can become roomy enough for a task, the soonest first: what has the most free slots.

    When running tasks end is not known, so what is missing is all there is to go by. A node that is held gains room and
    loses none, so the choice changes only for a node that has more.
    """
    able = [room for room in rooms if room.held is None and room.slots >= room.need(task) and room.takes(task, closed)]
    return sorted(able, key=lambda room: (-room.free, room.node != task.prefers, room.node))


class _Turn:
    """A job that takes its turn: what of it comes next, and how many more of it may start or be waited for."""

    __slots__ = ("_opened", "left", "lines", "number", "queue", "running")

    def __init__(self, queue: Queue, number: int) -> None:
        self.queue, self.number = queue, number
        self.left, self.running = queue.may_start, queue.running
        self.lines: list[tuple[bool, int, Waiting, Iterator[Waiting]]] = []
        self._opened = False

    def open(self) -> None:
        """Read what waits first, once it is the job's turn."""
        if not self._opened:
            self._opened = True
            for line in self.queue.lines:
                self.follow(iter(line))

    def follow(self, line: Iterator[Waiting]) -> None:
        """Let the next task of a line wait for its turn."""
        task = next(line, None)
        if task is not None:
            heapq.heappush(self.lines, (not task.ahead, task.key, task, line))

    def take(self) -> None:
        """Count a task that starts, or that a node is held for."""
        self.running += 1
        self.left = None if self.left is None else self.left - 1

    @property
    def full(self) -> bool:
        """True when maxParallelTasks is reached."""
        return self.left is not None and self.left <= 0


class _Round:
    """One round of placement."""

    def __init__(self, queues: Iterable[Queue], rooms: Sequence[Room], pack: bool, oldest_first: bool) -> None:
        self._queues, self._rooms, self._pack, self._oldest_first = iter(queues), rooms, pack, oldest_first
        self._order: list[tuple[tuple[int, bool, bool, int, int], _Turn]] = []
        self._ahead: _Turn | None = None
        self._number = 0
        self._passed: list[tuple[_Turn, Waiting, Iterator[Waiting]]] = []
        """Lines of the present priority that found no room and hold no node yet."""
        self._holds = False
        """True when a node is held for a task of the present priority."""

    def starts(self) -> Iterator[tuple[Waiting, int, int]]:
        """Yield (task, node, slots held)."""
        level: tuple[int, bool] | None = None
        largest = self._largest()
        while largest > 0 and (turn := self._next()) is not None:
            if level != (turn.queue.priority, turn.queue.late):
                self._hold_for_passed()
                self._holds = self._holds and level is not None and level[0] == turn.queue.priority
                level = (turn.queue.priority, turn.queue.late)
            turn.open()
            while turn.lines and not turn.full:
                _, _, task, line = heapq.heappop(turn.lines)
                room = self._room_for(task, turn.queue.closed) if task.slots <= largest or task.exclusive else None
                if room is None:
                    self._pass_over(turn, task, line)
                    continue
                held = room.need(task)
                room.free -= held
                yield task, room.node, held
                turn.take()
                turn.follow(line)
                self._again(turn)
                break
            largest = self._largest()

    def _largest(self) -> int:
        return max((room.free for room in self._rooms if room.held is None), default=0)

    def _read(self) -> _Turn | None:
        if self._ahead is None and (queue := next(self._queues, None)) is not None:
            self._number += 1
            self._ahead = _Turn(queue, self._number)
        return self._ahead

    def _next(self) -> _Turn | None:
        """Whose turn it is: no more queues are read than it takes to know."""
        while (ahead := self._read()) is not None and (not self._order or self._key(ahead, ahead.queue.first) < self._order[0][0]):
            self._again(ahead, first=ahead.queue.first)
            self._ahead = None
        return heapq.heappop(self._order)[1] if self._order else None

    def _again(self, turn: _Turn, *, first: bool = False) -> None:
        heapq.heappush(self._order, (self._key(turn, first), turn))

    def _key(self, turn: _Turn, first: bool) -> tuple[int, bool, bool, int, int]:
        return -turn.queue.priority, turn.queue.late, not first, 0 if self._oldest_first else turn.running, turn.number

    def _pass_over(self, turn: _Turn, task: Waiting, line: Iterator[Waiting]) -> None:
        """A task finds no room: the first of its priority holds a node, the others once no equal one is left to start."""
        if turn.queue.late:
            if self._hold(turn, task):
                turn.follow(line)
            return
        passed: Waiting | None = task
        patient = task.patient and len(self._passed) < MOST_PASSED
        if not self._holds and not patient and self._hold(turn, task, kept=True):
            passed = next(line, None)
        if passed is not None:
            self._passed.append((turn, passed, line))

    def _hold(self, turn: _Turn, task: Waiting, *, kept: bool = False) -> bool:
        rooms = soonest(task, self._rooms, turn.queue.closed)
        if not rooms:
            return False
        rooms[0].held, rooms[0].kept = task, kept
        self._holds = True
        turn.take()
        return True

    def _hold_for_passed(self) -> None:
        """What comes now is less important than all that was passed over."""
        for turn, first, line in self._passed:
            task: Waiting | None = first
            while task is not None and not turn.full and self._hold(turn, task):
                task = next(line, None)
        self._passed.clear()

    def _room_for(self, task: Waiting, closed: Collection[int]) -> Room | None:
        """Room for the task: the preferred node, else the fullest (pack) or emptiest (spread) that fits."""
        best: Room | None = None
        for room in self._rooms:
            if room.held is not None or room.free < room.need(task) or not room.takes(task, closed):
                continue
            if room.node == task.prefers:
                return room
            if best is None or (room.free < best.free if self._pack else room.free > best.free):
                best = room
        return best
