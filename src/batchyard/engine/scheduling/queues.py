"""The jobs that wait for a pool, in the order of their turns, read only as far as placement asks: what it costs depends on what can
start, not on what waits. The scheduler and explanations read the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge

from batchyard.engine.scheduling.demand import asked, demand
from batchyard.engine.settling import special_tasks
from batchyard.rules.placement import PATIENCE_US, GangRooms, Queue, Room, Rooms, Waiting, is_resting, most_held, place
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import ready
from batchyard.store.jobs import BARRED, JobDemand
from batchyard.store.pools import PoolRoom
from batchyard.store.reader import Reader
from batchyard.store.ready import ReadyTask
from batchyard.store.tasks import ALL as ANY_SIZE

MOST_BARRED, BARRED_US = 8, 30_000_000
"""Jobs that may not run where there was room and are looked at in one round, and how long none of them waits for a look."""
MOST_NEW = 32
"""Jobs that are looked at in vain for the first time since something of them became ready, in one round; further ones in the next."""
_MOST_JOBS, _MOST_TASKS = 64, 256
"""Rows of one look; the first look takes what may start, each further one twice as many."""


class Queues:
    """One round: the room of a pool and who waits for it."""

    def __init__(self, reader: Reader, pool: PoolRoom, now: int) -> None:
        self._reader, self._pool, self._key, self._now = reader, pool, pool.id.lower(), now
        jobs, nodes = asked(reader, self._key), node_rows.free(reader, pool.pk)
        self._holding = job_rows.holding(reader, self._key)
        self.demand = demand(reader, self._key, jobs)
        self.rooms = [Room(node.pk, node.free, node.slots, bool(node.dedicated)) for node in nodes]
        self._whole = max((room.slots for room in self.rooms), default=0)
        """The most slots of one node."""
        usable = node_rows.usable(reader, pool.pk) if pool.takes_gangs else frozenset()
        self._largest = len(usable) if pool.takes_gangs else self._whole
        """What a task may need at most to run here at all: slots of a node, or that many nodes where each has one."""
        self._rooms = GangRooms(self.rooms, usable) if pool.takes_gangs else Rooms(self.rooms, most_held(pool.nodes))
        self.names = {node.pk: node.id for node in nodes}
        self._by_name = {node.id.lower(): node.pk for node in nodes}
        self._share = sum(room.free for room in self.rooms) // self.demand.few if self.demand.few else 0
        """Free slots for each job, where these are few."""
        self._sizes: list[int] = []
        self._barred: list[JobDemand] = []
        self._new: list[Queue] = []
        """Those of jobs that nobody had looked at, until something of them starts."""
        self.jobs: dict[int, JobDemand] = {}
        """Those that were looked at."""
        self._queues_of: dict[int, Queue] = {}
        self._smallest: dict[int, int] = {}
        """What the smallest task needs of jobs that had their turn."""
        self._marked: list[Waiting] = []
        """Tasks that a node was held for before, of jobs that had their turn."""
        self.not_restarted: list[int] = []
        """Jobs of which no manager waits to run again, other than was thought."""

    def starts(self) -> Iterator[tuple[Waiting, int, int]]:
        """What starts where, as `placement.place` says."""
        return place(self._queues(), self._rooms, pack=bool(self._pool.pack), oldest_first=bool(self._pool.oldest_first))

    def kept(self) -> list[int]:
        """Keys of the tasks that a node is held for against their equals."""
        return list(dict.fromkeys(room.held.key for room in self.rooms if room.held is not None and room.kept))

    def held_gangs(self) -> set[int]:
        """Keys of the multi-instance tasks that nodes are held for."""
        return {room.held.key for room in self.rooms if room.held is not None and room.held.gang}

    def lost(self) -> list[int]:
        """Keys of the tasks that a node was held for, and that had their turn without any."""
        held = {room.held.key for room in self.rooms if room.held is not None}
        return [task.key for task in self._marked if task.passed and task.key not in held]

    def smallest(self) -> dict[int, int]:
        """What to note of jobs that had their turn: what their smallest task needs if that is too much, or that they are barred."""
        found: dict[int, int] = {}
        for pk, smallest in self._smallest.items():
            queue, before = self._queues_of[pk], self.jobs[pk].smallest
            if queue.barred and not queue.served:
                found[pk] = BARRED
            elif before == BARRED or (not queue.served and smallest > before):
                found[pk] = smallest
        return found

    @property
    def unseen(self) -> bool:
        """True when more jobs are due for a look: new ones, or such that may not run where there was room."""
        if not self._may_look and self._rooms.free:
            return True
        looked = len(self._barred) == MOST_BARRED and all(job.pk in self._smallest for job in self._barred)
        return looked and self._barred[-1].looked < self._now - BARRED_US

    @property
    def _may_look(self) -> bool:
        """False once enough new jobs were looked at in vain."""
        self._new = [queue for queue in self._new if not queue.served]
        return len(self._new) < MOST_NEW

    def _queues(self) -> Iterator[Queue]:
        first = [*self.demand.restarted(), *self._holding]
        self._barred = self.demand.barred(MOST_BARRED)
        self._sizes = self.demand.sizes(0, self._largest)
        priority = self._highest(first)
        while priority is not None:
            yield from self._of_priority(priority, [job for job in first if job.priority == priority])
            priority = self._highest(first, priority)

    def _highest(self, first: list[JobDemand], below: int = job_rows.ABOVE_ALL) -> int | None:
        """The next priority of which something may start or be waited for."""
        most = self._largest if self._rooms.may_hold else self._rooms.free
        found = self.demand.highest(below, (0 if self._may_look else 1, most))
        others = [job.priority for job in first + self._barred if job.priority < below]
        return max(others + ([] if found is None else [found]), default=None)

    def _of_priority(self, priority: int, first: list[JobDemand]) -> Iterator[Queue]:
        for job in first:
            if job.pk not in self.jobs:
                yield self._queue(job, first=True)
        before = self._rooms.holds

        def may_start(size: int) -> bool:
            """Or be the first of its priority for which a node is held."""
            return size <= (self._largest if self._rooms.holds == before and self._rooms.may_hold else self._rooms.free)

        for job in self._in_turn(priority, may_start):
            yield self._queue(job)
        if self._rooms.may_hold and self._highest([], priority) is not None:
            for job in self._in_turn(priority, lambda size: self._rooms.free < size and self._rooms.may_hold):
                yield self._queue(job, late=True)

    def _in_turn(self, priority: int, wanted: Callable[[int], bool]) -> Iterator[JobDemand]:
        """Jobs of a priority in turn that were not yet looked at, of the sizes that are wanted by then."""
        sizes = [self._of_size(priority, size, wanted) for size in self._sizes if wanted(size)]
        barred = sorted((job for job in self._barred if job.priority == priority), key=self._turn)
        for job in merge(barred, *sizes, key=self._turn):
            if job.pk not in self.jobs and wanted(job.smallest):
                yield job

    def _of_size(self, priority: int, size: int, wanted: Callable[[int], bool]) -> Iterator[JobDemand]:
        behind: JobDemand | None = None
        n = 1
        while wanted(size) and (size > 0 or self._may_look):
            found = self.demand.in_turn(priority, size, behind, n, oldest_first=bool(self._pool.oldest_first))
            for job in found:
                if size == 0 and not self._may_look:
                    return
                yield job
            if len(found) < n:
                return
            behind, n = found[-1], min(2 * n, _MOST_JOBS)

    def _turn(self, job: JobDemand) -> tuple[int, int]:
        return 0 if self._pool.oldest_first else job.running, job.pk

    def _queue(self, job: JobDemand, *, first: bool = False, late: bool = False) -> Queue:
        self.jobs[job.pk] = job
        closed = special_tasks.closed(self._reader, job.pk) if job.prepares else frozenset[int]()
        may_start = None if job.max_parallel < 0 else job.max_parallel - job.running
        queue = Queue(job.priority, job.running, self._lines(job), may_start, closed, job.pk, first, late)
        self._queues_of[job.pk] = queue
        self._new += [queue] if job.smallest == 0 else []
        return queue

    def _lines(self, job: JobDemand) -> Iterator[Iterable[Waiting]]:
        every, sizes = ready.managers(self._reader, job.pk, ANY_SIZE), ready.sizes(self._reader, job.pk, self._whole)
        gangs = ready.gang_sizes(self._reader, job.pk, self._largest) if self._pool.takes_gangs else []
        if job.restarted and not any(task.restarted for task in every):
            self.not_restarted.append(job.pk)
        managers = [task for task in every if task.exclusive or task.slots <= self._whole]
        plain = ready.least(self._reader, job.pk, managers, sizes, self._whole)
        self._smallest[job.pk] = min([*([] if plain is None else [plain]), *gangs], default=self._largest + 1)
        marked = ready.holding(self._reader, job.pk) if any(one.pk == job.pk for one in self._holding) else []
        marked = [task for task in marked if self._pool.takes_gangs or not task.instances]
        for task in {task.pk: task for task in managers + marked}.values():
            waiting = self._waiting(job, task)
            self._marked += [waiting] * task.holds
            yield [waiting]
        yield from (self._line(job, slots, ready.of_size) for slots in sizes)
        yield from (self._line(job, nodes, ready.gangs) for nodes in gangs)

    def _line(self, job: JobDemand, slots: int, read: Callable[[Reader, int, int, int, int], list[ReadyTask]]) -> Iterator[Waiting]:
        """Tasks of a size but for those that go before all others."""
        after, n = 0, min(self._share // slots + 1, _MOST_TASKS)
        while True:
            found = read(self._reader, job.pk, slots, after, n)
            yield from (self._waiting(job, task) for task in found if not (task.manager or task.holds))
            if len(found) < n:
                return
            after, n = found[-1].pk, min(2 * n, _MOST_TASKS)

    def _waiting(self, job: JobDemand, task: ReadyTask) -> Waiting:
        prefers = None if task.affinity is None else self._by_name.get(task.affinity)
        return Waiting(
            task.pk,
            task.slots,
            prefers,
            bool(task.exclusive),
            bool(task.dedicated_only),
            bool(task.manager or task.holds),
            bool(task.restarted or task.holds),
            not task.holds and self._now - task.since < PATIENCE_US,
            job.pk,
            gang=task.instances > 0,
            resting=task.instances > 0 and is_resting(task.held_since, self._now),
        )
