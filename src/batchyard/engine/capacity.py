"""Brings every pool to its size: asks providers for nodes, watches them, lets them go.

A node's row exists before a provider is asked and goes after the provider has released it, so a crash at any
moment is mended by the next run.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence, Set

import msgspec
import structlog

from batchyard.engine import nodes as node_cases
from batchyard.engine import special_tasks, wakes
from batchyard.engine.clock import Clock
from batchyard.engine.ends import vacate
from batchyard.model.common import NameValuePair
from batchyard.model.pool import PoolCreateContent, ResizeError
from batchyard.model.states import AllocationState, NodeState, PoolState, SchedulingState
from batchyard.model.words import NodeDeallocationOption
from batchyard.providers.base import Handle, NoCapacity, NodeOrder, NodeProvider, Seen
from batchyard.rules import transitions
from batchyard.rules.transitions import AllocationHappened, NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store.db import Database
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

log = structlog.get_logger()

_FIRST_DELAY_US = 250_000
_LONGEST_DELAY_US = 60_000_000
NODES_PER_ROUND = 100
"""Nodes that one round adds to a pool: who asks for more than there is hears so from the first that cannot be had."""
_pool_body = msgspec.json.Decoder(PoolCreateContent)


class Plan(msgspec.Struct):
    """What providers have to be asked."""

    launch: list[tuple[int, NodeOrder]] = []
    watch: list[tuple[int, Handle]] = []
    release: list[tuple[int, Handle | None]] = []


class Capacity:
    """The capacity loop's work."""

    def __init__(self, db: Database, provider: NodeProvider, clock: Clock, node_key: bytes) -> None:
        self._db, self._provider, self._clock, self._node_key = db, provider, clock, node_key

    async def run_once(self) -> None:
        """One round: plan, watch, launch, release."""
        plan = await self._db.run(make_plan, self._node_key, self._clock.now())
        lost = await self._watch(plan.watch)
        await asyncio.gather(*(self._launch(pk, order) for pk, order in [*plan.launch, *lost]))
        await self._release(plan.release)

    async def _watch(self, watched: Sequence[tuple[int, Handle]]) -> list[tuple[int, NodeOrder]]:
        """Find out who is gone; the nodes to be launched again."""
        again: list[tuple[int, NodeOrder]] = []
        seen = await self._provider.observe([handle for _, handle in watched])
        for node_pk, handle in watched:
            if seen.get(handle) == Seen.GONE:
                log.warning("node lost", node=node_pk)
                order = await self._db.run(lost, node_pk, self._node_key, self._clock.now())
                if order is not None:
                    again.append((node_pk, order))
        return again

    async def _launch(self, node_pk: int, order: NodeOrder) -> None:
        try:
            handle = await self._provider.launch(order)
        except NoCapacity as error:
            await self._db.run(no_capacity, node_pk, str(error), self._clock.now())
        except Exception as error:
            log.exception("launch failed", node=order.node_id)
            await self._db.run(launch_failed, node_pk, str(error), self._clock.now())
        else:
            await self._db.run(launched, node_pk, handle, self._clock.now())

    async def _release(self, leaving: Sequence[tuple[int, Handle | None]]) -> None:
        if leaving:
            await self._provider.release([handle for _, handle in leaving if handle is not None])
            await self._db.run(left, [node_pk for node_pk, _ in leaving], self._clock.now())


def make_plan(tx: Tx, node_key: bytes, now: int) -> Plan:
    """Move pools and nodes as far as the rows alone allow, and say what providers have to be asked."""
    plan = Plan()
    for pool in pool_rows.every(tx):
        nodes = node_rows.of_pool(tx, pool.pk)
        if pool.state == PoolState.DELETING:
            _empty(tx, pool, nodes, now)
        elif pool.allocation_state == AllocationState.RESIZING:
            _resize(tx, pool, nodes, now)
        body = _pool_body.decode(pool.body)
        for node in node_rows.of_pool(tx, pool.pk):
            _plan_node(plan, pool, body.vm_size, node, node_key, now)
    return plan


