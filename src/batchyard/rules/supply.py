"""Why a pool has fewer nodes that take tasks than it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from batchyard.model import times
from batchyard.model.explain import Code, Reason
from batchyard.model.states import NodeState
from batchyard.rules.facts import NamedNode, NodeGroup, PoolFacts
from batchyard.rules.reasons import counted, reason

_COMING = (
    NodeState.CREATING, NodeState.STARTING, NodeState.WAITING_FOR_START_TASK, NodeState.REBOOTING, NodeState.REIMAGING,
    NodeState.UPGRADING_OS,
)  # fmt: skip
_NAMED = (NodeState.START_TASK_FAILED, NodeState.PREEMPTED, NodeState.DEALLOCATED, NodeState.DEALLOCATING)
"""States that have a reason of their own."""
_SWITCHED_OFF = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE)
_BROKEN = (NodeState.UNUSABLE, NodeState.UNKNOWN)
_HEARD = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE, NodeState.WAITING_FOR_START_TASK, NodeState.START_TASK_FAILED)
"""States in which an agent speaks by itself."""
_ACTIONS: Mapping[str, str] = MappingProxyType(
    {"reboot": "be rebooted", "reimage": "be reimaged", "deallocate": "give its machine back", "preempt": "be taken away"}
)
MOST_QUIET_S = 35
"""A poll of an agent may wait for 30 s, and then it speaks again."""
MOST_NAMED = 5
"""Nodes that a command names; of more it names these first."""


def working(pool: PoolFacts) -> int:
    """How many nodes take tasks."""
    return sum(group.count for group in pool.groups if group.working)


def no_pool(pool_id: str, pool: PoolFacts | None) -> Reason:
    """The pool does not exist, or not for long."""
    return reason(Code.POOL_NOT_FOUND if pool is None else Code.POOL_DELETING, pool_id=pool_id if pool is None else pool.id)


def grow(pool: PoolFacts, by: int = 1) -> str:
    """Command that gives a pool so many more dedicated nodes."""
    return _resize(pool, f"--nodes {pool.dedicated + by}")


def _resize(pool: PoolFacts, size: str) -> str:
    off = f"batchyard pool autoscale {pool.id} --off && " if pool.formula else ""
    return f"{off}batchyard pool resize --yes {pool.id} {size}"


def _trace(pool: PoolFacts) -> str:
    return f"batchyard autoscale trace {pool.id}" if pool.formula else ""


def fewer_nodes(pool: PoolFacts) -> list[Reason]:
    """Why nodes are missing or do not take tasks; never empty when none does."""
    staying = [group for group in pool.groups if group.state != NodeState.LEAVING_POOL]
    here = sum(group.count for group in staying)
    if not here and not pool.target:
        return [reason(Code.POOL_EMPTY, pool_id=pool.id, grow=grow(pool), trace=_trace(pool))]
    reasons = [*_launches(pool), *_changing(pool, staying), *_unfit(pool, staying), *silent(pool)]
    if not pool.resizing and (here < pool.target or pool.failure):
        reasons.append(_not_allocated(pool, here))
    return reasons


def _not_allocated(pool: PoolFacts, here: int) -> Reason:
    others = ", ".join(f"{counted(count, 'node')} of pool {pool_id}" for pool_id, count in pool.others)
    return reason(
        Code.ALLOCATION_FAILED,
        pool_id=pool.id,
        current=here,
        target=counted(pool.target, "node"),
        failure=pool.failure or "nodes are gone and no resize asked for others",
        others=f"; there are also {others}" if others else "",
        again=_resize(pool, f"--nodes {pool.dedicated} --low-priority {pool.target - pool.dedicated}"),
        trace=_trace(pool),
    )


def silent(pool: PoolFacts) -> list[Reason]:
    """Nodes whose agents were silent for longer than they are by themselves, and that do not count as lost yet."""
    found = [node for node in pool.named if node.last_seen is not None and node.state in _HEARD and _silence(pool, node) > MOST_QUIET_S]
    if not found:
        return []
    longest = max(found, key=lambda node: _silence(pool, node))
    more = f", and so {'does' if len(found) == 2 else 'do'} {counted(len(found) - 1, 'other node')}" if len(found) > 1 else ""
    return [reason(Code.NODE_SILENT, pool_id=pool.id, node_id=longest.id, n=_silence(pool, longest), more=more)]


def _silence(pool: PoolFacts, node: NamedNode) -> int:
    """Seconds."""
    return 0 if node.last_seen is None else (pool.now - node.last_seen) // 1_000_000


def _launches(pool: PoolFacts) -> list[Reason]:
    failed = pool.launch_failure
    if failed is None:
        return []
    times_ = counted(failed.times, "time")
    return [reason(Code.LAUNCH_FAILS, node_id=failed.node_id, pool_id=pool.id, times=times_, failure=failed.message)]


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
    failed, gone = _in(staying, NodeState.START_TASK_FAILED), _in(staying, NodeState.PREEMPTED)
    stopped = _in(staying, NodeState.DEALLOCATED, NodeState.DEALLOCATING)
    troubles = [each for each in (_quiet(pool), pool.node_problem) if each]
    found = (
        (Code.START_TASK_FAILED, failed, pool.start_task_failure, lambda node: node.state == NodeState.START_TASK_FAILED),
        (Code.SCHEDULING_DISABLED, off, None, lambda node: node.disabled and node.state in _SWITCHED_OFF),
        (Code.NODES_PREEMPTED, gone, None, lambda node: node.state == NodeState.PREEMPTED),
        (Code.NODES_DEALLOCATED, stopped, None, lambda node: node.state == NodeState.DEALLOCATED),
        (Code.NODES_UNUSABLE, broken, "; ".join(troubles), lambda node: node.state in _BROKEN),
    )
    return [_kind(pool, code, nodes, told, among) for code, nodes, told, among in found if nodes]


def _kind(pool: PoolFacts, code: Code, nodes: list[NodeGroup], told: str | None, among: Callable[[NamedNode], bool]) -> Reason:
    """One reason why nodes of a pool are unfit, with the commands that name them."""
    named = [node.id for node in pool.named if among(node)]
    all_of_it = len(named) > 1 and len(named) == sum(group.count for group in pool.groups if group.state != NodeState.LEAVING_POOL)
    which = f"'{pool.id}/*'" if all_of_it else " ".join(f"{pool.id}/{node}" for node in named[:MOST_NAMED])
    made = reason(
        code,
        pool_id=pool.id,
        n=_number(nodes),
        states=_states(nodes),
        how=f": {told}" if told else "",
        nodes=which,
        node=f"{pool.id}/{named[0]}" if named else "",
        reboot=f"batchyard node reboot --yes {which}",
        dedicated=_resize(pool, f"--nodes {pool.target} --low-priority 0"),
    )
    if not named and code != Code.NODES_PREEMPTED:
        made.command = None
        made.look = f"batchyard nodes {pool.id}"
    return made


def _quiet(pool: PoolFacts) -> str:
    """How long the first of the lost nodes has been silent."""
    lost = [node for node in pool.named if node.state == NodeState.UNKNOWN]
    if not lost:
        return ""
    told = f"has said nothing for {_silence(pool, lost[0])} s" if lost[0].last_seen is not None else "has no agent that speaks for it"
    return f"node {lost[0].id} {told}"


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


def node(pool: PoolFacts, one: NamedNode, errors: str) -> list[Reason]:
    """Why a node takes no tasks, or that it does; `pool` has no other node. `errors` are those that its agent tells of."""
    if one.state == NodeState.LEAVING_POOL or one.action is not None:
        return [reason(Code.NODE_LEAVES, pool_id=pool.id, node_id=one.id, what=_ACTIONS.get(one.action or "", "leave the pool"))]
    reasons = fewer_nodes(pool)
    if reasons:
        return reasons
    [group] = pool.groups
    how = f"; its agent tells of: {errors}" if errors else ""
    return [reason(Code.NODE_WORKS, pool_id=pool.id, node_id=one.id, used=group.used, slots=counted(group.slots, "slot"), how=how)]
