"""Use cases of pools: add, patch, update properties, resize, stop a resize, remove nodes, delete."""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec
from msgspec import UNSET

from batchyard.engine import lookup, wakes
from batchyard.engine.changes.pools import change_pool, change_size
from batchyard.engine.checks import autoscale as autoscale_checks
from batchyard.engine.checks import packages
from batchyard.engine.checks import pools as pool_checks
from batchyard.engine.pools import autoscale_runs, resizing
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.pool import NodeRemove, PoolCreateContent, PoolPatch, PoolResize, PoolUpdateProperties
from batchyard.model.redact import without_secrets
from batchyard.model.states import AllocationState, PoolState
from batchyard.model.words import ElevationLevel, JobDefaultOrder, NodeDeallocationOption, NodeFillType
from batchyard.rules import transitions
from batchyard.rules.offer import AZURE, Offer
from batchyard.rules.transitions import AllocationHappened, PoolHappened
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

MOST_REMOVED = 100
STOPPABLE_US = 60_000_000
"""So long after its end a resize may still be stopped, which changes nothing: who stops one that he has just begun expects it to last."""
_NO_TARGET = "At least one of targetDedicatedNodes and targetLowPriorityNodes must be given"
_ALWAYS = frozenset(
    {"start_task", "certificate_references", "application_package_references", "metadata", "target_node_communication_mode"}
)
"""What a PATCH may change whatever the pool holds; the rest only while it has no nodes (contract 1.7)."""


def add(
    tx: Tx,
    pool: PoolCreateContent,
    now: int,
    offer: Offer = AZURE,
    *,
    shortest_interval_us: int = autoscale_checks.SHORTEST_INTERVAL_US,
    checked: bool = False,
) -> PoolView:
    """Add a pool; it is resizing at once, even to no nodes (contract 2.1). Raises PoolExists, PoolBeingDeleted, PoolQuotaReached.

    `checked` is for one that a job schedule kept since it was checked. What is refused is so before anything is written.
    """
    scaling = autoscale_checks.of_new_pool(pool, shortest_interval_us)
    (pool_checks.check_again if checked else pool_checks.check)(pool, offer)
    old = pool_rows.find(tx, pool.id)
    if old is not None:
        raise BatchError("PoolBeingDeleted" if old.state == PoolState.DELETING else "PoolExists")
    packages.check_there(tx, pool.application_package_references)
    if offer.quotas.pools is not None and pool_rows.count(tx) >= offer.quotas.pools:
        raise BatchError("PoolQuotaReached")
    assert pool.resize_timeout is not None
    dedicated, low_priority = pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0
    timeout = times.duration(pool.resize_timeout)
    pool = msgspec.structs.replace(  # what each resize changes; the unit may run again, so what it was given stays as it is
        pool,
        target_dedicated_nodes=None,
        target_low_priority_nodes=None,
        resize_timeout=None,
        auto_scale_formula=None,
        auto_scale_evaluation_interval=None,
    )
    pk = pool_rows.add(
        tx,
        id=pool.id,
        state=PoolState.ACTIVE,
        state_time=now,
        allocation_state=AllocationState.RESIZING,
        allocation_time=now,
        created=now,
        modified=now,
        target_dedicated=dedicated,
        target_low_priority=low_priority,
        resize_timeout=timeout,
        **_columns(pool),
    )
    job_rows.forget_smallest(tx, pool.id.lower())  # jobs may wait for it, of an earlier one
    tx.log(now, "pool", pk, "added", new=PoolState.ACTIVE)
    if scaling is not None:
        autoscale_runs.begin(tx, find(tx, pool.id), scaling, now)
    tx.wake(wakes.CAPACITY)
    return find(tx, pool.id)


def _columns(pool: PoolCreateContent) -> dict[str, object]:
    """What is decided on, out of the client's JSON; nobody needs the secrets: nodes make named users without a password."""
    assert pool.task_scheduling_policy is not None
    return {
        "slots_per_node": pool.task_slots_per_node,
        "pack": pool.task_scheduling_policy.node_fill_type is NodeFillType.PACK,
        "oldest_first": pool.task_scheduling_policy.job_default_order is JobDefaultOrder.CREATION_TIME,
        "inter_node": bool(pool.enable_inter_node_communication),
        "body": msgspec.json.encode(without_secrets(pool)),
    }


