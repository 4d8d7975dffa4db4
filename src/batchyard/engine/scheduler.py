"""Gives waiting tasks to nodes with room."""

from __future__ import annotations

from collections.abc import Mapping

from batchyard.engine import preemption, special_tasks, wakes
from batchyard.model.states import NodeState, PoolState, TaskState
from batchyard.rules import transitions
from batchyard.rules.placement import Queue, Room, Waiting, place
from batchyard.rules.transitions import NodeHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobDemand
from batchyard.store.pools import PoolView
from batchyard.store.tasks import ReadyTask
from batchyard.store.tx import Conflict, Tx


def run_once(tx: Tx, pool_key: str, now: int) -> int:
    """Place what fits on the nodes of one pool; how many tasks were started."""
    pool = pool_rows.find(tx, pool_key)
    if pool is None or pool.state == PoolState.DELETING:
        return 0
    started, more = 0, True
    while more:
        placed, more = _round(tx, pool, now)
        started += placed
    if preemption.make_room(tx, pool, now):
        tx.wake(wakes.pool(pool_key))
    return started


def _round(tx: Tx, pool: PoolView, now: int) -> tuple[int, bool]:
    """Place from the head of every queue: how many tasks, and whether the room that is left may suit a task further behind."""
    pool_key = pool.id.lower()
    nodes = node_rows.free(tx, pool_key)
    if not nodes:
        return 0, False
    tx.flush()  # what this unit counted before has its say
    rooms = [Room(node.pk, node.free, node.slots, bool(node.dedicated)) for node in nodes]
    by_name = {node.id.lower(): node.pk for node in nodes}
    free = sum(room.free for room in rooms)
    queues: list[Queue] = []
    job_of: dict[int, JobDemand] = {}
    cut = False
    for job in job_rows.demand(tx, pool_key):
        may_start = None if job.max_parallel < 0 else job.max_parallel - job.running
        if may_start is not None and may_start <= 0:
            continue
        most = free if may_start is None else min(free, may_start)
        closed = special_tasks.closed(tx, job.pk) if job.prepares else frozenset[int]()
        largest = max((room.free for room in rooms if room.node not in closed), default=0)
        ready = task_rows.ready(tx, job.pk, largest, most)
        cut = cut or most <= len(ready) < job.ready
        job_of.update((task.pk, job) for task in ready)
        first = bool(ready) and bool(ready[0].restarted)
        queues.append(Queue(job.priority, job.running, [_waiting(task, by_name) for task in ready], may_start, closed, first))
    placed = list(place(queues, rooms, pack=bool(pool.pack)))
    if placed:
        _start(tx, placed, job_of, pool.id, now)
    return len(placed), bool(placed) and cut and any(room.free for room in rooms)


def _waiting(task: ReadyTask, by_name: Mapping[str, int]) -> Waiting:
    prefers = None if task.affinity is None else by_name.get(task.affinity)
    return Waiting(task.pk, task.slots, prefers, bool(task.exclusive), bool(task.dedicated_only))


def _start(tx: Tx, placed: list[tuple[Waiting, int, int]], job_of: Mapping[int, JobDemand], pool_id: str, now: int) -> None:
    """Assign tasks to nodes, a new numbered run each."""
    states = [_state_on(tx, job_of[task.key], node_pk, pool_id, now) for task, node_pk, _ in placed]
    rows = [
        {"pk": task.key, "node_pk": node, "state": state, "held": held, "started": now if state == TaskState.RUNNING else None, "now": now}
        for (task, node, held), state in zip(placed, states, strict=True)
    ]
    if task_rows.start(tx, rows) != len(rows):
        raise Conflict("a task was started twice")
    busy: dict[int, list[tuple[int, int]]] = {}
    for (task, node, held), state in zip(placed, states, strict=True):
        tx.count(job_of[task.key].pk, ready=-1, active=-1, running=1, active_slots=-task.slots, running_slots=task.slots)
        happened = TaskHappened.STARTED if state == TaskState.RUNNING else TaskHappened.ASSIGNED
        tx.log(now, "task", task.key, happened, old=TaskState.ACTIVE, new=state, cause=f"node {node}")
        busy.setdefault(node, []).append((task.key, held))
    for node_pk, begun in busy.items():
        recent = "".join(f"{key}," for key, _ in reversed(begun))
        occupied = node_rows.occupy(tx, node_pk, slots=sum(held for _, held in begun), tasks=len(begun), recent=recent)
        assert occupied is not None, f"node {node_pk} vanished while it was given tasks"
        if occupied.state == NodeState.IDLE:
            node_state = transitions.NODE.after(occupied.state, NodeHappened.TASK_STARTED)
            node_rows.move(tx, occupied, state=node_state, state_time=now)
            tx.log(now, "node", node_pk, NodeHappened.TASK_STARTED, old=occupied.state, new=node_state)
        tx.wake(wakes.node(node_pk))


def _state_on(tx: Tx, job: JobDemand, node_pk: int, pool_id: str, now: int) -> TaskState:
    """Running, or preparing while the job's preparation task has yet to succeed on the node."""
    if not job.prepares:
        return transitions.TASK.after(TaskState.ACTIVE, TaskHappened.STARTED)
    node = node_rows.get(tx, node_pk)
    assert node is not None, f"node {node_pk} vanished while it was given tasks"
    return special_tasks.enter(tx, job.pk, node, pool_id, now)
