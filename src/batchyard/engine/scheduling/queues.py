"""The jobs that wait for a pool, in the order of their turns, read only as far as placement asks: what it costs depends on what can
start, not on what waits. The scheduler and explanations read the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from batchyard.engine.settling import special_tasks
from batchyard.rules.placement import PATIENCE_US, Queue, Room, Waiting, place
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import ready
from batchyard.store.jobs import JobDemand
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.ready import ReadyTask

_MOST_JOBS, _MOST_TASKS = 64, 256
"""Rows of one look; the first look takes one, each further one twice as many."""


class Queues:
    """One round: the room of a pool and who waits for it."""

    def __init__(self, reader: Reader, pool: PoolView, now: int) -> None:
        self._reader, self._pool, self._key, self._now = reader, pool, pool.id.lower(), now
        nodes = node_rows.free(reader, self._key)
        self.rooms = [Room(node.pk, node.free, node.slots, bool(node.dedicated)) for node in nodes]
        self.names = {node.pk: node.id for node in nodes}
        self._by_name = {node.id.lower(): node.pk for node in nodes}
        self._largest = max((room.slots for room in self.rooms), default=0)
        self.jobs: dict[int, JobDemand] = {}
        """Those that were looked at."""
        self.smallest: dict[int, int] = {}
        """What the smallest task needs of jobs that had been looked at in vain."""

    def starts(self) -> Iterator[tuple[Waiting, int, int]]:
        """What starts where, as `placement.place` says."""
        return place(self._queues(), self.rooms, pack=bool(self._pool.pack), oldest_first=bool(self._pool.oldest_first))

    def kept(self) -> list[int]:
        """Keys of the tasks that a node is held for against their equals."""
        return [room.held.key for room in self.rooms if room.held is not None and room.kept]

    def _queues(self) -> Iterator[Queue]:
        first = job_rows.restarted(self._reader, self._key) + job_rows.holding(self._reader, self._key)
        priority = job_rows.highest(self._reader, self._key)
        while priority is not None:
            below = job_rows.highest(self._reader, self._key, priority)
            yield from self._of_priority(priority, [job for job in first if job.priority == priority], last=below is None)
            priority = below

    def _of_priority(self, priority: int, first: list[JobDemand], *, last: bool) -> Iterator[Queue]:
        for job in first:
            if job.pk not in self.jobs:
                yield self._queue(job, first=True)
        held = self._held()
        for job in self._in_turn(priority, lambda: (0, self._largest if self._held() == held else self._free())):
            yield self._queue(job)
        if not last and self._free() < self._largest:
            for job in self._in_turn(priority, lambda: (self._free() + 1, self._largest)):
                yield self._queue(job, late=True)

    def _in_turn(self, priority: int, sizes: Callable[[], tuple[int, int]]) -> Iterator[JobDemand]:
        """Jobs of a priority in turn that were not yet looked at, of the sizes that count by then."""
        behind: JobDemand | None = None
        n = 1
        while True:
            found = job_rows.in_turn(self._reader, self._key, priority, sizes(), behind, n, oldest_first=bool(self._pool.oldest_first))
            yield from (job for job in found if job.pk not in self.jobs)
            if len(found) < n:
                return
            behind, n = found[-1], min(2 * n, _MOST_JOBS)

    def _held(self) -> int:
        return sum(room.held is not None for room in self.rooms)

    def _free(self) -> int:
        return max((room.free for room in self.rooms if room.held is None), default=0)

    def _queue(self, job: JobDemand, *, first: bool = False, late: bool = False) -> Queue:
        self.jobs[job.pk] = job
        closed = special_tasks.closed(self._reader, job.pk) if job.prepares else frozenset[int]()
        may_start = None if job.max_parallel < 0 else job.max_parallel - job.running
        return Queue(job.priority, job.running, self._lines(job), may_start, closed, first, late)

    def _lines(self, job: JobDemand) -> Iterator[Iterable[Waiting]]:
        managers = ready.managers(self._reader, job.pk, self._largest)
        holding = ready.holding(self._reader, job.pk, self._largest)
        sizes = ready.sizes(self._reader, job.pk, self._largest)
        smallest = sizes[0] if sizes else self._largest + 1
        if not managers and smallest > max(job.smallest, self._free()):
            self.smallest[job.pk] = smallest
        yield [self._waiting(job, task) for task in managers]
        yield [self._waiting(job, task) for task in holding if not task.manager]
        for slots in sizes:
            yield self._line(job, slots)

    def _line(self, job: JobDemand, slots: int) -> Iterator[Waiting]:
        """Tasks of a size but for those that go before all others."""
        after, n = 0, 1
        while True:
            found = ready.of_size(self._reader, job.pk, slots, after, n)
            yield from (self._waiting(job, task) for task in found if not (task.manager or task.holds))
            if len(found) < n:
                return
            after, n = found[-1].pk, min(2 * n, _MOST_TASKS)

    def _waiting(self, job: JobDemand, task: ReadyTask) -> Waiting:
        prefers = None if task.affinity is None else self._by_name.get(task.affinity)
        return Waiting(
            task.pk, task.slots, prefers, bool(task.exclusive), bool(task.dedicated_only), bool(task.manager or task.holds),
            not task.holds and self._now - task.since < PATIENCE_US, job.pk,
        )  # fmt: skip
