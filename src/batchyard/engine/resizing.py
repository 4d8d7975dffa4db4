"""Takes every pool to the size it should have: adds node rows, picks the nodes that leave, ends resizes (contract 2.1, 3.13).

Rows only: `capacity` asks the providers for what the rows say.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence, Set

import msgspec

from batchyard.engine import wakes
from batchyard.engine.ends import vacate
from batchyard.model.pool import ResizeError
from batchyard.model.states import NodeState, SchedulingState
from batchyard.model.words import NodeDeallocationOption
from batchyard.rules import transitions
from batchyard.rules.transitions import AllocationHappened, NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

NODES_PER_ROUND = 100
"""Nodes that one round adds to a pool: who asks for more than there is hears so from the first that cannot be had."""


def empty(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
    """Let all nodes of a deleted pool go, then the pool itself."""
    for node in nodes:
        leave(tx, node, now)
    if not nodes:
        pool_rows.delete(tx, pool.pk)
        tx.log(now, "pool", pool.pk, "gone", old=pool.state)


def resize(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
    """Add or let go nodes of both kinds until the targets are met; steady once every node has its machine."""
    missing = waiting = False
    for dedicated, target in ((1, pool.target_dedicated), (0, pool.target_low_priority)):
        staying = [node for node in nodes if node.dedicated == dedicated and node.state != NodeState.LEAVING_POOL]
        for _ in range(min(target - len(staying), NODES_PER_ROUND)):
            _add_node(tx, pool, dedicated, now)
        managers = task_rows.nodes_with_managers(tx, pool.pk) if len(staying) > target else set[int]()
        for node in sorted(staying, key=lambda node: _last_to_go(node, managers))[: max(0, len(staying) - target)]:
            _let_go(tx, node, pool.deallocation_option or NodeDeallocationOption.REQUEUE, now)
        missing = missing or len(staying) < target or any(node.handle is None for node in staying)
        waiting = waiting or len(staying) > target
    if waiting or any(node.state == NodeState.LEAVING_POOL for node in nodes):
        return  # a timeout forces nothing (contract 3.13)
    if not missing:
        steady(tx, pool, None, now)
    elif now >= pool.allocation_time + pool.resize_timeout:
        for node in nodes:
            if node.handle is None:
                leave(tx, node, now)
        steady(tx, pool, ResizeError(code="AllocationTimedOut", message="The nodes could not be had within the resize timeout"), now)


def _last_to_go(node: NodeRow, managers: Set[int]) -> tuple[bool, bool, int, int]:
    """Those leave first that run no job manager (contract 3.5), then those that take no tasks any more, idle ones, the youngest."""
    return (node.pk in managers, node.scheduling_state == SchedulingState.ENABLED, node.tasks_running, -node.pk)


def _add_node(tx: Tx, pool: PoolView, dedicated: int, now: int) -> None:
    """A node that is wanted; its id is as the service's (contract 2.2)."""
    node_id = f"tvmps_{secrets.token_hex(32)}_{'d' if dedicated else 'p'}"
    pk = node_rows.add(
        tx, pool_pk=pool.pk, id=node_id, state=NodeState.CREATING, state_time=now, scheduling_state=SchedulingState.ENABLED,
        dedicated=dedicated, slots=pool.slots_per_node, allocated=now,
    )  # fmt: skip
    tx.log(now, "node", pk, "added", new=NodeState.CREATING)


def _let_go(tx: Tx, node: NodeRow, option: str, now: int) -> None:
    """Have a node leave as the option says; taskcompletion takes no new tasks and waits."""
    waits = option in (NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA)
    if waits and node.tasks_running:
        if node.scheduling_state == SchedulingState.ENABLED:
            node_rows.move(tx, node, scheduling_state=SchedulingState.DISABLED)
        return
    leave(tx, node, now, terminate=option == NodeDeallocationOption.TERMINATE)


def leave(tx: Tx, node: NodeRow, now: int, *, terminate: bool = False) -> None:
    """Take the tasks off a node and have it released."""
    if node.state == NodeState.LEAVING_POOL:
        return
    vacate(tx, node, now, terminate=terminate)
    node = node_rows.get(tx, node.pk) or node
    state = transitions.NODE.after(node.state, NodeHappened.REMOVE_REQUESTED)
    node_rows.move(tx, node, state=state, state_time=now, session=node.session + 1)
    tx.log(now, "node", node.pk, NodeHappened.REMOVE_REQUESTED, old=node.state, new=state)
    tx.wake(wakes.node(node.pk))
    tx.wake(wakes.CAPACITY)


def steady(tx: Tx, pool: PoolView, error: ResizeError | None, now: int) -> None:
    """A resize has come to its end, with or without what was asked for."""
    state = transitions.ALLOCATION.after(pool.allocation_state, AllocationHappened.RESIZE_ENDED)
    errors, cause = (None, None) if error is None else (msgspec.json.encode([error]), error.code)
    pool_rows.move(tx, pool, allocation_state=state, allocation_time=now, resize_errors=errors)
    tx.log(
        now,
        "pool",
        pool.pk,
        AllocationHappened.RESIZE_ENDED,
        old=pool.allocation_state,
        new=state,
        cause=cause,
    )
