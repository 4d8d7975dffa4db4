"""Gives waiting tasks to nodes with room."""

from __future__ import annotations

from batchyard.engine import wakes
from batchyard.model.states import NodeState, PoolState, TaskState
from batchyard.rules import transitions
from batchyard.rules.placement import Queue, Room, Waiting, place
from batchyard.rules.transitions import NodeHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.pools import PoolView
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
    return started


def _round(tx: Tx, pool: PoolView, now: int) -> tuple[int, bool]:
    """Place from the head of every queue: how many tasks, and whether the room that is left may suit a task further behind."""
    pool_key = pool.id.lower()
    rooms = [Room(node.pk, node.free) for node in node_rows.free(tx, pool_key)]
    if not rooms:
        return 0, False
    tx.flush()  # what this unit counted before has its say
    free, largest = sum(room.free for room in rooms), max(room.free for room in rooms)
    queues: list[Queue] = []
    job_of: dict[int, int] = {}
    cut = False
    for job in job_rows.demand(tx, pool_key):
        may_start = None if job.max_parallel < 0 else job.max_parallel - job.running
        if may_start is not None and may_start <= 0:
            continue
        most = free if may_start is None else min(free, may_start)
        ready = task_rows.ready(tx, job.pk, largest, most)
        cut = cut or len(ready) == most < job.ready
        job_of.update((task.pk, job.pk) for task in ready)
        queues.append(Queue(job.priority, job.running, [Waiting(task.pk, task.slots) for task in ready], may_start))
    placed = list(place(queues, rooms, pack=bool(pool.pack)))
    if placed:
        _start(tx, placed, job_of, now)
    return len(placed), bool(placed) and cut and any(room.free for room in rooms)


def _start(tx: Tx, placed: list[tuple[Waiting, int]], job_of: dict[int, int], now: int) -> None:
    """Assign tasks to nodes, a new numbered run each."""
    state = transitions.TASK.after(TaskState.ACTIVE, TaskHappened.STARTED)
    rows = [{"pk": task.key, "node_pk": node, "state": state, "now": now} for task, node in placed]
    if task_rows.start(tx, rows) != len(rows):
        raise Conflict("a task was started twice")
    busy: dict[int, list[int]] = {}
    for task, node in placed:
        tx.count(job_of[task.key], ready=-1, active=-1, running=1, active_slots=-task.slots, running_slots=task.slots)
        tx.log(now, "task", task.key, TaskHappened.STARTED, old=TaskState.ACTIVE, new=state, cause=f"node {node}")
        busy.setdefault(node, []).append(task.slots)
    for node_pk, slots in busy.items():
        row = node_rows.occupy(tx, node_pk, slots=sum(slots), tasks=len(slots))
        assert row is not None, f"node {node_pk} vanished while it was given tasks"
        if row.state == NodeState.IDLE:
            node_state = transitions.NODE.after(row.state, NodeHappened.TASK_STARTED)
            node_rows.move(tx, row, state=node_state, state_time=now)
            tx.log(now, "node", node_pk, NodeHappened.TASK_STARTED, old=row.state, new=node_state)
        tx.wake(wakes.node(node_pk))
