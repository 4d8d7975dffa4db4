"""Why is it not running? The answer of the same facts that placement decides on, the deciding reason first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from batchyard.model import times
from batchyard.model.explain import Code, Reason, ReasonGroup
from batchyard.model.states import JobState, NodeState, TaskState
from batchyard.rules import gang_reasons
from batchyard.rules.facts import MOST_AHEAD, MOST_JOBS, JobFacts, NextRound, PoolFacts, Snapshot, TaskFacts
from batchyard.rules.placement import Room
from batchyard.rules.places import task_directory
from batchyard.rules.reasons import counted, reason
from batchyard.rules.supply import fewer_nodes, grow, no_pool, silent, working
from batchyard.rules.waits import Waits, how

_JOB_STATES: Mapping[JobState, Code] = MappingProxyType(
    {
        JobState.DISABLED: Code.JOB_DISABLED,
        JobState.DISABLING: Code.JOB_DISABLING,
        JobState.ENABLING: Code.JOB_ENABLING,
        JobState.TERMINATING: Code.JOB_TERMINATING,
        JobState.COMPLETED: Code.JOB_COMPLETED,
        JobState.DELETING: Code.JOB_DELETING,
    }
)
HIGHEST_PRIORITY = 1000
_ENDED = (Code.JOB_TERMINATING, Code.JOB_COMPLETED, Code.JOB_DELETING, Code.AUTO_POOL_FAILED)


class Why:
    """The answers of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._job, self._pool, self._tasks = snapshot.job, snapshot.pool, snapshot.tasks
        self._waits = Waits(snapshot.job.id, snapshot.tasks, lambda task: self._unblocked(task)[0])

    def task(self, key: str) -> list[Reason]:
        """Why a task is where it is."""
        task = self._tasks[key]
        if task.state != TaskState.ACTIVE:
            return [self._settled(task)]
        state = _job_state(self._job)
        if state and state[0].code in _ENDED:
            return state
        waits = self._unblocked(task) if task.ready else self._waits.reasons(key)
        return state + [one for one in waits if not (state and one.code == Code.READY)]

    def job(self, looked_at: Iterable[str]) -> tuple[list[Reason], list[ReasonGroup]]:
        """Why a job is where it is, and what the tasks that were looked at wait for, the ready ones before the blocked."""
        job = self._job
        groups = grouped((job.id, self._tasks[key], self.task(key)[0]) for key in looked_at)
        state = _job_state(job)
        if state:
            return state, groups
        if job.running:
            where = f" {counted(job.running, 'task')} of {job.running + job.active} that are not completed,"
            look = f"batchyard tasks {job.id} --state running"
            return [reason(Code.RUNNING, it=f"job {job.id}", where=where, since=times.iso(job.since), look=look)], groups
        if not job.active:
            done = counted(job.completed, "task")
            return [reason(Code.ALL_TASKS_COMPLETED if job.completed else Code.NO_TASKS, job_id=job.id, n=done)], groups
        return [group.reason for group in groups], groups

    def _unblocked(self, task: TaskFacts) -> list[Reason]:
        """Why a task that waits for no other is where it is."""
        job = self._job
        if task.state != TaskState.ACTIVE:
            return [self._settled(task)]
        if self._pool is None or self._pool.deleting:
            return [no_pool(job.pool_id, self._pool)]
        space = self._space(task, self._pool)
        if job.limit is None or job.running < job.limit:
            return space
        running, more = counted(job.running, "task"), max(1, 2 * job.limit)
        full = reason(Code.MAX_PARALLEL_TASKS, job_id=job.id, running=running, limit=job.limit, waiting=job.ready, more=more)
        return [full, *(one for one in space if one.code not in (Code.READY, Code.BEHIND_OTHERS))]

    def _space(self, task: TaskFacts, pool: PoolFacts) -> list[Reason]:
        """What stands between a task and a node of its pool."""
        it, nodes = f"task {task.id}", [group for group in pool.groups if group.working]
        if task.instances and (unfit := gang_reasons.unfit(task, pool)):
            return unfit
        largest = max([pool.slots_per_node, *(group.largest for group in pool.groups)])
        if task.slots > largest and not (task.exclusive or task.instances):
            slots = counted(task.slots, "slot")
            return [reason(Code.TOO_BIG, it=it, slots=slots, pool_id=pool.id, largest=largest, needs=task.slots, job_id=self._job.id)]
        shortage = fewer_nodes(pool)
        if not nodes:
            return shortage
        closed = self._closed(pool)
        if self._job.closed_working >= working(pool):
            return [*closed, *shortage]
        if task.dedicated_only and not any(group.dedicated for group in nodes):
            return [reason(Code.WANTS_DEDICATED_NODE, it=it, pool_id=pool.id, grow=grow(pool)), *shortage]
        if self._starts(task, pool.next):
            return [reason(Code.READY, it=it)]
        return [*self._crowd(task, pool), *closed, *shortage]

    def _closed(self, pool: PoolFacts) -> list[Reason]:
        job, nodes = self._job, counted(working(pool), "node")
        if not job.closed_working:
            return []
        told = f": {job.preparation_failure}" if job.preparation_failure else ""
        return [reason(Code.PREPARATION_FAILED, job_id=job.id, n=job.closed_working, nodes=nodes, how=told, grow=grow(pool))]

    def _starts(self, task: TaskFacts, coming: NextRound) -> bool:
        """True when the next round gives it a node, or leaves room that may be given to it."""
        if self._job.state != JobState.ACTIVE:
            return False
        if task.pk in coming.placed:
            return True
        free = self._job.limit is None or self._job.running + coming.own < self._job.limit
        return free and any(_fits(task, room, self._job.closed) for room in coming.left)

    def _crowd(self, task: TaskFacts, pool: PoolFacts) -> list[Reason]:
        """Who has the room that the task needs."""
        above = [rival for rival in pool.rivals if rival.priority > self._job.priority]
        first = _higher(pool, self._job) if above else []
        if task.instances > 1:
            return [*gang_reasons.waiting(task, self._job, pool), *first]
        ahead = counted(task.ahead, "task", more=task.ahead >= MOST_AHEAD)
        free = max((room.free for room in pool.next.rooms if room.node not in self._job.closed), default=0)
        roomy = [room for room in pool.next.rooms if _fits(task, room, self._job.closed)]
        held = self._held(task, roomy, pool)
        if held:
            return [*held, *first]
        if roomy:
            turns = counted(len(pool.rivals) - len(above), "other job", more=len(pool.rivals) >= MOST_JOBS - 1)
            return [*first, reason(Code.BEHIND_OTHERS, pool_id=pool.id, ahead=ahead, turns=turns, grow=grow(pool))]
        if task.exclusive:
            return [reason(Code.WANTS_EMPTY_NODE, it=f"task {task.id}", pool_id=pool.id, grow=grow(pool)), *first]
        if free:
            slots = counted(task.slots, "slot")
            return [reason(Code.NOT_ENOUGH_FREE, pool_id=pool.id, slots=slots, largest=free, grow=grow(pool)), *first]
        nodes = [group for group in pool.groups if group.working]
        slots, busy = counted(sum(group.slots for group in nodes), "slot"), sum(group.used for group in nodes)
        return [*first, reason(Code.NODES_BUSY, pool_id=pool.id, busy=busy, slots=slots, ahead=ahead, grow=grow(pool))]

    def _held(self, task: TaskFacts, roomy: Sequence[Room], pool: PoolFacts) -> list[Reason]:
        """The node that is held for the task, or the room that it would have on nodes that are held for others."""
        mine = [held for held in pool.next.held.values() if held.task_pk == task.pk]
        if mine:
            needs, it = counted(mine[0].needs, "slot"), f"task {task.id}"
            return [reason(Code.NODE_HELD, it=it, node_id=mine[0].node_id, needs=needs, free=mine[0].free, grow=grow(pool))]
        others = [pool.next.held[room.node] for room in roomy if room.node in pool.next.held]
        if not roomy or len(others) < len(roomy):
            return []
        other, more = others[0], f"; so {'is' if len(others) == 2 else 'are'} {counted(len(others) - 1, 'other node')}"
        told = more if len(others) > 1 else ""
        if other.nodes:
            needs = counted(other.nodes, "node")
            where, whose, to = other.node_id, other.task_id, other.job_id
            return [reason(Code.KEPT_FOR_OTHERS, node_id=where, task_id=whose, job_id=to, needs=needs, more=told, grow=grow(pool))]
        return [
            reason(
                Code.HELD_FOR_OTHERS,
                node_id=other.node_id,
                task_id=other.task_id,
                job_id=other.job_id,
                needs=counted(other.needs, "slot"),
                free=other.free,
                more=told,
                grow=grow(pool),
            )
        ]

    def _settled(self, task: TaskFacts) -> Reason:
        """A task that runs or has run."""
        job, it, since, node = self._job, f"task {task.id}", times.iso(task.since), task.node_id or "that is gone"
        name = f"{job.id}/{task.id}"
        if task.state == TaskState.RUNNING:
            quiet = [one for one in silent(self._pool) if one.node_id == task.node_id] if self._pool else []
            return reason(Code.RUNNING, quiet, it=it, where=f" on node {node}", since=since, look=f"batchyard logs -f {name}")
        if task.state == TaskState.PREPARING:
            pool_id, directory = job.pool_id, task_directory(job.id, job.preparation_id or "")
            return reason(Code.PREPARING, it=it, node_id=node, since=since, pool_id=pool_id, directory=directory)
        if task.succeeded:
            return reason(Code.COMPLETED, it=it, since=since, how=how(task))
        again = task.exit_code != 0 and _JOB_STATES.get(job.state) not in _ENDED
        retry = f"batchyard retry {name}" if again else ""
        return reason(Code.FAILED, it=it, since=since, how=how(task), task=name, retry=retry)