def _plan_node(plan: Plan, pool: PoolView, vm_size: str, node: NodeRow, node_key: bytes, now: int) -> None:
    if node.state == NodeState.LEAVING_POOL:
        plan.release.append((node.pk, node.handle))
    elif node.handle is not None:
        plan.watch.append((node.pk, node.handle))
    elif _due(node, now):
        plan.launch.append((node.pk, _order(pool, vm_size, node, node_key)))


def _due(node: NodeRow, now: int) -> bool:
    """True unless the node was launched so lately, or so often in vain, that it has to wait."""
    return node.launches == 0 or now >= node.state_time + min(_LONGEST_DELAY_US, _FIRST_DELAY_US << min(node.launches, 20))


def _order(pool: PoolView, vm_size: str, node: NodeRow, node_key: bytes) -> NodeOrder:
    token = node_cases.token(node_key, node.pk)
    return NodeOrder(pool.id, node.id, node.pk, token, vm_size, node.slots, bool(node.dedicated))


def lost(tx: Tx, node_pk: int, node_key: bytes, now: int) -> NodeOrder | None:
    """A node's agent has ended; the order to launch it again, None when it leaves or has to wait."""
    again = node_cases.gone(tx, node_pk, now)
    node = node_rows.get(tx, node_pk)
    pool = None if node is None else pool_rows.get(tx, node.pool_pk)
    if not again or node is None or pool is None or not _due(node, now):
        return None
    return _order(pool, _pool_body.decode(pool.body).vm_size, node, node_key)


def _empty(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
    """Let all nodes of a deleted pool go, then the pool itself."""
    for node in nodes:
        leave(tx, node, now)
    if not nodes:
        pool_rows.delete(tx, pool.pk)
        tx.log(now, "pool", pool.pk, "gone", old=pool.state)


def _resize(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
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


def launched(tx: Tx, node_pk: int, handle: Handle, now: int) -> None:
    """The provider has a machine for the node."""
    node = node_rows.get(tx, node_pk)
    if node is None:
        return
    state = node.state
    if transitions.NODE.allows(state, NodeHappened.LAUNCHED):
        state = transitions.NODE.after(state, NodeHappened.LAUNCHED)
        tx.log(now, "node", node_pk, NodeHappened.LAUNCHED, old=node.state, new=state)
    node_rows.move(tx, node, handle=handle, state=state, state_time=now, launches=node.launches + 1)
    tx.wake(wakes.CAPACITY)


def launch_failed(tx: Tx, node_pk: int, message: str, now: int) -> None:
    """The provider could not start the node; it is tried again, later each time."""
    node = node_rows.get(tx, node_pk)
    if node is not None:
        node_rows.move(tx, node, launches=node.launches + 1, state_time=now)
        tx.log(now, "node", node_pk, "launch failed", cause=message[:500])


def no_capacity(tx: Tx, node_pk: int, message: str, now: int) -> None:
    """There is no machine for the node: it goes, and the pool says why it is smaller than asked."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.state != NodeState.CREATING:
        return
    node_rows.delete(tx, node_pk)
    tx.log(now, "node", node_pk, "no capacity", old=node.state, cause=message[:500])
    pool = pool_rows.get(tx, node.pool_pk)
    if pool is not None and pool.allocation_state == AllocationState.RESIZING:
        details = [NameValuePair(name="ProviderErrorJson", value=message)]
        error = ResizeError(code="AllocationFailed", message="Desired number of nodes could not be allocated", values=details)
        steady(tx, pool, error, now)


def left(tx: Tx, node_pks: Iterable[int], now: int) -> None:
    """The provider has released nodes."""
    for node_pk in node_pks:
        special_tasks.leave(tx, node_pk, now)
        node_rows.delete(tx, node_pk)
        tx.log(now, "node", node_pk, "gone", old=NodeState.LEAVING_POOL)
    tx.wake(wakes.CAPACITY)
