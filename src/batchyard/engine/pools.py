"""Use cases of pools: add, resize, delete."""

from __future__ import annotations

import re

import msgspec

from batchyard.engine import demands, wakes
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.pool import PoolCreateContent, PoolResize, TaskSchedulingPolicy
from batchyard.model.states import AllocationState, PoolState
from batchyard.model.words import NodeDeallocationOption, NodeFillType
from batchyard.rules import transitions
from batchyard.rules.transitions import AllocationHappened, PoolHappened
from batchyard.store import pools as pool_rows
from batchyard.store.pools import PoolView
from batchyard.store.tx import Tx

RESIZE_TIMEOUT = "PT15M"
_SHORTEST_RESIZE_US = 5 * 60 * 1_000_000
_MOST_SLOTS = 256
_VM_SIZE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_MOST_NODES = 100_000
_REQUIRED = "The property is required"
_NO_TARGET = "At least one of targetDedicatedNodes and targetLowPriorityNodes must be given"


def add(tx: Tx, pool: PoolCreateContent, now: int) -> PoolView:
    """Add a pool; it is resizing at once, even to no nodes (contract 2.1). Raises PoolExists, PoolBeingDeleted."""
    _check(pool)
    old = pool_rows.find(tx, pool.id)
    if old is not None:
        raise BatchError("PoolBeingDeleted" if old.state == PoolState.DELETING else "PoolExists")
    assert pool.task_scheduling_policy is not None
    assert pool.resize_timeout is not None
    assert pool.task_slots_per_node is not None
    dedicated, low_priority = pool.target_dedicated_nodes or 0, pool.target_low_priority_nodes or 0
    pool.target_dedicated_nodes = pool.target_low_priority_nodes = None
    pk = pool_rows.add(
        tx, id=pool.id, state=PoolState.ACTIVE, state_time=now, allocation_state=AllocationState.RESIZING, allocation_time=now,
        created=now, modified=now, target_dedicated=dedicated, target_low_priority=low_priority, slots_per_node=pool.task_slots_per_node,
        pack=pool.task_scheduling_policy.node_fill_type is NodeFillType.PACK, resize_timeout=times.duration(pool.resize_timeout),
        body=msgspec.json.encode(pool),
    )  # fmt: skip
    tx.log(now, "pool", pk, "added", new=PoolState.ACTIVE)
    tx.wake(wakes.CAPACITY)
    return find(tx, pool.id)


def _check(pool: PoolCreateContent) -> None:
    """Refuse what the contract refuses (A.1, 7.1) and fill the defaults in."""
    demands.an_id("id", pool.id)
    demands.a_display_name(pool.display_name)
    demands.metadata(pool.metadata)
    demands.not_served(
        enableAutoScale=pool.enable_auto_scale or None,
        autoScaleFormula=pool.auto_scale_formula,
        autoScaleEvaluationInterval=pool.auto_scale_evaluation_interval,
        cloudServiceConfiguration=pool.cloud_service_configuration,
        userAccounts=pool.user_accounts or None,
        mountConfiguration=pool.mount_configuration or None,
        applicationPackageReferences=pool.application_package_references or None,
        certificateReferences=pool.certificate_references or None,
    )
    if pool.virtual_machine_configuration is None:
        raise BatchError("MissingRequiredProperty", PropertyName="virtualMachineConfiguration", Reason=_REQUIRED)
    demands.not_served(containerConfiguration=pool.virtual_machine_configuration.container_configuration)
    if _VM_SIZE.fullmatch(pool.vm_size) is None:
        raise invalid_property("vmSize", pool.vm_size[:100], "A size is 1 to 64 letters, digits, hyphens, dots and underscores")
    pool.vm_size = pool.vm_size.lower()
    if pool.target_dedicated_nodes is None and pool.target_low_priority_nodes is None:
        raise BatchError("MissingRequiredProperty", PropertyName="targetDedicatedNodes", Reason=_NO_TARGET)
    _check_targets(pool.target_dedicated_nodes, pool.target_low_priority_nodes)
    pool.task_slots_per_node = 1 if pool.task_slots_per_node is None else pool.task_slots_per_node
    demands.within("taskSlotsPerNode", pool.task_slots_per_node, 1, _MOST_SLOTS)
    pool.task_scheduling_policy = pool.task_scheduling_policy or TaskSchedulingPolicy(node_fill_type=NodeFillType.SPREAD)
    pool.resize_timeout = _resize_timeout(pool.resize_timeout)
    pool.enable_auto_scale = False
    pool.enable_inter_node_communication = bool(pool.enable_inter_node_communication)
    image = pool.virtual_machine_configuration.image_reference
    if image.publisher is not None and not image.version:
        image.version = "latest"