def pool(facts: PoolFacts, groups: Sequence[ReasonGroup], waiting: int) -> list[Reason]:
    """Why a pool has not the nodes that it asks for, and why nodes are idle while tasks wait."""
    if facts.deleting:
        return [no_pool(facts.id, facts)]
    reasons = fewer_nodes(facts)
    idle = sum(group.count for group in facts.groups if group.working and group.state == NodeState.IDLE)
    held = [group.reason for group in groups if group.code != Code.READY]
    if idle and waiting and held:
        n, many = counted(idle, "node"), counted(waiting, "task")
        because = reason(Code.IDLE_WHILE_TASKS_WAIT, held, n=n, pool_id=facts.id, waiting=many)
        reasons = [because, *reasons]
    if not reasons and not waiting:
        reasons = [reason(Code.NOTHING_WAITS, pool_id=facts.id)]
    return reasons or [reason(Code.POOL_WORKS, pool_id=facts.id, n=counted(working(facts), "node"))]


def grouped(found: Iterable[tuple[str, TaskFacts, Reason]]) -> list[ReasonGroup]:
    """Tasks of jobs by the code of their first reason, in the order in which the codes come."""
    groups: dict[Code, ReasonGroup] = {}
    for job_id, task, first in found:
        group = groups.get(first.code)
        if group is None:
            groups[first.code] = ReasonGroup(code=first.code, tasks=1, job_id=job_id, example=task.id, reason=first)
        else:
            group.tasks += 1
    return list(groups.values())


