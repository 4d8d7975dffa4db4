"""Brings every pool to its size: asks providers for nodes, watches them, lets them go.

A node's row exists before a provider is asked and goes after the provider has released it, so a crash at any
moment is mended by the next run. A round only plans and begins: whatever a provider takes its time for runs on
beside the rounds, one call per node at a time, and is written when it comes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec
import structlog

from batchyard.engine import wakes
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.clock import Clock
from batchyard.engine.errands import Errands, delay_us
from batchyard.engine.nodes import node_changes
from batchyard.engine.nodes import nodes as node_cases
from batchyard.engine.nodes.node_changes import Action
from batchyard.engine.pools import resizing
from batchyard.engine.pools.machines import Here, Rooms, at_home, elsewhere
from batchyard.engine.settling import special_tasks
from batchyard.model.node import ComputeNodeError
from batchyard.model.states import AllocationState, NodeState, PoolState
from batchyard.model.tokens import marked
from batchyard.providers.base import Handle, NoCapacity, NodeOrder, NodeProvider, Seen
from batchyard.rules import transitions
from batchyard.rules.offer import AZURE, Offer
from batchyard.rules.transitions import NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import special_tasks as special_rows
from batchyard.store import usage
from batchyard.store.db import Database
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

log = structlog.get_logger()

JOIN_US = 10 * 60_000_000
"""How long an agent may take from its launch to its first word."""
LEAVING_US = 60_000_000
"""How long an agent that said goodbye may take until its process is gone; it takes half a minute at the most, unless it hangs."""
LAUNCHES_AT_ONCE = 100
"""Launches of one provider that are under way at once."""
NODES_PER_CALL = 50
"""Nodes that one call releases or stops; those of a call that failed are tried one by one."""
LONGEST_GAP_US = 30 * 1_000_000
"""Rounds follow each other within a second or so; after a longer gap the machine slept or its clock was set."""
LAUNCH_S = 3600.0
"""A launch that takes longer has failed: an engine may queue for a long time, and none answers after for ever."""
CALL_S = 600.0
"""The same for every other call to a provider."""
_CLOSE_S = 5.0
_TEXT = 500
_ENDED = "its agent ended before it spoke to the server"


class Plan(msgspec.Struct):
    """What providers have to be asked."""

    launch: list[tuple[int, NodeOrder]] = []
    watch: list[tuple[int, Handle]] = []
    release: list[tuple[int, Handle | None]] = []
    stop: list[tuple[int, Handle | None]] = []
    """Machines that stop and start again with what they keep."""
    clear: list[tuple[int, Handle | None]] = []
    """Machines that are given back although their node stays."""
    rows: dict[int, NodeRow] = {}
    """Every node of the plan as it was when the plan was made."""


class NoSuchProvider(Exception):
    """The node comes from a provider that this server does not have."""


class Capacity:
    """The capacity loop's work; `join_us` is how long a launched node's agent may stay silent, `account` what its token says."""

    def __init__(
        self,
        db: Database,
        providers: Mapping[str, NodeProvider],
        clock: Clock,
        node_key: bytes,
        join_us: int = JOIN_US,
        offer: Offer = AZURE,
        account: str = "",
        here: Callable[[], Here] | None = None,
    ) -> None:
        self._account, self._here, self._missed = account, here, 0
        self._db, self._providers, self._clock, self._node_key, self._join_us = db, providers, clock, node_key, join_us
        self.offer = offer
        """What a pool may be; the quotas in it may change."""
        self._errands = Errands(clock)
        self._unswept: set[str] = set()
        """Providers that may have a machine for a node whose launch an earlier server began, and that was let go since."""
        self._since, self._ahead, self._last_round = clock.now(), clock.ahead, clock.now()

    async def run_once(self) -> None:
        """One round: plan, and begin to watch, launch, stop and release."""
        now = self._clock.now()
        self._note_gap(now)
        self._carry_out(await self._db.run(make_plan, self._node_key, now, self.offer, self._here and self._here()), now)

    async def run_own(self) -> None:
        """A round of a server that another one plans for: what the nodes on its own machine need."""
        if self._here is not None:
            now = self._clock.now()
            self._note_gap(now)
            self._carry_out(await self._db.read(own_plan, self._node_key, now, self._here()), now)

    def _carry_out(self, plan: Plan, now: int) -> None:
        late = [(pk, handle) for pk, handle in plan.watch if self._late(plan.rows[pk], now)]
        self._watch(plan, {pk for pk, _ in late})
        for name, some in self._batches(plan, late):
            self._errands.start("stop", [pk for pk, _ in some], partial(self._stop, name, some))
        for name, some in self._batches(plan, [each for each in plan.watch if self._is_mute(plan.rows[each[0]], now)]):
            lives = {pk: plan.rows[pk].session for pk, _ in some}
            self._errands.start("end mute", [*lives], partial(self._end_mute, name, some, lives))
        for name in sorted(self._unswept):
            if self._errands.due(_sweeping(name)) and not self._errands.under_way(_launching(name)):
                self._errands.start("sweep", [_sweeping(name)], partial(self._sweep, name))
        for pk, order in plan.launch:
            self._launch(pk, order, plan.rows[pk].provider)
        for name, some in self._batches(plan, plan.release):
            self._errands.start("release", [pk for pk, _ in some], partial(self._release, name, some))
        for name, some in self._batches(plan, plan.stop):
            self._errands.start("restart", [pk for pk, _ in some], partial(self._change, name, some, keep=True))
        for name, some in self._batches(plan, plan.clear):
            self._errands.start("give back", [pk for pk, _ in some], partial(self._change, name, some, keep=False))

    async def settle(self) -> None:
        """Wait for everything that rounds have begun."""
        await self._errands.settle()

    async def close(self) -> None:
        """End what is under way, after some patience; a later server repeats what was not done."""
        await self._errands.close(_CLOSE_S)

    def _note_gap(self, now: int) -> None:
        """Time in which the server did not run, or that its clock skipped, is no agent's fault.

        Of a server that was taken for gone others may have given up nodes, whose machines are removed here then.
        """
        if self._here is not None and (here := self._here()).missed != self._missed:
            self._missed = here.missed
            self._unswept |= here.bound & self._providers.keys()
        if not self._last_round <= now <= self._last_round + LONGEST_GAP_US or self._clock.ahead != self._ahead:
            self._since, self._ahead = now, self._clock.ahead
        self._last_round = now

    def _late(self, node: NodeRow, now: int) -> bool:
        """True when the node was launched and its agent should have spoken by now."""
        return node.state == NodeState.STARTING and now - max(_tried(node), self._since) >= self._join_us

    def _is_mute(self, node: NodeRow, now: int) -> bool:
        """True when the node fell silent and its provider can start another agent in the place of one that hangs.

        One that said goodbye has time for what it does on its way out.
        """
        if node.state != NodeState.UNKNOWN or node.provider not in self._providers or not self._providers[node.provider].restarts:
            return False
        return node.last_seen is not None or now - node.state_time >= LEAVING_US

    def _provider(self, name: str) -> NodeProvider:
        """Raises NoSuchProvider."""
        try:
            return self._providers[name]
        except KeyError:
            raise NoSuchProvider(f"this server has no provider named {name!r}, only {', '.join(sorted(self._providers))}") from None

    def _batches(self, plan: Plan, nodes: Sequence[tuple[int, Handle | None]]) -> Iterator[tuple[str, list[tuple[int, Handle | None]]]]:
        """Nodes that nothing is under way for, by provider, so many that one call may be about; those that failed before alone."""
        groups: dict[str, list[tuple[int, Handle | None]]] = defaultdict(list)
        for pk, handle in nodes:
            if not self._errands.due(pk):
                continue
            if self._errands.failures(pk):
                yield plan.rows[pk].provider, [(pk, handle)]
            else:
                groups[plan.rows[pk].provider].append((pk, handle))
        for name, group in groups.items():
            for at in range(0, len(group), NODES_PER_CALL):
                yield name, group[at : at + NODES_PER_CALL]

    def _watch(self, plan: Plan, late: set[int]) -> None:
        """Find out who is gone, one observation of every provider at a time."""
        groups: dict[str, list[tuple[int, Handle]]] = defaultdict(list)
        for pk, handle in plan.watch:
            if pk not in late:
                groups[plan.rows[pk].provider].append((pk, handle))
        for name, group in groups.items():
            if self._errands.due(name):
                self._errands.start("observe", [name], partial(self._observe, name, group, plan))

    async def _observe(self, name: str, watched: Sequence[tuple[int, Handle]], plan: Plan) -> None:
        provider = self._provider(name)
        async with asyncio.timeout(CALL_S):
            seen = await provider.observe([handle for _, handle in watched])
        for pk, handle in watched:
            if seen.get(handle) == Seen.PREEMPTED and not self._errands.busy(pk):
                log.warning("node preempted", node=plan.rows[pk].id)
                await self._db.run(node_changes.preempted, pk, self._clock.now(), (plan.rows[pk].session, plan.rows[pk].launches))
            if seen.get(handle) == Seen.GONE and not self._errands.busy(pk):
                await self._lost(provider, plan.rows[pk], handle)

    async def _lost(self, provider: NodeProvider, node: NodeRow, handle: Handle) -> None:
        """Note that a node is gone, and launch it again once that is due."""
        reason = await provider.why(handle)
        loss = await self._db.run(lost, node.pk, (node.session, node.launches), reason, self._node_key, self._clock.now())
        if loss.news:
            log.warning("node lost", node=node.id, reason=reason or "unknown", next_try_s=loss.wait_us / 1e6)
        if loss.order is not None:
            self._launch(node.pk, loss.order, node.provider)

    def _launch(self, pk: int, order: NodeOrder, name: str) -> None:
        """Begin a launch, unless one of this node is under way, or too many, or a sweep; the next round tries again."""
        kind = _launching(name)
        if not self._errands.busy(pk) and not self._errands.busy(_sweeping(name)) and self._errands.under_way(kind) < LAUNCHES_AT_ONCE:
            self._errands.start(kind, [pk], partial(self._launch_now, pk, order, name))

    async def _launch_now(self, pk: int, order: NodeOrder, name: str) -> None:
        try:
            provider = self._provider(name)
            size = self.offer.sizes.find(order.vm_size)
            labels, token = size.labels if size is not None else {}, marked(self._account, order.token)
            async with asyncio.timeout(LAUNCH_S):
                handle = await provider.launch(msgspec.structs.replace(order, labels=labels, token=token))
        except Exception as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, NoCapacity) and await self._passed_on(pk):
                log.info("no room for a node here, another server gets it", node=order.node_id)
                return
            unit = no_capacity if isinstance(error, NoCapacity) else launch_failed
            wait_us = await self._db.run(unit, pk, reason, self._clock.now())
            known = isinstance(error, NoCapacity | NoSuchProvider)
            log.warning("launch failed", node=order.node_id, reason=reason, next_try_s=wait_us / 1e6, exc_info=not known)
        else:
            server = None if self._here is None else self._here().server
            if not await self._db.run(launched, pk, handle, self._clock.now(), server):
                await provider.release([handle])

    async def _passed_on(self, pk: int) -> bool:
        """True when a node for which there is no room on this machine goes to another one that has some."""
        here = None if self._here is None else self._here()
        if here is None or not any(room > 0 for server, room in here.rooms.items() if server != here.server):
            return False
        return await self._db.run(elsewhere, pk, here.server)

    async def _stop(self, name: str, some: Sequence[tuple[int, Handle | None]]) -> None:
        async with asyncio.timeout(CALL_S):
            await self._provider(name).stop([handle for _, handle in some if handle is not None])
        await self._db.run(not_joined, [pk for pk, _ in some], self._join_us, self._clock.now())

    async def _end_mute(self, name: str, some: Sequence[tuple[int, Handle | None]], lives: Mapping[int, int]) -> None:
        """End agents that say nothing, but for those that spoke meanwhile; the nodes are launched again then."""
        mute = await self._db.read(node_cases.still_silent, lives)
        handles = [handle for pk, handle in some if pk in mute and handle is not None]
        async with asyncio.timeout(CALL_S):
            await self._provider(name).stop(handles)
        for handle in handles:
            log.warning("silent agent ended", node=handle)
        await self._db.run(node_cases.silenced, lives, self._clock.now())

    async def _change(self, name: str, some: Sequence[tuple[int, Handle | None]], *, keep: bool) -> None:
        """Stop machines whose nodes stay, with what they keep or without."""
        if handles := [handle for _, handle in some if handle is not None]:
            provider = self._provider(name)
            try:
                async with asyncio.timeout(CALL_S):
                    await (provider.stop(handles) if keep else provider.release(handles))
            except Exception as error:
                told = f"the machine could not be stopped: {str(error) or type(error).__name__}"
                await self._db.run(not_stopped, [pk for pk, _ in some], told, self._clock.now())
                raise
        if not keep and len(handles) < len(some) and name in self._providers:
            self._unswept.add(name)
        await self._db.run(node_changes.stopped, [pk for pk, _ in some], self._clock.now())

    async def _release(self, name: str, some: Sequence[tuple[int, Handle | None]]) -> None:
        if handles := [handle for _, handle in some if handle is not None]:
            async with asyncio.timeout(CALL_S):
                await self._provider(name).release(handles)
        if len(handles) < len(some) and name in self._providers:
            self._unswept.add(name)
        await self._db.run(left, [pk for pk, _ in some], self._clock.now())

    async def _sweep(self, name: str) -> None:
        """Release what belongs to no node; nothing is launched meanwhile, so no new machine can be taken for such."""
        self._unswept.discard(name)
        try:
            known = await self._db.read(at_home, self._here and self._here())
            async with asyncio.timeout(CALL_S):
                await self._provider(name).sweep(known)
        except Exception:
            self._unswept.add(name)
            raise


def _launching(provider: str) -> str:
    return f"launch from {provider}"


def _sweeping(provider: str) -> str:
    return f"sweep {provider}"


def make_plan(tx: Tx, node_key: bytes, now: int, offer: Offer = AZURE, here: Here | None = None) -> Plan:
    """Move pools and nodes as far as the rows alone allow, and say what providers have to be asked.

    `here` is for one of several servers: it asks for its own nodes alone, and gives those that are nobody's to the others.
    """
    plan = Plan()
    places = None if here is None else Rooms(here)
    for pool in pool_rows.every(tx):
        nodes = node_rows.of_pool(tx, pool.pk)
        if pool.state == PoolState.DELETING:
            resizing.empty(tx, pool, nodes, now)
        else:
            resizing.advance(tx, pool, nodes, now, offer)
        if pool.state == PoolState.DELETING or pool.allocation_state != AllocationState.STEADY:
            nodes = node_rows.of_pool(tx, pool.pk)
        for node in nodes:
            if places is not None:
                node = places.settle(tx, node)
            due = (node.action == Action.PREEMPT or node.state in node_changes.CHANGING) and node_changes.due(tx, node, now)
            if due and node.action == Action.PREEMPT and node_changes.preempted(tx, node.pk, now):
                continue
            if here is None or here.has(node):
                _plan(plan, pool, node, node_key, now, due=due)
            elif here.lost(node) and node.state == NodeState.LEAVING_POOL:
                left(tx, [node.pk], now)  # its server removes what it left there when it comes back
    return plan


def own_plan(reader: Reader, node_key: bytes, now: int, here: Here) -> Plan:
    """What providers have to be asked for the nodes of a server, while another one plans."""
    plan, pools = Plan(), {}
    for node in node_rows.of_server(reader, here.server):
        if node.pool_pk not in pools:
            pools[node.pool_pk] = pool_rows.get(reader, node.pool_pk)
        pool = pools[node.pool_pk]
        if pool is not None and node.provider in here.bound:
            _plan(plan, pool, node, node_key, now, due=node_changes.is_due(node, now))
    return plan


def _plan(plan: Plan, pool: PoolView, node: NodeRow, node_key: bytes, now: int, *, due: bool) -> None:
    """What has to be asked for a node; `due`: nothing holds up what is to happen to it."""
    plan.rows[node.pk] = node
    stopped = node.state == NodeState.STARTING and node.launches == 0  # on purpose, or its agent is known to be gone
    if node.state == NodeState.DEALLOCATED:
        return
    if node.state == NodeState.PREEMPTED and node.handle is not None:
        plan.clear.append((node.pk, node.handle))
    elif node.state in node_changes.CHANGING and due:
        (plan.stop if node.state == NodeState.REBOOTING else plan.clear).append((node.pk, node.handle))
    elif node.state == NodeState.LEAVING_POOL:
        plan.release.append((node.pk, node.handle))
    elif node.handle is not None and not stopped:
        plan.watch.append((node.pk, node.handle))
    elif _due(node, now):
        plan.launch.append((node.pk, _order(pool, node, node_key)))


def _due(node: NodeRow, now: int) -> bool:
    """True unless the node was launched so lately, or so often in vain, that it has to wait."""
    if node.state == NodeState.PREEMPTED and now < (node.action_after or 0):
        return False
    return now >= _tried(node) + delay_us(node.launches)


def _tried(node: NodeRow) -> int:
    """When the node came to where it needs a machine, or was launched last."""
    return max(node.state_time, node.tried or 0)


def _order(pool: PoolView, node: NodeRow, node_key: bytes) -> NodeOrder:
    token = node_cases.token(node_key, node.pk)
    asked = pool_rows.content(pool.body)
    together = bool(asked.enable_inter_node_communication)
    return NodeOrder(pool.id, node.id, token, asked.vm_size, node.slots, bool(node.dedicated), node.cores, node.memory, together)


class Loss(msgspec.Struct, frozen=True):
    """What follows from a node's end: the order to launch it again, None when it leaves or has to wait."""

    order: NodeOrder | None = None
    news: bool = False
    """True when nobody knew of it yet."""
    wait_us: int = 0


