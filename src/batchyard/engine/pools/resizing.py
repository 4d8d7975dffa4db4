"""Takes every pool to the size it should have: adds node rows, picks the nodes that leave, ends resizes (contract 2.1, 3.13).

Rows only: `capacity` asks the providers for what the rows say. Dedicated and low-priority nodes go their ways independently:
an error of the one is noted on the pool and the other goes on; the pool is steady when both have come to their end.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence, Set

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.nodes import change_node
from batchyard.engine.changes.pools import change_size
from batchyard.engine.settling.ends import vacate
from batchyard.model.common import NameValuePair
from batchyard.model.pool import ResizeError
from batchyard.model.states import AllocationState, NodeState, SchedulingState
from batchyard.model.words import NodeDeallocationOption
from batchyard.rules import images
from batchyard.rules.offer import AZURE, Offer
from batchyard.rules.sizes import Size
from batchyard.rules.transitions import AllocationHappened, NodeHappened
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store import tasks as task_rows
from batchyard.store import usage
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

NODES_PER_ROUND = 100
"""Nodes that one round adds to a pool: who asks for more than there is hears so from the first that cannot be had."""
TASKS_PER_ROUND = 1000
"""Tasks that one round takes off the nodes of a pool, so that thousands of them do not hold up everybody else's commits."""
REMOVE = "remove"
"""The action of a node that leaves as soon as its option allows."""
KIND = "NodeKind"
"""Detail of a resize error that says which target was not reached."""
_KINDS = {1: "dedicated", 0: "low-priority"}
_NOT_ALLOCATED = "Desired number of {} nodes could not be allocated"
_WAITING = (NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA)
_resize_errors = msgspec.json.Decoder(list[ResizeError])


def empty(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
    """Let all nodes of a deleted pool go, then the pool itself."""
    for node in _bounded(tx, [node for node in nodes if node.state != NodeState.LEAVING_POOL]):
        leave(tx, node, now)
    if not nodes:
        pool_rows.delete(tx, pool.pk)
        tx.log(now, "pool", pool.pk, "gone", old=pool.state)


def _bounded(tx: Tx, nodes: Sequence[NodeRow]) -> Iterator[NodeRow]:
    """As many of the nodes as one commit may free of their tasks, at least one; the next round goes on at once."""
    tasks = 0
    for node in nodes:
        taken = 0 if node.action == REMOVE and node.action_option in _WAITING else node.tasks_running
        if tasks and tasks + taken > TASKS_PER_ROUND:
            tx.wake(wakes.CAPACITY)
            return
        tasks += taken
        yield node


def advance(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int, offer: Offer = AZURE) -> None:
    """Take a pool that is not steady a step on; a steady one stays as it is."""
    if pool.allocation_state == AllocationState.RESIZING:
        _resize(tx, pool, nodes, now, offer)
    elif pool.allocation_state == AllocationState.STOPPING:
        _stop(tx, pool, nodes, now)


def _resize(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int, offer: Offer) -> None:
    """Add or let go nodes of both kinds; steady once each has reached its target or knows why not."""
    errors = {dedicated: error for error in _noted(pool) for dedicated, kind in _KINDS.items() if _kind_of(error) == kind}
    before, settled = len(errors), True
    for dedicated in _KINDS:
        own = [node for node in nodes if node.dedicated == dedicated]
        error, done = _take_on(tx, pool, own, dedicated, errors.get(dedicated), now, offer)
        settled = settled and done
        if error is not None:
            errors[dedicated] = error
    if settled:
        steady(tx, pool, list(errors.values()), AllocationHappened.RESIZE_ENDED, now)
    elif len(errors) > before:
        pool_rows.move(tx, pool, resize_errors=msgspec.json.encode(list(errors.values())))


def _take_on(
    tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], dedicated: int, error: ResizeError | None, now: int, offer: Offer
) -> tuple[ResizeError | None, bool]:
    """One kind of nodes; why it cannot reach its target, and True when there is nothing left to do or to wait for."""
    target = pool.target_dedicated if dedicated else pool.target_low_priority
    _pick(tx, pool, nodes, target, now)
    nodes = [node for node in node_rows.of_pool(tx, pool.pk) if node.dedicated == dedicated]
    for node in _bounded(tx, [node for node in nodes if node.action == REMOVE]):
        _take_off(tx, node, now)
    staying = _staying(nodes)
    stuck = [node for node in nodes if node.state == NodeState.LEAVING_POOL and now >= node.state_time + pool.resize_timeout]
    going = len(staying) + len(stuck) < len(nodes)
    missing = target - len(staying)
    if missing > 0 and error is None:
        added, error = _grow(tx, pool, dedicated, missing, now, offer)
        going = going or added > 0
    unborn = [node for node in staying if _unborn(node)]
    if (unborn or (missing > 0 and error is None)) and now >= pool.allocation_time + pool.resize_timeout:
        for node in unborn:
            leave(tx, node, now)
        error = error or _error("AllocationTimedOut", dedicated, "within the resize timeout")
    done = not going and not unborn and (missing <= 0 or error is not None)
    return error or (_stuck(dedicated, len(stuck)) if done and stuck else None), done