def patch(tx: Tx, row: PoolView, patch: PoolPatch, now: int, offer: Offer = AZURE) -> PoolView:
    """Replace each property that a PATCH names; null is as absent, an empty list clears. Raises OperationNotValidOnPool."""
    pool = pool_rows.content(row.body)
    given = {name: getattr(patch, name) for name in patch.__struct_fields__}
    changes = {name: value for name, value in given.items() if value is not UNSET and value is not None}
    _need_empty(row, set(changes) - _ALWAYS)
    _check_mode(row, pool, changes)
    return _store(tx, row, pool, changes, now, offer, "patched")


def update_properties(tx: Tx, row: PoolView, update: PoolUpdateProperties, now: int, offer: Offer = AZURE) -> PoolView:
    """Replace start task, packages and metadata: what is absent is removed (contract 1.7). Raises OperationNotValidOnPool."""
    pool = pool_rows.content(row.body)
    changes = {name: getattr(update, name) for name in update.__struct_fields__}
    if update.target_node_communication_mode is None:
        del changes["target_node_communication_mode"]
    _check_mode(row, pool, changes)
    return _store(tx, row, pool, changes, now, offer, "updated")


def _check_mode(row: PoolView, pool: PoolCreateContent, changes: Mapping[str, object]) -> None:
    """Another communication mode needs a pool without nodes, naming the present one does not."""
    name = "target_node_communication_mode"
    if changes.get(name, pool.target_node_communication_mode) is not pool.target_node_communication_mode:
        _need_empty(row, {name})


def _need_empty(row: PoolView, names: Set[str]) -> None:
    """Refuse to change what nodes are made from while there are some."""
    if names and row.current_dedicated + row.current_low_priority:
        wire = {field.name: field.encode_name for field in msgspec.structs.fields(PoolPatch)}
        reason = f"{', '.join(sorted(wire[name] for name in names))} may be changed only while the pool has no nodes"
        raise BatchError("OperationNotValidOnPool", Reason=reason)


def _store(tx: Tx, row: PoolView, pool: PoolCreateContent, changes: dict[str, object], now: int, offer: Offer, happened: str) -> PoolView:
    for name, value in changes.items():
        setattr(pool, name, value)
    pool_checks.check_changed(pool, set(changes), offer)
    if "application_package_references" in changes:
        packages.check_there(tx, pool.application_package_references)
    fresh = pool_rows.move(tx, row, modified=max(now, row.modified + 1), **_columns(pool))
    if (pool.task_slots_per_node, bool(pool.enable_inter_node_communication)) != (row.slots_per_node, bool(row.inter_node)):
        job_rows.forget_smallest(tx, row.id.lower())
    tx.log(now, "pool", row.pk, happened)
    return fresh


def resize(tx: Tx, pool: PoolView, resize: PoolResize, now: int, *, by_formula: bool = False) -> PoolView:
    """Ask for another size; a target that is not named stays. Raises PoolBeingResized, OperationNotValidOnPool."""
    dedicated = resize.target_dedicated_nodes
    low_priority = resize.target_low_priority_nodes
    if dedicated is None and low_priority is None:
        raise BatchError("MissingRequiredProperty", PropertyName="targetDedicatedNodes", Reason=_NO_TARGET)
    pool_checks.check_targets(dedicated, low_priority)
    if not by_formula:
        autoscale_checks.is_off(pool)
    dedicated = pool.target_dedicated if dedicated is None else dedicated
    low_priority = pool.target_low_priority if low_priority is None else low_priority
    return _begin(tx, pool, dedicated, low_priority, resize.node_deallocation_option, resize.resize_timeout, now)


def _may_resize(pool: PoolView) -> None:
    if not transitions.ALLOCATION.allows(pool.allocation_state, AllocationHappened.RESIZE_REQUESTED):
        raise BatchError("PoolBeingResized")


