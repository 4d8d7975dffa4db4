"""Brings every pool to its size: asks providers for nodes, watches them, lets them go.

A node's row exists before a provider is asked and goes after the provider has released it, so a crash at any
moment is mended by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from batchyard.engine import nodes as node_cases
from batchyard.engine import resizing, special_tasks, wakes
from batchyard.engine.clock import Clock
from batchyard.model.pool import PoolCreateContent
from batchyard.model.states import NodeState, PoolState
from batchyard.providers.base import Handle, NoCapacity, NodeOrder, NodeProvider, Seen
from batchyard.rules import transitions
from batchyard.rules.offer import AZURE, Offer
from batchyard.rules.transitions import NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store.db import Database
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

log = structlog.get_logger()

_FIRST_DELAY_US = 250_000
_LONGEST_DELAY_US = 60_000_000
_pool_body = msgspec.json.Decoder(PoolCreateContent)


class Plan(msgspec.Struct):
    """What providers have to be asked."""

    launch: list[tuple[int, NodeOrder]] = []
    watch: list[tuple[int, Handle]] = []
    release: list[tuple[int, Handle | None]] = []


class Capacity:
    """The capacity loop's work."""

    def __init__(self, db: Database, provider: NodeProvider, clock: Clock, node_key: bytes, offer: Offer = AZURE) -> None:
        self._db, self._provider, self._clock, self._node_key, self._offer = db, provider, clock, node_key, offer

    async def run_once(self) -> None:
        """One round: plan, watch, launch, release."""
        plan = await self._db.run(make_plan, self._node_key, self._clock.now(), self._offer)
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


def make_plan(tx: Tx, node_key: bytes, now: int, offer: Offer = AZURE) -> Plan:
    """Move pools and nodes as far as the rows alone allow, and say what providers have to be asked."""
    plan = Plan()
    for pool in pool_rows.every(tx):
        nodes = node_rows.of_pool(tx, pool.pk)
        if pool.state == PoolState.DELETING:
            resizing.empty(tx, pool, nodes, now)
        else:
            resizing.advance(tx, pool, nodes, now, offer)
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
    return NodeOrder(pool.id, node.id, node.pk, token, vm_size, node.slots, bool(node.dedicated), node.cores, node.memory)


def lost(tx: Tx, node_pk: int, node_key: bytes, now: int) -> NodeOrder | None:
    """A node's agent has ended; the order to launch it again, None when it leaves or has to wait."""
    again = node_cases.gone(tx, node_pk, now)
    node = node_rows.get(tx, node_pk)
    pool = None if node is None else pool_rows.get(tx, node.pool_pk)
    if not again or node is None or pool is None or not _due(node, now):
        return None
    return _order(pool, _pool_body.decode(pool.body).vm_size, node, node_key)


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
    if pool is not None:
        resizing.no_capacity(tx, pool, node, message)


def left(tx: Tx, node_pks: Iterable[int], now: int) -> None:
    """The provider has released nodes."""
    for node_pk in node_pks:
        special_tasks.leave(tx, node_pk, now)
        node_rows.delete(tx, node_pk)
        tx.log(now, "node", node_pk, "gone", old=NodeState.LEAVING_POOL)
    tx.wake(wakes.CAPACITY)
