"""Makes room by requeuing running tasks where the contract allows it (3.1, 3.5): a restarted job manager may push off any task of no
higher priority, a task of a more important job those of jobs that allow it."""

from __future__ import annotations

from batchyard.engine import special_tasks
from batchyard.engine.moves import give_back, requeue
from batchyard.rules.placement import Room
from batchyard.rules.preemption import Victim, choose
from batchyard.rules.transitions import TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import tasks as task_rows
from batchyard.store.pools import PoolView
from batchyard.store.tasks import RunningTask
from batchyard.store.tx import Tx


def make_room(tx: Tx, pool: PoolView, now: int) -> bool:
    """Requeue what stands in the way of one task that may push; False when nothing may or need be pushed."""
    tx.flush()
    pushers = job_rows.pushers(tx, pool.id.lower())
    if not pushers:
        return False
    rooms = [Room(node.pk, node.free, node.slots, bool(node.dedicated)) for node in node_rows.free(tx, pool.id.lower())]
    running = task_rows.running_of_pool(tx, pool.pk)
    highest = max((job.priority for job in job_rows.demand(tx, pool.id.lower())), default=0)
    for pusher in pushers:
        if pusher.manager and pusher.priority < highest and not _preempts(pusher, running):
            continue  # whatever it frees would go to the more important job
        closed = special_tasks.closed(tx, pusher.job_pk) if pusher.prepares else frozenset[int]()
        needed = pool.slots_per_node if pusher.exclusive else pusher.slots
        open_rooms = [room for room in rooms if room.node not in closed and (room.dedicated or not pusher.dedicated_only)]
        if any(room.free >= needed for room in open_rooms):
            continue
        within_reach = [task for task in running if task.node_pk not in closed and (task.dedicated or not pusher.dedicated_only)]
        victims = [_victim(task) for task in within_reach if _may_push(pusher, task)]
        chosen = choose(needed, victims, open_rooms)
        for victim in chosen:
            _push_off(tx, victim, now)
        if chosen:
            return True
    return False


def _preempts(pusher: job_rows.Pusher, running: list[RunningTask]) -> bool:
    return any(task.preemptible and task.priority < pusher.priority for task in running)


def _may_push(pusher: job_rows.Pusher, task: RunningTask) -> bool:
    if task.manager:
        return False
    if pusher.manager and task.priority <= pusher.priority:
        return True
    return bool(task.preemptible) and task.priority < pusher.priority


def _victim(task: RunningTask) -> Victim:
    return Victim(task.pk, task.node_pk, task.held, task.priority, task.started or 0)


def _push_off(tx: Tx, victim: Victim, now: int) -> None:
    task = task_rows.get(tx, victim.key)
    assert task is not None, f"task {victim.key} vanished while it ran"
    job = job_rows.get(tx, task.job_pk)
    requeue(tx, job, task, TaskHappened.REQUEUED, now, cause="preempted", requeues=task.requeues + 1, last_requeue=now)
    give_back(tx, victim.node, slots=task.held, tasks=1, now=now)