def _staying(nodes: Sequence[NodeRow]) -> list[NodeRow]:
    return [node for node in nodes if node.state != NodeState.LEAVING_POOL and node.action != REMOVE]


def _unborn(node: NodeRow) -> bool:
    """True while nobody has a machine for the node."""
    return node.state == NodeState.CREATING and node.handle is None


def _pick(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], target: int, now: int) -> None:
    """Choose the nodes that leave when there are too many."""
    staying = _staying(nodes)
    if len(staying) > target:
        managers = task_rows.nodes_with_managers(tx, pool.pk)
        for node in sorted(staying, key=lambda node: _last_to_go(node, managers))[: len(staying) - target]:
            mark(tx, node, pool.deallocation_option or NodeDeallocationOption.REQUEUE, now)


def _last_to_go(node: NodeRow, managers: Set[int]) -> tuple[bool, bool, bool, int, int]:
    """First those without a job manager (contract 3.5), then without a machine, then those that take no tasks, idle ones, the youngest."""
    works = node.scheduling_state == SchedulingState.ENABLED and node.state in (NodeState.IDLE, NodeState.RUNNING)
    return (node.pk in managers, not _unborn(node), works, node.tasks_running, -node.pk)


def mark(tx: Tx, node: NodeRow, option: str, now: int) -> None:
    """Have a node leave as soon as its option allows; it takes no new tasks from now on."""
    node_rows.move(tx, node, action=REMOVE, action_option=option, action_since=now, action_after=None)
    tx.log(now, "node", node.pk, "removal asked", cause=option)
    tx.wake(wakes.CAPACITY)


def _take_off(tx: Tx, node: NodeRow, now: int) -> None:
    """Let a marked node go: at once, when its tasks have ended, or when what they left behind need not be kept any longer."""
    if node.action_option in _WAITING and node.tasks_running:
        return
    if node.action_option == NodeDeallocationOption.RETAINED_DATA:
        if node.action_after is None:
            node = node_rows.move(tx, node, action_after=task_rows.retained_until(tx, node.pk) or now)
        if now < (node.action_after or now):
            return
    leave(tx, node, now, terminate=node.action_option == NodeDeallocationOption.TERMINATE)


def _grow(tx: Tx, pool: PoolView, dedicated: int, missing: int, now: int, offer: Offer) -> tuple[int, ResizeError | None]:
    """Add nodes as far as quotas allow; how many, and why no more come."""
    body = pool_rows.content(pool.body)
    size = offer.sizes.find(body.vm_size)
    if size is None:
        return 0, _failed(dedicated, f"The account does not offer the size {body.vm_size} any more")
    if body.virtual_machine_configuration is not None and images.is_windows(body.virtual_machine_configuration):
        return 0, _failed(dedicated, "The image is a Windows image; every node of this account runs Linux")
    quota = offer.quotas.dedicated_cores if dedicated else offer.quotas.low_priority_cores
    room, used = missing, 0
    if quota is not None:
        used = usage.cores(tx, dedicated=bool(dedicated))
        room = max(0, quota - used) // size.cores
    added = min(missing, room, NODES_PER_ROUND)
    for number in node_rows.free_numbers(tx, pool.pk, added):
        add_node(tx, pool, body.vm_size, size, dedicated, number, now)
    if added < room or room >= missing:
        return added, None
    code = "AccountCoreQuotaReached" if dedicated else "AccountLowPriorityCoreQuotaReached"
    cores = {"Quota": quota, "Used": used + added * size.cores, "Wanted": (missing - added) * size.cores}
    details = (NameValuePair(name=name, value=f"{number} cores") for name, number in cores.items())
    return added, _error(code, dedicated, "because the core quota of the account has been reached", *details)


def _error(code: str, dedicated: int, why: str, *details: NameValuePair) -> ResizeError:
    kind = _KINDS[dedicated]
    return ResizeError(code=code, message=f"{_NOT_ALLOCATED.format(kind)} {why}", values=[NameValuePair(name=KIND, value=kind), *details])


