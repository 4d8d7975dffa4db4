"""Makes room by requeuing running tasks where the contract allows it (3.1, 3.5): a restarted job manager may push off any task of no
higher priority, a task of a more important job those of jobs that allow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from batchyard.engine.settling import special_tasks
from batchyard.engine.settling.moves import give_back, requeue
from batchyard.rules.placement import Room
from batchyard.rules.preemption import Victim, choose, choose_nodes, reach, reach_nodes
from batchyard.rules.transitions import TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import ready
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import BARRED, JobDemand
from batchyard.store.pools import PoolRoom
from batchyard.store.ready import ReadyTask
from batchyard.store.tasks import ALL as ANY_SIZE
from batchyard.store.tasks import RunningTask
from batchyard.store.tx import Tx

MOST_ABLE = 100
"""Jobs of a pool that are looked at, which a look can be in vain for only if nodes are closed to them or they want dedicated ones."""

MOST_RESTARTED = 8
"""Jobs whose managers are to run again that are looked at."""


class _Pusher(msgspec.Struct, frozen=True):
    """A waiting task that may push others off a node."""

    task: ReadyTask
    job: JobDemand

    @property
    def restarted(self) -> bool:
        """True for a job manager that runs again: it may push any task of no higher priority."""
        return bool(self.task.restarted)

    def may_push(self, other: RunningTask) -> bool:
        """Whether a task that runs has to make room for this one."""
        if other.manager:
            return False
        if self.restarted and other.priority <= self.job.priority:
            return True
        return bool(other.preemptible) and other.priority < self.job.priority


def make_room(tx: Tx, pool: PoolRoom, rooms: Sequence[Room], now: int, *, restarted: bool) -> bool:
    """Requeue what stands in the way of one task that may push; False when nothing may or need be pushed.

    `rooms` are the nodes with room as placement left them: what is held for a task is room for nobody else. `restarted` says that a
    manager waited to run again before placement: there are no more of them behind it.
    """
    tx.write()
    key = pool.id.lower()
    lowest = job_rows.lowest_yielding(tx, key)
    again = job_rows.restarted(tx, key, MOST_RESTARTED) if restarted else []
    highest = job_rows.highest(tx, key) if again or lowest is not None else None
    if highest is None or not (again or (lowest is not None and lowest < highest)):
        return False
    return _Push(tx, pool, rooms, again, highest).push(now)


class _Push:
    """One look for a task that may push others off a node, the most important first."""

    def __init__(self, tx: Tx, pool: PoolRoom, rooms: Sequence[Room], restarted: Sequence[JobDemand], highest: int) -> None:
        self._tx, self._pool, self._rooms, self._restarted, self._highest = tx, pool, rooms, restarted, highest
        self._running = task_rows.running_of_pool(tx, pool.pk)
        self._held = {room.node: room.held.key for room in rooms if room.held is not None}
        self._holders = [job for pk in self._holding_jobs() if (job := job_rows.waiting(tx, pk)) is not None]
        """Jobs for whose tasks nodes are held already."""
        gangs = {room.held.job for room in rooms if room.held is not None and room.held.gang}
        self._gang_priority = max((job.priority for job in self._holders if job.pk in gangs), default=None)
        """Of the multi-instance task that nodes are held for, which gets what is freed before all that are not more important."""
        self._smallest: dict[int, int] = {}

    def _holding_jobs(self) -> Iterable[int]:
        return dict.fromkeys(room.held.job for room in self._rooms if room.held is not None)

    def push(self, now: int) -> bool:
        """Push off what stands in the way of the first task that it helps; whether there was one."""
        pushed = False
        for pusher in self._pushers():
            if pusher.restarted and pusher.job.priority < self._highest and not self._preempts(pusher):
                continue  # whatever it frees would go to the more important job
            if self._is_behind_a_gang(pusher):
                continue
            chosen = self._choose(pusher)
            for victim in chosen:
                _push_off(self._tx, victim, now)
            if pushed := bool(chosen):
                break
        job_rows.note_smallest(self._tx, self._smallest, now)
        return pushed

    def _is_behind_a_gang(self, pusher: _Pusher) -> bool:
        """True for a task whose freed node the next round would hold for a multi-instance task."""
        return self._gang_priority is not None and pusher.task.pk not in self._held.values() and pusher.job.priority <= self._gang_priority

    def _pushers(self) -> Iterator[_Pusher]:
        waiting = [(job, ANY_SIZE, True) for job in self._restarted]
        waiting += [(job, ANY_SIZE, False) for job in self._holders]
        waiting += [(job, most, False) for job, most in self._able()]
        for job, most, restarted in sorted(waiting, key=lambda one: -one[0].priority):
            tasks = (task for task in self._tasks(job, most) if not restarted or task.restarted)
            yield from (_Pusher(task, job) for task in tasks if task.pk in self._held.values() or not self._spent(job))

    def _spent(self, job: JobDemand) -> bool:
        """True when the tasks of the job that nodes are held for are all that its maxParallelTasks still allows."""
        holds = {room.held.key for room in self._rooms if room.held is not None and room.held.job == job.pk}
        return 0 <= job.max_parallel <= job.running + len(holds)

    def _able(self) -> Iterator[tuple[JobDemand, int]]:
        """Jobs that can have enough room on a node that is not held, or on several, with the most that they can have there."""
        yielding = [_victim(task) for task in self._running if task.preemptible and not task.manager and task.node_pk not in self._held]
        above: int | None = None
        free = [room for room in self._rooms if room.held is None and room.free]
        within = reach_nodes(yielding, len(free)) if self._pool.takes_gangs else reach(yielding, self._rooms)
        for priority, most in reversed(within):
            for job in job_rows.able(self._tx, self._pool.id.lower(), (priority, above), most, MOST_ABLE):
                yield job, most
            above = priority

    def _tasks(self, job: JobDemand, most: int) -> list[ReadyTask]:
        """The first tasks of a job that may start, one of each size up to `most`."""
        whole, gangs = min(most, self._pool.slots_per_node), self._gangs(job, most)
        sizes = ready.sizes(self._tx, job.pk, whole)
        managers = ready.managers(self._tx, job.pk, whole)
        plain = ready.least(self._tx, job.pk, managers, sizes, self._pool.slots_per_node)
        smallest = min([*([] if plain is None else [plain]), *(task.slots for task in gangs)], default=most + 1)
        if smallest > most and job.smallest != BARRED:
            self._smallest[job.pk] = smallest
        found = [task for slots in sizes for task in ready.of_size(self._tx, job.pk, slots, 0, 2) if not task.manager]
        firsts = {task.slots: task for task in sorted(found, key=lambda task: -task.pk)}
        return [*managers, *sorted([*firsts.values(), *gangs], key=lambda task: task.pk)]

    def _gangs(self, job: JobDemand, most: int) -> list[ReadyTask]:
        """The first multi-instance task of each size up to `most`."""
        sizes = ready.gang_sizes(self._tx, job.pk, most) if self._pool.takes_gangs else []
        return [task for nodes in sizes for task in ready.gangs(self._tx, job.pk, nodes, 0, 1)]

    def _choose(self, pusher: _Pusher) -> list[Victim]:
        task, job = pusher.task, pusher.job
        closed = special_tasks.closed(self._tx, job.pk) if job.prepares else frozenset[int]()
        needed = self._pool.slots_per_node if task.exclusive else task.slots
        barred = closed | {node for node, key in self._held.items() if key != task.pk}
        rooms = [room for room in self._rooms if room.node not in barred and (room.dedicated or not task.dedicated_only)]
        near = (other for other in self._running if other.node_pk not in barred and (other.dedicated or not task.dedicated_only))
        if task.instances:
            free = sum(room.free > 0 for room in rooms)
            yielding = [_victim(other) for other in near if pusher.may_push(other)]
            return [] if free >= task.slots else choose_nodes(task.slots, yielding, free)
        if any(room.free >= needed for room in rooms):
            return []
        return choose(needed, [_victim(other) for other in near if pusher.may_push(other)], rooms)

    def _preempts(self, pusher: _Pusher) -> bool:
        return any(task.preemptible and task.priority < pusher.job.priority for task in self._running)


def _victim(task: RunningTask) -> Victim:
    return Victim(task.pk, task.node_pk, task.held, task.priority, task.started or 0)


def _push_off(tx: Tx, victim: Victim, now: int) -> None:
    task = task_rows.get(tx, victim.key)
    assert task is not None, f"task {victim.key} vanished while it ran"
    job = job_rows.get(tx, task.job_pk)
    requeue(tx, job, task, TaskHappened.REQUEUED, now, cause="preempted", requeues=task.requeues + 1, last_requeue=now)
    give_back(tx, task.node_pk or 0, slots=task.held, tasks=1, now=now)
