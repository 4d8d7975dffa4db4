"""Gives waiting tasks to nodes with room."""

from __future__ import annotations

from collections.abc import Mapping

from batchyard.engine import wakes
from batchyard.engine.scheduling import preemption
from batchyard.engine.scheduling.queues import Queues
from batchyard.engine.settling import special_tasks
from batchyard.model.states import NodeState, PoolState, TaskState
from batchyard.rules import transitions
from batchyard.rules.placement import Waiting
from batchyard.rules.transitions import NodeHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import ready
from batchyard.store import tasks as task_rows
from batchyard.store.jobs import JobDemand
from batchyard.store.tx import Conflict, Tx


def run_once(tx: Tx, pool_key: str, now: int) -> int:
    """Place what fits on the nodes of one pool; how many tasks were started."""
    pool = pool_rows.find(tx, pool_key)
    if pool is None or pool.state == PoolState.DELETING:
        return 0
    tx.flush()  # what this unit counted before has its say
    round_ = Queues(tx, pool, now)
    placed = list(round_.starts())
    if placed:
        _start(tx, placed, round_.jobs, pool.id, now)
    ready.hold(tx, round_.kept(), round_.lost())
    job_rows.note_smallest(tx, round_.smallest(), now)
    job_rows.note_restarted(tx, round_.not_restarted, restarted=False)
    if preemption.make_room(tx, pool, round_.rooms, now) or round_.unseen:
        tx.wake(wakes.pool(pool_key))
    return len(placed)


def _start(tx: Tx, placed: list[tuple[Waiting, int, int]], jobs: Mapping[int, JobDemand], pool_id: str, now: int) -> None:
    """Assign tasks to nodes, a new numbered run each."""
    states = [_state_on(tx, jobs[task.job], node_pk, pool_id, now) for task, node_pk, _ in placed]
    rows = [
        {"pk": task.key, "node_pk": node, "state": state, "held": held, "started": now if state == TaskState.RUNNING else None, "now": now}
        for (task, node, held), state in zip(placed, states, strict=True)
    ]
    if task_rows.start(tx, rows) != len(rows):
        raise Conflict("a task was started twice")
    busy: dict[int, list[tuple[int, int]]] = {}
    for (task, node, held), state in zip(placed, states, strict=True):
        tx.count(jobs[task.job].pk, ready=-1, active=-1, running=1, active_slots=-task.slots, running_slots=task.slots)
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