def _resize_timeout(given: str | None) -> str:
    if given is None:
        return RESIZE_TIMEOUT
    us = demands.duration_us("resizeTimeout", given, minimum_us=_SHORTEST_RESIZE_US)
    if us is None:
        raise invalid_property("resizeTimeout", given, "The value must be finite")
    return times.duration_text(us)


def _check_targets(dedicated: int | None, low_priority: int | None) -> None:
    for name, target in (("targetDedicatedNodes", dedicated), ("targetLowPriorityNodes", low_priority)):
        if target is not None:
            demands.within(name, target, 0, _MOST_NODES)


def resize(tx: Tx, pool: PoolView, resize: PoolResize, now: int) -> PoolView:
    """Ask for another size; a target that is not named stays. Raises PoolBeingResized, PoolBeingDeleted."""
    if resize.target_dedicated_nodes is None and resize.target_low_priority_nodes is None:
        raise BatchError("MissingRequiredProperty", PropertyName="targetDedicatedNodes", Reason=_NO_TARGET)
    _check_targets(resize.target_dedicated_nodes, resize.target_low_priority_nodes)
    if not transitions.ALLOCATION.allows(pool.allocation_state, AllocationHappened.RESIZE_REQUESTED):
        raise BatchError("PoolBeingResized")
    dedicated, low_priority = resize.target_dedicated_nodes, resize.target_low_priority_nodes
    option = resize.node_deallocation_option or NodeDeallocationOption.REQUEUE
    pool_rows.move(
        tx, pool, allocation_state=transitions.ALLOCATION.after(pool.allocation_state, AllocationHappened.RESIZE_REQUESTED),
        allocation_time=now, modified=max(now, pool.modified + 1), resize_errors=None, deallocation_option=option,
        target_dedicated=pool.target_dedicated if dedicated is None else dedicated,
        target_low_priority=pool.target_low_priority if low_priority is None else low_priority,
        resize_timeout=times.duration(_resize_timeout(resize.resize_timeout)),
    )  # fmt: skip
    tx.log(now, "pool", pool.pk, AllocationHappened.RESIZE_REQUESTED, cause=f"{pool.target_dedicated} -> {dedicated}")
    tx.wake(wakes.CAPACITY)
    return find(tx, pool.id)


def delete(tx: Tx, pool: PoolView, now: int) -> None:
    """Mark a pool for deletion; its tasks wait again, its nodes leave, then it is gone. Raises PoolBeingDeleted."""
    state = transitions.POOL.after(pool.state, PoolHappened.DELETE_REQUESTED)
    pool_rows.move(tx, pool, state=state, state_time=now)
    tx.log(now, "pool", pool.pk, PoolHappened.DELETE_REQUESTED, old=pool.state, new=state)
    tx.wake(wakes.CAPACITY)


def find(tx: Tx, pool_id: str) -> PoolView:
    """Pool by id. Raises PoolNotFound."""
    pool = pool_rows.find(tx, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool


def open_pool(tx: Tx, pool_id: str) -> PoolView:
    """Pool that accepts changes. Raises PoolNotFound, PoolBeingDeleted."""
    pool = find(tx, pool_id)
    if pool.state == PoolState.DELETING:
        raise BatchError("PoolBeingDeleted")
    return pool
