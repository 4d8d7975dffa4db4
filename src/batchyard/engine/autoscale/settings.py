"""Use cases of autoscale: enable, disable, try a formula out, and what is known of a pool's evaluations."""

from __future__ import annotations

import msgspec

from batchyard.engine.checks import autoscale as checks
from batchyard.engine.pools import autoscale_runs as runs
from batchyard.engine.pools import pools
from batchyard.model import times
from batchyard.model.autoscale import AutoScaleReport, AutoScaleTrace
from batchyard.model.errors import BatchError
from batchyard.model.pool import AutoScaleRun, PoolEnableAutoScale, PoolEvaluateAutoScale, PoolResize
from batchyard.model.states import PoolState
from batchyard.model.words import NodeDeallocationOption
from batchyard.rules import transitions
from batchyard.rules.transitions import AllocationHappened
from batchyard.store import autoscale as rows
from batchyard.store import pools as pool_rows
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

REST_US = 30 * 1_000_000
"""Autoscale is enabled on a pool no more often than this (contract 7.1)."""
_trace = msgspec.json.Decoder(AutoScaleTrace)


def enable(tx: Tx, pool: PoolView, wanted: PoolEnableAutoScale, shortest_us: int, now: int) -> PoolView:
    """Have a formula decide the size of the pool, from now on and at once; what is not given stays.

    Raises PoolBeingResized, TooManyEnableAutoScaleRequests and what formula and interval raise.
    """
    formula = checks.formula(pool.autoscale_formula if wanted.auto_scale_formula is None else wanted.auto_scale_formula)
    interval_us = pool.autoscale_interval
    if interval_us is None or wanted.auto_scale_evaluation_interval is not None:
        interval_us = checks.interval(wanted.auto_scale_evaluation_interval, shortest_us)
    if not transitions.ALLOCATION.allows(pool.allocation_state, AllocationHappened.RESIZE_REQUESTED):
        raise BatchError("PoolBeingResized")
    if pool.autoscale_enabled is not None and pool.autoscale_enabled <= now < pool.autoscale_enabled + REST_US:
        raise BatchError("TooManyEnableAutoScaleRequests")
    modified = max(now, pool.modified + 1)
    found = runs.evaluate(tx, pool, formula, modified)
    changes = {} if found.resizes else {"modified": modified}  # a resize does so itself
    pool = runs.keep(
        tx,
        pool,
        found,
        "enabled",
        autoscale_formula=formula,
        autoscale_interval=interval_us,
        autoscale_next=now + interval_us,
        autoscale_enabled=now,
        body=_with(pool, True),
        **changes,
    )
    tx.log(now, "pool", pool.pk, "autoscale enabled")
    return follow(tx, pool, found, now)


def follow(tx: Tx, pool: PoolView, found: runs.Evaluation, now: int) -> PoolView:
    """Resize the pool as the formula decided, if it has to change."""
    if not found.resizes:
        return pool
    size = PoolResize(
        target_dedicated_nodes=found.outcome.dedicated,
        target_low_priority_nodes=found.outcome.low_priority,
        node_deallocation_option=NodeDeallocationOption(found.outcome.option),
    )
    return pools.resize(tx, pool, size, now, by_formula=True)


def disable(tx: Tx, pool: PoolView, now: int) -> PoolView:
    """Leave the pool at its targets, to be resized by hand; nothing happens where autoscale is off."""
    if pool.autoscale_formula is None:
        return pool
    fresh = pool_rows.move(
        tx,
        pool,
        autoscale_formula=None,
        autoscale_interval=None,
        autoscale_next=None,
        autoscale_run=None,
        autoscale_pending=None,
        body=_with(pool, False),
        modified=max(now, pool.modified + 1),
    )
    tx.log(now, "pool", pool.pk, "autoscale disabled")
    return fresh


def _with(pool: PoolView, enabled: bool) -> bytes:
    body = pool_rows.content(pool.body)
    body.enable_auto_scale = enabled
    return msgspec.json.encode(body)


def evaluate(reader: Reader, pool_id: str, wanted: PoolEvaluateAutoScale, now: int) -> AutoScaleRun:
    """What a formula would decide for a pool now; nothing changes.

    Raises PoolNotFound, PoolBeingDeleted, OperationNotValidOnPool and what the formula raises.
    """
    pool = _find(reader, pool_id)
    if pool.state == PoolState.DELETING:
        raise BatchError("PoolBeingDeleted")
    formula = checks.formula(wanted.auto_scale_formula)
    checks.is_on(pool)
    return runs.evaluate(reader, pool, formula, now).run


def report(reader: Reader, pool_id: str, *, samples: bool) -> AutoScaleReport:
    """How a pool was scaled lately, with all of its samples if asked for. Raises PoolNotFound."""
    pool = _find(reader, pool_id)
    interval = pool.autoscale_interval
    stored = rows.history(reader, pool.pk, 0, 2**62) if samples else None
    return AutoScaleReport(
        pool_id=pool.id,
        enable_auto_scale=pool.autoscale_formula is not None,
        target_dedicated_nodes=pool.target_dedicated,
        target_low_priority_nodes=pool.target_low_priority,
        auto_scale_formula=pool.autoscale_formula,
        auto_scale_evaluation_interval=None if interval is None else times.duration_text(interval),
        next_evaluation_time=None if pool.autoscale_next is None else times.iso(pool.autoscale_next),
        runs=[_trace.decode(body) for body in rows.runs(reader, pool.pk, runs.RUNS_KEPT)],
        samples=None if stored is None else [runs.shown(sample) for sample in stored],
    )


def _find(reader: Reader, pool_id: str) -> PoolView:
    pool = pool_rows.find(reader, pool_id)
    if pool is None:
        raise BatchError("PoolNotFound")
    return pool
