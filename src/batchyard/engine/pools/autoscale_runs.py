"""Evaluations of a pool's formula: on what samples, what came of it, and the trace that is kept.

An evaluation only reads; what it decided is written by whoever asked for it, in one transaction with the resize that follows.
A failed one changes nothing but `autoScaleRun`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import random

import msgspec

from batchyard.engine.checks.autoscale import Scaling
from batchyard.model import times
from batchyard.model.autoscale import SAMPLE_PERIOD_US, AutoScaleDecision, AutoScaleSample, AutoScaleTrace, Sample
from batchyard.model.common import NameValuePair
from batchyard.model.pool import AutoScaleRun, AutoScaleRunError
from batchyard.rules import autoscale as rules
from batchyard.rules.autoscale import Failure, Outcome
from batchyard.rules.autoscale_syntax import parse
from batchyard.store import autoscale as rows
from batchyard.store import pools as pool_rows
from batchyard.store.pools import PoolView
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

HISTORY_US = 25 * 3600 * 1_000_000
"""Samples are kept a little longer than the day that formulas look back."""
RUNS_KEPT = 50
_SAMPLES_SHOWN = 10
_SENTENCES = {
    rules.EVALUATION_ERROR: "The specified auto-scaling formula has evaluation error",
    rules.INSUFFICIENT_DATA: "Autoscale evaluation failed due to insufficient sample data",
}


class Evaluation(msgspec.Struct, frozen=True):
    """A formula that was run for a pool, and what it saw."""

    formula: str
    at: int
    outcome: Outcome
    samples: Sequence[Sample]
    """The oldest first; the last one is of the present and not stored yet."""
    pending: int
    resizes: bool
    """True when the pool has to change its size."""

    @property
    def run(self) -> AutoScaleRun:
        """As the pool shows it."""
        failure = self.outcome.failure
        return AutoScaleRun(timestamp=times.iso(self.at), results=self.outcome.results, error=None if failure is None else _error(failure))


def _error(failure: Failure) -> AutoScaleRunError:
    values = [NameValuePair(name="Message", value=failure.message)]
    return AutoScaleRunError(code=failure.code, message=_SENTENCES[failure.code], values=values)


def slot(now: int) -> int:
    """When the 30 seconds began that a sample of now stands for."""
    return now // SAMPLE_PERIOD_US * SAMPLE_PERIOD_US


def evaluate(reader: Reader, pool: PoolView, formula: str, now: int) -> Evaluation:
    """Run a formula that was checked for a pool as it is now."""
    at = slot(now)
    samples = [*rows.history(reader, pool.pk, at - HISTORY_US, at), rows.present(reader, pool, at)]
    outcome = rules.evaluate(
        parse(formula), now=now, samples=samples, random=random, dedicated=pool.target_dedicated, low_priority=pool.target_low_priority
    )
    return Evaluation(formula, now, outcome, samples, rows.pending(reader, pool), outcome.failure is None and _differs(pool, outcome))


def _differs(pool: PoolView, outcome: Outcome) -> bool:
    """True for other targets, and for those that the last resize could not reach."""
    if (outcome.dedicated, outcome.low_priority) != (pool.target_dedicated, pool.target_low_priority):
        return True
    missing = pool.current_dedicated < pool.target_dedicated or pool.current_low_priority < pool.target_low_priority
    return missing and pool.resize_errors is not None


def begin(tx: Tx, pool: PoolView, scaling: Scaling, now: int) -> None:
    """Let the formula of a new pool decide its first size; the pool is resizing already."""
    found = evaluate(tx, pool, scaling.formula, now)
    outcome = found.outcome
    keep(
        tx,
        pool,
        found,
        "added",
        autoscale_formula=scaling.formula,
        autoscale_interval=scaling.interval_us,
        autoscale_next=now + scaling.interval_us,
        target_dedicated=outcome.dedicated,
        target_low_priority=outcome.low_priority,
    )


def keep(tx: Tx, pool: PoolView, found: Evaluation, cause: str, **changes: object) -> PoolView:
    """Write down an evaluation, its sample, and what else changes with it; the pool then."""
    fresh = pool_rows.move(tx, pool, autoscale_run=msgspec.json.encode(found.run), autoscale_pending=found.pending, **changes)
    put_sample(tx, pool.pk, found.samples[-1])
    rows.add_run(tx, pool.pk, msgspec.json.encode(_trace(pool, found, cause)), RUNS_KEPT)
    tx.log(found.at, "pool", pool.pk, "autoscale evaluated", cause=cause if found.outcome.failure is None else found.outcome.failure.code)
    return fresh


def put_sample(tx: Tx, pool_pk: int, sample: Sample) -> None:
    """Keep a sample and forget those that are too old; of a pool that went meanwhile nothing is kept."""
    if pool_rows.get(tx, pool_pk) is None:
        return
    rows.put(tx, pool_pk, sample)
    rows.forget(tx, pool_pk, sample.at - HISTORY_US)


def _trace(pool: PoolView, found: Evaluation, cause: str) -> AutoScaleTrace:
    outcome = found.outcome
    return AutoScaleTrace(
        cause=cause,
        formula=found.formula,
        run=found.run,
        decision=AutoScaleDecision(
            old_target_dedicated_nodes=pool.target_dedicated,
            old_target_low_priority_nodes=pool.target_low_priority,
            target_dedicated_nodes=outcome.dedicated,
            target_low_priority_nodes=outcome.low_priority,
            node_deallocation_option=outcome.option,
            resized=found.resizes,
        ),
        variables=dict(outcome.variables),
        samples=[shown(sample) for sample in found.samples[-_SAMPLES_SHOWN:]],
        sample_count=len(found.samples),
    )


def shown(sample: Sample) -> AutoScaleSample:
    """A sample as the wire has it."""
    counters = {name: value for name, value in msgspec.structs.asdict(sample).items() if value and name != "at"}
    return AutoScaleSample(timestamp=times.iso(sample.at), **counters)