def _begin(
    tx: Tx, pool: PoolView, dedicated: int, low_priority: int, option: NodeDeallocationOption | None, timeout: str | None, now: int
) -> PoolView:
    """Have the pool resize to these targets."""
    _may_resize(pool)
    cause = f"{pool.target_dedicated} -> {dedicated}, {pool.target_low_priority} -> {low_priority}"
    fresh = change_size(
        tx,
        pool,
        AllocationHappened.RESIZE_REQUESTED,
        now,
        cause=cause,
        modified=max(now, pool.modified + 1),
        resize_errors=None,
        deallocation_option=option or NodeDeallocationOption.REQUEUE,
        target_dedicated=dedicated,
        target_low_priority=low_priority,
        resize_timeout=times.duration(pool_checks.resize_timeout(timeout)),
    )
    tx.wake(wakes.CAPACITY)
    return fresh


def stop_resize(tx: Tx, pool: PoolView, now: int) -> PoolView:
    """Stop a resize: what was obtained stays, the targets too. Raises OperationInvalidForCurrentState.

    No change when it is being stopped already, or ended by itself less than a minute ago (contract 2.1).
    """
    if pool.allocation_state == AllocationState.STEADY and now - pool.allocation_time < STOPPABLE_US:
        return pool
    if not transitions.ALLOCATION.allows(pool.allocation_state, AllocationHappened.STOP_REQUESTED):
        raise BatchError("OperationInvalidForCurrentState")
    if pool.allocation_state == AllocationState.RESIZING:
        pool = change_size(tx, pool, AllocationHappened.STOP_REQUESTED, now)
        tx.wake(wakes.CAPACITY)
    return pool


def remove_nodes(tx: Tx, pool: PoolView, remove: NodeRemove, now: int) -> PoolView:
    """Have 1 to 100 nodes leave; the targets fall by as many. Raises PoolBeingResized, OperationNotValidOnPool, NodeNotFound."""
    autoscale_checks.is_off(pool)
    if not 1 <= len(remove.node_list) <= MOST_REMOVED:
        raise invalid_property("nodeList", len(remove.node_list), f"Between 1 and {MOST_REMOVED} nodes must be named")
    _may_resize(pool)
    nodes: dict[int, NodeRow] = {}
    for node_id in remove.node_list:
        node = node_rows.find(tx, pool.pk, node_id)
        if node is None:
            raise BatchError("NodeNotFound", NodeId=node_id[:100])
        nodes[node.pk] = node
    dedicated = sum(node.dedicated for node in nodes.values())
    option = remove.node_deallocation_option or NodeDeallocationOption.REQUEUE
    targets = (  # a shrink that was stopped left more nodes than its target: removing one must not finish it
        max(0, max(pool.target_dedicated, pool.current_dedicated) - dedicated),
        max(0, max(pool.target_low_priority, pool.current_low_priority) - (len(nodes) - dedicated)),
    )
    changed = _begin(tx, pool, *targets, option, remove.resize_timeout, now)
    for node in nodes.values():
        resizing.mark(tx, node, option, now)
    return changed


def delete(tx: Tx, pool: PoolView, now: int) -> None:
    """Mark a pool for deletion; its tasks wait again, its nodes leave, then it is gone. Raises PoolBeingDeleted."""
    change_pool(tx, pool, PoolHappened.DELETE_REQUESTED, now)
    tx.wake(wakes.CAPACITY)


def find(tx: Tx, pool_id: str) -> PoolView:
    """Pool by id. Raises PoolNotFound."""
    pool = pool_rows.find(tx, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool


def administrators_of(reader: Reader, job_id: str) -> frozenset[str]:
    """Users of a job's pool whose tasks run with admin elevation. Raises JobNotFound."""
    pool = pool_rows.find(reader, lookup.job(reader, job_id).pool_key)
    accounts = None if pool is None else pool_rows.content(pool.body).user_accounts
    return frozenset(account.name for account in accounts or () if account.elevation_level is ElevationLevel.ADMIN)


def open_pool(tx: Tx, pool_id: str) -> PoolView:
    """Pool that accepts changes. Raises PoolNotFound, PoolBeingDeleted."""
    pool = find(tx, pool_id)
    if pool.state == PoolState.DELETING:
        raise BatchError("PoolBeingDeleted")
    return pool