def lost(tx: Tx, node_pk: int, life: tuple[int, int], reason: str, node_key: bytes, now: int) -> Loss:
    """A node's agent has ended; `life` is the session and the number of launches that this was seen of."""
    node = node_rows.get(tx, node_pk)
    if node is None or (node.session, node.launches) != life:
        return Loss()  # it was launched or joined since
    due, news = _due(node, now), node.launches == 0
    if node.state == NodeState.STARTING and node.launch_error is None:
        news = True
        _note_failure(tx, node, reason or _ENDED, now)
    if node.state == NodeState.UNUSABLE and not due:
        return Loss()
    fresh = node_cases.gone(tx, node_pk, now)
    pool = pool_rows.get(tx, node.pool_pk)
    if fresh is None or pool is None:
        return Loss()
    if node.state == NodeState.UNUSABLE:
        fresh = node_rows.move(tx, fresh, errors=None)
    if not due:
        return Loss(news=news, wait_us=_tried(node) + delay_us(node.launches) - now)
    return Loss(_order(pool, fresh, node_key), news)


def launched(tx: Tx, node_pk: int, handle: Handle, now: int, server: str | None = None) -> bool:
    """The provider has a machine for the node; False when there is no such node any more, or it is another server's."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.server not in (None, server):
        return False
    fresh = node_rows.move(tx, node, handle=handle, tried=now, launches=node.launches + 1, launch_error=None)
    for happened in (NodeHappened.CAPACITY_RETURNED, NodeHappened.LAUNCHED):
        if transitions.NODE.allows(fresh.state, happened):
            fresh = change_node(tx, fresh, happened, now)
    if node.state == NodeState.PREEMPTED:
        usage.resume(tx, node_pk, now)
    tx.wake(wakes.CAPACITY)
    return True


def launch_failed(tx: Tx, node_pk: int, message: str, now: int) -> int:
    """The provider could not start the node; it is tried again, later each time: microseconds until then."""
    node = node_rows.get(tx, node_pk)
    if node is None:
        return 0
    _note_failure(tx, node, message, now, launches=node.launches + 1, tried=now)
    return delay_us(node.launches + 1)


def _note_failure(tx: Tx, node: NodeRow, message: str, now: int, **changes: int) -> None:
    node_rows.move(tx, node, launch_error=message[:_TEXT], **changes)
    tx.log(now, "node", node.pk, "launch failed", cause=message[:_TEXT])


def no_capacity(tx: Tx, node_pk: int, message: str, now: int) -> int:
    """There is no machine for the node: a new one goes, and the pool says why it is smaller than asked; one that worked before waits."""
    node = node_rows.get(tx, node_pk)
    if node is None or node.state != NodeState.CREATING or node.booted is not None:
        return launch_failed(tx, node_pk, message, now)
    node_rows.delete(tx, node_pk)
    tx.log(now, "node", node_pk, "no capacity", old=node.state, cause=message[:_TEXT])
    pool = pool_rows.get(tx, node.pool_pk)
    if pool is not None:
        resizing.no_capacity(tx, pool, node, message)
    return 0


def not_joined(tx: Tx, node_pks: Iterable[int], waited_us: int, now: int) -> None:
    """Agents of launched nodes never spoke and were stopped: the nodes are unusable until they are launched again."""
    for node_pk in node_pks:
        node = node_rows.get(tx, node_pk)
        if node is None or node.state != NodeState.STARTING:
            continue
        message = f"The node was launched and its agent did not speak to the server within {waited_us // 1_000_000} s"
        errors = msgspec.json.encode([ComputeNodeError(code="NodeNotReady", message=message)])
        session = node.session + 1
        change_node(tx, node, NodeHappened.BROKEN, now, cause=message, session=session, errors=errors, launch_error=message)
        log.warning("node not ready", node=node.id, reason=message, next_try_s=delay_us(node.launches) / 1e6)


def not_stopped(tx: Tx, node_pks: Iterable[int], message: str, now: int) -> None:
    """The machines of nodes that are rebooted, reimaged or given back could not be stopped; it is tried again, and said why."""
    for node_pk in node_pks:
        node = node_rows.get(tx, node_pk)
        if node is not None and node.launch_error != message[:_TEXT]:
            node_rows.move(tx, node, launch_error=message[:_TEXT])
            tx.log(now, "node", node_pk, "stop failed", cause=message[:_TEXT])


def left(tx: Tx, node_pks: Iterable[int], now: int) -> None:
    """The provider has released nodes."""
    for node_pk in node_pks:
        special_tasks.leave(tx, node_pk, now)
        special_rows.delete_start(tx, node_pk)
        node_rows.delete(tx, node_pk)
        tx.log(now, "node", node_pk, "gone", old=NodeState.LEAVING_POOL)
    tx.wake(wakes.CAPACITY)
