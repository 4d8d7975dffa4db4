"""Which task goes to which node: priority first, even among equal jobs, pack or spread within the pool (contract 3.1, 3.2).

A task that finds no room is waited for: the node that will soonest have enough is held, and nothing else starts there. Against jobs
of lower priority every such task holds a node at once; among equals only the first in turn does, once its patience is at an end, and
it goes before them until it has started. Only it does: its job takes its turns as any other. No more than a share of the nodes is held.

A multi-instance task takes a whole node for each instance, all at once or none (contract 3.10). While it waits the free nodes are held
for it, however many it needs, but for one such task at a time, only where the pool has enough of them, and not for ever: see `is_resting`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

PATIENCE_US = 10_000_000
"""So long since it was added a task that finds no room lets its equals pass on all nodes."""
MOST_PASSED = 20
"""Lines of one priority that are passed over before a node is held whatever their patience."""
HELD_SHARE, MOST_HELD = 4, 64
"""One of so many nodes of a pool may be held, and no more than so many: each round finds anew which."""
GANG_HOLD_US = 600_000_000
"""So long nodes are kept free for a multi-instance task at first."""


def is_resting(since: int | None, now: int) -> bool:
    """True while no node is kept free for a multi-instance task, for which that was first done at `since`, in microseconds.

    Nodes are kept for a while, then given to others for as long, then kept for twice as long, and so on. So whoever else waits gets half
    of the time, even beside tasks that never end, and the task starts once the nodes were kept for longer than what runs there still takes.
    """
    if since is None:
        return False
    elapsed, span = max(0, now - since), GANG_HOLD_US
    while elapsed >= 2 * span:
        elapsed, span = elapsed - 2 * span, 2 * span
    return elapsed >= span


class Waiting(msgspec.Struct):
    """A task that may start now."""

    key: int
    slots: int
    """Of a multi-instance task those of all its instances: as many as the nodes that it takes."""
    prefers: int | None = None
    """Node named by affinityInfo: taken when it has room, otherwise any."""
    exclusive: bool = False
    """Takes an empty node whole, whatever its slots (a job manager with runExclusive)."""
    dedicated_only: bool = False
    ahead: bool = False
    """Goes before all others of its job: its manager, or one that a node is held for."""
    first: bool = False
    """Goes before equal jobs too: one that a node is held for against them, or a manager that is restarted (contract 3.5)."""
    patient: bool = False
    """Waits for less than `PATIENCE_US`: its equals may still pass it."""
    job: int = 0
    passed: bool = False
    """Set when it had its turn in vain: no room, and no node was held for it then."""
    gang: bool = False
    """A multi-instance task: one slot on each of `slots` nodes."""
    resting: bool = False
    """No node is to be held for it at the moment."""


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
        if task.gang:
            return 1
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
    age: int = 0
    """Lower for a job that was added earlier: it goes first among those that run as many."""
    first: bool = False
    """Some task of it may go before equal jobs."""
    late: bool = False
    """None of its tasks finds room now; it comes behind its equals, only to hold nodes against jobs of lower priority."""
    served: bool = False
    """Set when a task of it starts, or a node is held for one."""
    barred: bool = False
    """Set when a task of it had its turn in vain not for want of room but because it may not run where there is some."""


def most_held(nodes: int) -> int:
    """How many of a pool's nodes may be held at a time, one at least."""
    return min(MOST_HELD, max(1, nodes // HELD_SHARE))


class Rooms:
    """The nodes with room, those that nobody holds in the order of what is free: a step costs the same however many there are."""

    def __init__(self, rooms: Sequence[Room], most: int | None = None) -> None:
        """`most`: how many may be held."""
        self.all, self._left = rooms, len(rooms) if most is None else most
        self._order = sorted((-room.free, room.node, nth) for nth, room in enumerate(rooms))
        self._nth = {room.node: nth for nth, room in enumerate(rooms)}
        self._least = min((room.slots for room in rooms), default=0)
        self.holds = 0
        """How many are held."""

    @property
    def free(self) -> int:
        """The most slots that a task can have now: what is free on one node."""
        return -self._order[0][0] if self._order else 0

    @property
    def may_hold(self) -> bool:
        """True while the share that may be held is not used up and there is a node left."""
        return self._left > 0 and bool(self._order)

    def take(self, room: Room, slots: int) -> None:
        """Use up slots of a node."""
        self._remove(room)
        room.free -= slots
        insort(self._order, (-room.free, room.node, self._nth[room.node]))

    def hold(self, room: Room, task: Waiting, *, kept: bool) -> None:
        """Let nothing else start on a node."""
        self._remove(room)
        room.held, room.kept = task, kept
        self.holds += 1
        self._left -= 1

    def _remove(self, room: Room) -> None:
        del self._order[bisect_left(self._order, (-room.free, room.node))]

    def room_for(self, task: Waiting, closed: Collection[int], *, pack: bool) -> Room | None:
        """Room for the task: the preferred node, else the fullest (pack) or emptiest (spread) that fits."""
        if task.prefers in self._nth:
            room = self.all[self._nth[task.prefers]]
            if room.held is None and room.free >= room.need(task) and room.takes(task, closed):
                return room
        needed = self._least if task.exclusive else task.slots
        fitting = (room for room in self._by_free(needed, pack=pack) if room.free >= room.need(task) and room.takes(task, closed))
        return next(fitting, None)

    def _by_free(self, needed: int, *, pack: bool) -> Iterator[Room]:
        """Nodes with so many free slots, the fullest or the emptiest first."""
        end = bisect_left(self._order, (1 - needed,))
        while end:
            start = bisect_left(self._order, (self._order[end - 1][0],)) if pack else 0
            yield from (self.all[self._order[at][2]] for at in range(start, end))
            end = start

    def all_for(self, task: Waiting, closed: Collection[int], *, pack: bool) -> list[Room]:
        """Where the task starts; nowhere when it finds no room."""
        room = self.room_for(task, closed, pack=pack)
        return [] if room is None else [room]

    def to_hold(self, task: Waiting, closed: Collection[int]) -> list[Room]:
        """What may be held for a task that finds no room."""
        room = self.soonest(task, closed)
        return [] if room is None else [room]

    def soonest(self, task: Waiting, closed: Collection[int]) -> Room | None:
        """The node that nobody holds and that will soonest have enough for a task: what has the most free slots.

        When running tasks end is not known, so what is missing is all there is to go by. A node that is held gains room and
        loses none, so the choice changes only for a node that has more.
        """
        able = (self.all[nth] for _, _, nth in self._order if self._suits(self.all[nth], task, closed))
        best = next(able, None)
        if best is not None and task.prefers in self._nth:
            preferred = self.all[self._nth[task.prefers]]
            if preferred.held is None and preferred.free == best.free and self._suits(preferred, task, closed):
                return preferred
        return best

    def _suits(self, room: Room, task: Waiting, closed: Collection[int]) -> bool:
        return room.slots >= room.need(task) and room.takes(task, closed)

    def bars(self, task: Waiting, closed: Collection[int]) -> bool:
        """True when a task that finds no room would find some, now or soon, if it might run everywhere."""
        enough = self.free >= (self._least if task.exclusive else task.slots)
        return bool(self._order) and (enough or self.soonest(task, closed) is None)


class GangRooms(Rooms):
    """The nodes of a pool in which multi-instance tasks run: each has one slot, so what is free is a number of nodes."""

    def __init__(self, rooms: Sequence[Room], usable: Collection[int]) -> None:
        """`usable`: the nodes of the pool that take tasks, free or not."""
        super().__init__(rooms)
        self._usable = frozenset(usable)

    @property
    def free(self) -> int:
        """How many nodes are free and not held."""
        return bisect_left(self._order, (0,))

    @property
    def may_hold(self) -> bool:
        """True while none is held: of two multi-instance tasks that shared the free nodes neither might ever start."""
        return self.holds == 0 and self.free > 0

    def all_for(self, task: Waiting, closed: Collection[int], *, pack: bool) -> list[Room]:
        """As many nodes as the task has instances, the preferred one first, or none."""
        if not task.gang:
            return super().all_for(task, closed, pack=pack)
        found = self._fitting(task, closed)[: task.slots]
        return found if len(found) == task.slots else []

    def to_hold(self, task: Waiting, closed: Collection[int]) -> list[Room]:
        """All free nodes, which are not enough, for a task for which enough can become free. What needs one node alone needs no hold."""
        if not task.gang or task.resting or task.slots > len(self._usable.difference(closed)):
            return []
        return self._fitting(task, closed)

    def _fitting(self, task: Waiting, closed: Collection[int]) -> list[Room]:
        fitting = [self.all[nth] for _, _, nth in self._order[: self.free] if self.all[nth].takes(task, closed)]
        return sorted(fitting, key=lambda room: room.node != task.prefers)

    def bars(self, task: Waiting, closed: Collection[int]) -> bool:
        """True when a task that finds no room would find some if it might run everywhere."""
        return self.free >= (1 if task.exclusive else task.slots)


def place(queues: Iterable[Queue], rooms: Rooms, *, pack: bool, oldest_first: bool = False) -> Iterator[tuple[Waiting, int, int]]:
    """Yield (task, node, slots held) in the order of starts; uses up `rooms`, and notes there which nodes are held for whom.

    A multi-instance task comes once for each of its instances, that of the primary first, with nothing in between.

    `queues` come by priority, equal ones in the order of their turns (`first` ones first, `late` ones last), and are read only as far
    as there is room. Jobs of equal priority take turns by how much they already run, so none starves the other; with `oldest_first`
    each is served until nothing of it finds room.
    """
    return _Round(queues, rooms, pack, oldest_first).starts()


_Key = tuple[int, bool, bool, int, int, int]


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

    def take(self, *, held: bool = False) -> None:
        """Count a task that starts, or that a node is held for: that takes no turn from the others of its job before it runs."""
        self.queue.served = True
        self.running += not held
        self.left = None if self.left is None else self.left - 1

    @property
    def first(self) -> bool:
        """True when what comes next may go before equal jobs; before it was opened, as its queue says."""
        return bool(self.lines) and self.lines[0][2].first if self._opened else self.queue.first

    @property
    def full(self) -> bool:
        """True when maxParallelTasks is reached."""
        return self.left is not None and self.left <= 0


class _Round:
    """One round of placement."""

    def __init__(self, queues: Iterable[Queue], rooms: Rooms, pack: bool, oldest_first: bool) -> None:
        self._queues, self._rooms, self._pack, self._oldest_first = iter(queues), rooms, pack, oldest_first
        self._order: list[tuple[_Key, _Turn]] = []
        self._ahead: _Turn | None = None
        self._number = 0
        self._passed: list[tuple[_Turn, Waiting, Iterator[Waiting]]] = []
        """Lines of the present priority that found no room and hold no node yet."""
        self._holds = False
        """True when a node is held for a task of the present priority."""

    def starts(self) -> Iterator[tuple[Waiting, int, int]]:
        """Yield (task, node, slots held)."""
        level: tuple[int, bool] | None = None
        while self._rooms.free > 0 and (turn := self._next()) is not None:
            if level != (turn.queue.priority, turn.queue.late):
                self._hold_for_passed()
                self._holds = self._holds and level is not None and level[0] == turn.queue.priority
                level = (turn.queue.priority, turn.queue.late)
                if not self._rooms.free:
                    return
            first = turn.first
            turn.open()
            # A turn before its equals is for the tasks that go before them; whatever else the job has waits for its own.
            while turn.lines and not turn.full and turn.first >= first:
                _, _, task, line = heapq.heappop(turn.lines)
                rooms = self._rooms.all_for(task, turn.queue.closed, pack=self._pack)
                if rooms:
                    for room in rooms:
                        held = room.need(task)
                        self._rooms.take(room, held)
                        yield task, room.node, held
                    turn.take()
                    turn.follow(line)
                    break
                self._pass_over(turn, task, line)
            if turn.lines and not turn.full:
                self._again(turn)

    def _read(self) -> _Turn | None:
        if self._ahead is None and (queue := next(self._queues, None)) is not None:
            self._number += 1
            self._ahead = _Turn(queue, self._number)
        return self._ahead

    def _next(self) -> _Turn | None:
        """Whose turn it is: no more queues are read than it takes to know."""
        while (ahead := self._read()) is not None and (not self._order or self._key(ahead) < self._order[0][0]):
            self._again(ahead)
            self._ahead = None
        return heapq.heappop(self._order)[1] if self._order else None

    def _again(self, turn: _Turn) -> None:
        heapq.heappush(self._order, (self._key(turn), turn))

    def _key(self, turn: _Turn) -> _Key:
        queue, running = turn.queue, 0 if self._oldest_first else turn.running
        return -queue.priority, queue.late, not turn.first, running, queue.age, turn.number

    def _pass_over(self, turn: _Turn, task: Waiting, line: Iterator[Waiting]) -> None:
        """A task finds no room: the first of its priority holds a node, the others once no equal one is left to start."""
        task.passed = True
        turn.queue.barred |= self._rooms.bars(task, turn.queue.closed)
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
        rooms = self._rooms.to_hold(task, turn.queue.closed) if self._rooms.may_hold else []
        if not rooms:
            return False
        for room in rooms:
            self._rooms.hold(room, task, kept=kept)
        self._holds = True
        turn.take(held=True)
        return True

    def _hold_for_passed(self) -> None:
        """What comes now is less important than all that was passed over."""
        for turn, first, line in self._passed:
            task: Waiting | None = first
            while task is not None and not turn.full and self._hold(turn, task):
                task = next(line, None)
        self._passed.clear()
