"""Gives waiting tasks to nodes with room."""

from __future__ import annotations

from collections.abc import Mapping

from batchyard.engine import wakes
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.changes.tasks import Start, start_tasks
from batchyard.engine.scheduling import preemption
from batchyard.engine.scheduling.queues import Queues
from batchyard.engine.settling import gangs, special_tasks
from batchyard.model.states import NodeState, PoolState
from batchyard.rules.placement import Waiting
from batchyard.rules.transitions import NodeHappened, TaskHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import ready
from batchyard.store.jobs import JobDemand
from batchyard.store.pools import PoolRoom
from batchyard.store.tx import Conflict, Tx


def run_once(tx: Tx, pool_key: str, now: int) -> int:
    """Place what fits on the nodes of one pool; how many tasks were started."""
    pool = pool_rows.find_room(tx, pool_key)
    return 0 if pool is None else place(tx, pool, now)


def place(tx: Tx, pool: PoolRoom, now: int) -> int:
    """The same for a pool that was read already."""
    if pool.state == PoolState.DELETING:
        return 0
    tx.write()  # what this unit counted before has its say
    round_ = Queues(tx, pool, now)
    placed = list(round_.starts())
    if placed:
        _start(tx, placed, round_.jobs, pool.id, now)
    ready.hold(tx, round_.kept(), round_.lost())
    ready.note_held(tx, round_.held_gangs(), now)
    job_rows.note_smallest(tx, round_.smallest(), now)
    job_rows.note_restarted(tx, round_.not_restarted, restarted=False)
    if preemption.make_room(tx, pool, round_.rooms, now, restarted=bool(round_.demand.restarted())) or round_.unseen:
        tx.wake(wakes.pool(pool.id.lower()))
    return len(placed)


def _start(tx: Tx, placed: list[tuple[Waiting, int, int]], jobs: Mapping[int, JobDemand], pool_id: str, now: int) -> None:
    """Assign tasks to nodes, a new numbered run each."""
    starts: list[Start] = []
    gangs_: dict[int, list[tuple[int, TaskHappened]]] = {}
    busy: dict[int, list[tuple[int, int]]] = {}
    for task, node, held in placed:
        happened = _happens_on(tx, jobs[task.job], node, pool_id, now)
        busy.setdefault(node, []).append((task.key, held))
        if task.gang:
            gangs_.setdefault(task.key, []).append((node, happened))
        if not task.gang or len(gangs_[task.key]) == 1:
            starts.append(Start(task.key, task.job, node, task.slots, held, happened))
    start_tasks(tx, starts, now)
    for start in starts:
        if start.pk in gangs_:
            gangs.begin(tx, start.pk, start.job_pk, pool_id, gangs_[start.pk], now)
    for node_pk, begun in busy.items():
        recent = "".join(f"{key}," for key, _ in reversed(begun))
        occupied = node_rows.occupy(tx, node_pk, slots=sum(held for _, held in begun), tasks=len(begun), recent=recent)
        if occupied.state == NodeState.IDLE:
            change_node(tx, occupied, NodeHappened.TASK_STARTED, now)
        tx.wake(wakes.node(node_pk))


def _happens_on(tx: Tx, job: JobDemand, node_pk: int, pool_id: str, now: int) -> TaskHappened:
    """What happens to a task of a job by being given to a node. Raises Conflict when the node is gone."""
    if not job.prepares:
        return TaskHappened.STARTED
    node = node_rows.get(tx, node_pk)
    if node is None:
        raise Conflict(f"node {node_pk} is gone")
    return special_tasks.enter(tx, job.pk, node, pool_id, now)
