"""Why a pool has fewer nodes that take tasks than it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from batchyard.model import times
from batchyard.model.explain import Code, Reason
from batchyard.model.states import NodeState
from batchyard.rules.facts import NodeGroup, PoolFacts
from batchyard.rules.reasons import counted, reason

_COMING = (
    NodeState.CREATING, NodeState.STARTING, NodeState.WAITING_FOR_START_TASK, NodeState.REBOOTING, NodeState.REIMAGING,
    NodeState.UPGRADING_OS,
)  # fmt: skip
_NAMED = (NodeState.START_TASK_FAILED, NodeState.PREEMPTED, NodeState.DEALLOCATED, NodeState.DEALLOCATING)
"""States that have a reason of their own."""
_SWITCHED_OFF = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE)


def working(pool: PoolFacts) -> int:
    """How many nodes take tasks."""
    return sum(group.count for group in pool.groups if group.working)


def no_pool(pool_id: str, pool: PoolFacts | None) -> Reason:
    """The pool does not exist, or not for long."""
    return reason(Code.POOL_NOT_FOUND if pool is None else Code.POOL_DELETING, pool_id=pool_id if pool is None else pool.id)


def fewer_nodes(pool: PoolFacts) -> list[Reason]:
    """Why nodes are missing or do not take tasks; never empty when none does."""
    staying = [group for group in pool.groups if group.state != NodeState.LEAVING_POOL]
    here = sum(group.count for group in staying)
    if not here and not pool.target:
        return [reason(Code.POOL_EMPTY, pool_id=pool.id)]
    reasons = [*_launches(pool), *_changing(pool, staying), *_unfit(pool, staying)]
    if not pool.resizing and (here < pool.target or pool.failure):
        told = pool.failure or "nodes are gone and no resize asked for others"
        reasons.append(
            reason(Code.ALLOCATION_FAILED, pool_id=pool.id, current=here, target=counted(pool.target, "node"), failure=told)
        )  # fmt: skip
    return reasons


def _launches(pool: PoolFacts) -> list[Reason]:
    failed = pool.launch_failure
    if failed is None:
        return []
    return [reason(Code.LAUNCH_FAILS, node_id=failed.node_id, times=counted(failed.times, "time"), failure=failed.message)]


def _changing(pool: PoolFacts, staying: list[NodeGroup]) -> list[Reason]:
    coming = [group for group in staying if group.state in _COMING]
    if pool.resizing:
        since, target = times.iso(pool.since), counted(pool.target, "node")
        states = _states(group for group in staying if not group.working)
        return [reason(Code.POOL_RESIZING, pool_id=pool.id, since=since, ready=working(pool), target=target, states=states)]
    if not coming:
        return []
    since = times.iso(min(group.since for group in coming))
    return [reason(Code.NODES_STARTING, pool_id=pool.id, n=_number(coming), since=since, states=_states(coming))]


def _unfit(pool: PoolFacts, staying: list[NodeGroup]) -> list[Reason]:
    off = [group for group in staying if not group.enabled and group.state in _SWITCHED_OFF]
    broken = [group for group in staying if not group.working and group not in off and group.state not in (*_COMING, *_NAMED)]
    found = (
        (Code.START_TASK_FAILED, _in(staying, NodeState.START_TASK_FAILED), pool.start_task_failure),
        (Code.SCHEDULING_DISABLED, off, None),
        (Code.NODES_PREEMPTED, _in(staying, NodeState.PREEMPTED), None),
        (Code.NODES_DEALLOCATED, _in(staying, NodeState.DEALLOCATED, NodeState.DEALLOCATING), None),
        (Code.NODES_UNUSABLE, broken, pool.node_problem),
    )
    return [
        reason(code, pool_id=pool.id, n=_number(nodes), states=_states(nodes), how=f": {told}" if told else "")
        for code, nodes, told in found
        if nodes
    ]


def _in(groups: list[NodeGroup], *states: NodeState) -> list[NodeGroup]:
    return [group for group in groups if group.state in states]


def _number(groups: list[NodeGroup]) -> str:
    return counted(sum(group.count for group in groups), "node")


def _states(groups: Iterable[NodeGroup]) -> str:
    """` (2 unusable, 1 offline)`, or nothing."""
    states: Counter[str] = Counter()
    for group in groups:
        states[group.state] += group.count
    return f" ({', '.join(f'{count} {state}' for state, count in sorted(states.items()))})" if states else ""
