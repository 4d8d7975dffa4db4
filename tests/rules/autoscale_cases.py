"""Samples and evaluations for the tests of autoscale formulas."""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.model import times
from batchyard.model.autoscale import SAMPLE_PERIOD_US, Sample
from batchyard.rules.autoscale import Outcome, evaluate
from batchyard.rules.autoscale_syntax import parse

NOW = times.from_iso("2016-10-13T19:18:47.805Z")
"""A Thursday."""
SLOT = NOW // SAMPLE_PERIOD_US * SAMPLE_PERIOD_US


def history(*active: int, newest: int = SLOT, **others: int) -> list[Sample]:
    """Samples with these numbers of active tasks, one per period, the oldest first."""
    first = newest - (len(active) - 1) * SAMPLE_PERIOD_US
    return [Sample(first + at * SAMPLE_PERIOD_US, active_tasks=number, **others) for at, number in enumerate(active)]


def run(formula: str, samples: Sequence[Sample] = (), *, now: int = NOW, dedicated: int = 0, low_priority: int = 0) -> Outcome:
    """Evaluate a formula; chance gives 0.25."""
    return evaluate(parse(formula), now=now, samples=samples, random=lambda: 0.25, dedicated=dedicated, low_priority=low_priority)


def value(expression: str, samples: Sequence[Sample] = ()) -> str:
    """What an expression is printed as."""
    outcome = run(f"x={expression}", samples)
    assert outcome.failure is None, outcome.failure
    return outcome.variables["x"]


def failure(formula: str, samples: Sequence[Sample] = ()) -> tuple[str, str]:
    """Code and message of an evaluation that fails; nothing of the pool's size may change."""
    outcome = run(formula, samples, dedicated=2, low_priority=1)
    assert outcome.failure is not None, outcome
    assert outcome.results == "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=1;$NodeDeallocationOption=requeue"
    return outcome.failure.code, outcome.failure.message
