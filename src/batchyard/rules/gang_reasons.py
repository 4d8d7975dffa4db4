"""Why a multi-instance task waits: where it cannot run, how many nodes are kept free for it and since when, who is in the way."""

from __future__ import annotations

from batchyard.model import times
from batchyard.model.explain import Code, Reason
from batchyard.rules.facts import JobFacts, PoolFacts, TaskFacts
from batchyard.rules.placement import is_resting
from batchyard.rules.reasons import counted, reason
from batchyard.rules.supply import grow, working


def unfit(task: TaskFacts, pool: PoolFacts) -> list[Reason]:
    """Why the pool never runs it, whatever is free."""
    if pool.takes_gangs:
        return []
    has = counted(pool.slots_per_node, "slot") + " on each" if pool.slots_per_node > 1 else "no enableInterNodeCommunication"
    return [reason(Code.WANTS_INTER_NODE_COMMUNICATION, it=f"task {task.id}", pool_id=pool.id, has=has)]


def waiting(task: TaskFacts, job: JobFacts, pool: PoolFacts) -> list[Reason]:
    """Why it has not as many nodes as it needs."""
    it, needs = f"task {task.id}", counted(task.instances, "node")
    usable = working(pool) - job.closed_working
    if usable < task.instances:
        more = grow(pool, task.instances - usable)
        return [reason(Code.TOO_FEW_NODES, it=it, needs=needs, pool_id=pool.id, usable=usable, grow=more)]
    free = sum(room.free > 0 and room.node not in job.closed for room in pool.next.rooms)
    stands = "1 is" if free == 1 else f"{free or 'none'} are"
    return [
        reason(
            Code.NODES_AT_ONCE,
            it=it,
            needs=needs,
            free=stands,
            pool_id=pool.id,
            kept=_kept(task, pool),
            way=_in_the_way(pool),
            grow=grow(pool, max(1, task.instances - free)),
        )
    ]


def _kept(task: TaskFacts, pool: PoolFacts) -> str:
    mine = sum(held.task_pk == task.pk for held in pool.next.held.values())
    since = "" if task.held_since is None else f" since {times.iso(task.held_since)}"
    if mine:
        return f"{mine} of them kept for it{since or ' from now on'}"
    if is_resting(task.held_since, pool.now):
        return f"not kept for it for a while, after they were{since} in vain"
    others = {held.task_id for held in pool.next.held.values()}
    return f"kept for task {min(others)}" if others else "not yet kept for it"


def _in_the_way(pool: PoolFacts) -> str:
    """The tasks that have run for longest, by name."""
    names = [
        f"{one.job_id}/{one.task_id} on node {one.node_id}{'' if one.since is None else f' since {times.iso(one.since)}'}"
        for one in pool.running
    ]
    return f"; in the way: {', '.join(names)}" if names else ""