def _fits(task: TaskFacts, room: Room, closed: frozenset[int]) -> bool:
    if room.free < (room.slots if task.exclusive else task.slots):
        return False
    return room.node not in closed and (room.dedicated or not task.dedicated_only)


def _higher(pool: PoolFacts, job: JobFacts) -> list[Reason]:
    """The jobs of higher priority, the first of them by name."""
    first, *others = [rival for rival in pool.rivals if rival.priority > job.priority]
    cut = len(pool.rivals) >= MOST_JOBS - 1
    behind, jobs = counted(sum(rival.ready for rival in others), "task", more=cut), counted(len(others), "other job", more=cut)
    more = f" (and {behind} of {jobs})" if others else ""
    n = counted(first.ready, "task")
    rise = f"batchyard job update {job.id} --priority {min(HIGHEST_PRIORITY, first.priority + 1)}"
    return [reason(Code.HIGHER_PRIORITY, n=n, job_id=first.job_id, priority=first.priority, more=more, rise=rise)]


def _job_state(job: JobFacts) -> list[Reason]:
    """Why a job that is not active starts nothing."""
    if job.state not in _JOB_STATES:
        return []
    if job.pool_failure is not None:
        return [reason(Code.AUTO_POOL_FAILED, job_id=job.id, failure=job.pool_failure)]
    told = f" ({job.ended_by})" if job.ended_by else ""
    again = f"{job.id.replace(':', '-')}-2"
    return [reason(_JOB_STATES[job.state], job_id=job.id, pool_id=job.pool_id, since=times.iso(job.since), how=told, again=again)]