def _stuck(dedicated: int, nodes: int) -> ResizeError:
    """Their provider does not give nodes back; it is asked for that on and on, and the pool goes on without them."""
    message = f"{nodes} {_KINDS[dedicated]} nodes could not be removed within the resize timeout"
    return ResizeError(code="RemoveNodesFailed", message=message, values=[NameValuePair(name=KIND, value=_KINDS[dedicated])])


def _failed(dedicated: int, message: str) -> ResizeError:
    return _error("AllocationFailed", dedicated, "by the provider", NameValuePair(name="ProviderErrorJson", value=message))


def _noted(pool: PoolView) -> list[ResizeError]:
    return [] if pool.resize_errors is None else _resize_errors.decode(pool.resize_errors)


def _kind_of(error: ResizeError) -> str | None:
    return next((detail.value for detail in error.values or () if detail.name == KIND), None)


def no_capacity(tx: Tx, pool: PoolView, node: NodeRow, message: str) -> None:
    """A provider has no machine for a node of a pool that grows: no more of that kind are asked for, the others go on."""
    errors = _noted(pool)
    if pool.allocation_state == AllocationState.RESIZING and all(_kind_of(error) != _KINDS[node.dedicated] for error in errors):
        pool_rows.move(tx, pool, resize_errors=msgspec.json.encode([*errors, _failed(node.dedicated, message)]))
        tx.wake(wakes.CAPACITY)


def add_node(
    tx: Tx, pool: PoolView, vm_size: str, size: Size, dedicated: int, number: int, now: int, *, provider: str | None = None
) -> int:
    """A node that is wanted, of the provider of its size unless another is named; its key. Its id is as the service's (contract 2.2)."""
    node_id = f"tvmps_{secrets.token_hex(32)}_{'d' if dedicated else 'p'}"
    pk = node_rows.add(
        tx,
        pool_pk=pool.pk,
        id=node_id,
        state=NodeState.CREATING,
        state_time=now,
        scheduling_state=SchedulingState.ENABLED,
        dedicated=dedicated,
        slots=pool.slots_per_node,
        allocated=now,
        cores=size.core_limit,
        memory=size.memory_limit_bytes,
        task_disk=size.task_disk_bytes,
        provider=provider or size.provider,
        number=number,
    )
    usage.begin(tx, pool, vm_size, size.cores, now, node_pk=pk, dedicated=dedicated)
    tx.log(now, "node", pk, "added", new=NodeState.CREATING)
    return pk


def _stop(tx: Tx, pool: PoolView, nodes: Sequence[NodeRow], now: int) -> None:
    """Keep what there is: nodes without a machine go, those that were only waiting to leave stay (contract 2.1)."""
    for node in nodes:
        if _unborn(node):
            leave(tx, node, now)
        elif node.action == REMOVE and node.state != NodeState.LEAVING_POOL:
            _keep(tx, pool, node)
    if any(_unborn(node) or (node.state == NodeState.LEAVING_POOL and now < node.state_time + pool.resize_timeout) for node in nodes):
        return
    reached = {1: pool.target_dedicated == pool.current_dedicated, 0: pool.target_low_priority == pool.current_low_priority}
    stopped = [_error("ResizeStopped", dedicated, "due to a StopPoolResize operation") for dedicated in _KINDS if not reached[dedicated]]
    steady(tx, pool, stopped, AllocationHappened.STOPPED, now)


def _keep(tx: Tx, pool: PoolView, node: NodeRow) -> None:
    """A node that was to leave takes tasks again."""
    node_rows.move(tx, node, action=None, action_option=None, action_since=None, action_after=None)
    tx.wake(wakes.pool(pool.id.lower()))


def leave(tx: Tx, node: NodeRow, now: int, *, terminate: bool = False) -> None:
    """Take the tasks off a node and have it released."""
    if node.state == NodeState.LEAVING_POOL:
        return
    node = vacate(tx, node, now, terminate=terminate)
    node = change_node(tx, node, NodeHappened.REMOVE_REQUESTED, now, session=node.session + 1)
    usage.end(tx, node, now)
    tx.wake(wakes.node(node.pk))
    tx.wake(wakes.CAPACITY)


def steady(tx: Tx, pool: PoolView, errors: Sequence[ResizeError], happened: AllocationHappened, now: int) -> None:
    """A resize has come to its end, with or without what was asked for."""
    noted = msgspec.json.encode(errors) if errors else None
    cause = ", ".join(error.code or "" for error in errors) or None
    change_size(tx, pool, happened, now, cause=cause, resize_errors=noted)
