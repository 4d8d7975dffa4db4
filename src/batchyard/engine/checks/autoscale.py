"""What a client may say about autoscale (contract 6.8, 7.1, A.1)."""

from __future__ import annotations

import msgspec

from batchyard.engine.checks import demands
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.pool import PoolCreateContent
from batchyard.rules import autoscale_syntax as syntax
from batchyard.store.pools import PoolRow

DEFAULT_INTERVAL_US = 15 * 60 * 1_000_000
SHORTEST_INTERVAL_US = 5 * 60 * 1_000_000
"""The service's; an operator may allow less."""
LONGEST_INTERVAL_US = 168 * 3600 * 1_000_000
_REQUIRED = "The property is required when autoscale is enabled"


class Scaling(msgspec.Struct, frozen=True):
    """A formula that may run, every so many µs."""

    formula: str
    interval_us: int


def of_new_pool(pool: PoolCreateContent, shortest_us: int) -> Scaling | None:
    """How a new pool wants to be scaled; None when its size is its targets.

    Raises MissingRequiredProperty, InvalidAutoScalingSettings and what formula and interval raise.
    """
    if not pool.enable_auto_scale:
        for name, value in (
            ("autoScaleFormula", pool.auto_scale_formula),
            ("autoScaleEvaluationInterval", pool.auto_scale_evaluation_interval),
        ):
            if value is not None:
                raise BatchError("InvalidAutoScalingSettings", PropertyName=name, Reason="Only a pool with autoscale has it")
        return None
    for name, target in (
        ("targetDedicatedNodes", pool.target_dedicated_nodes),
        ("targetLowPriorityNodes", pool.target_low_priority_nodes),
    ):
        if target is not None:
            raise BatchError("InvalidAutoScalingSettings", PropertyName=name, Reason="The formula decides the size")
    return Scaling(formula(pool.auto_scale_formula), interval(pool.auto_scale_evaluation_interval, shortest_us))


def formula(given: str | None) -> str:
    """A formula that can be run. Raises MissingRequiredProperty, AutoScalingFormulaTooLong, AutoScalingFormulaSyntaxError."""
    if given is None or not given.strip():
        raise BatchError("MissingRequiredProperty", PropertyName="autoScaleFormula", Reason=_REQUIRED)
    try:
        syntax.parse(given)
    except syntax.FormulaTooLong:
        raise BatchError("AutoScalingFormulaTooLong", MaxLimit=syntax.LONGEST_FORMULA) from None
    except syntax.FormulaSyntaxError as error:
        raise BatchError("AutoScalingFormulaSyntaxError", Message=error) from None
    return given


def interval(given: str | None, shortest_us: int) -> int:
    """µs between evaluations, 15 minutes unless given. Raises InvalidPropertyValue."""
    if given is None:
        return max(DEFAULT_INTERVAL_US, shortest_us)
    name = "autoScaleEvaluationInterval"
    us = demands.duration_us(name, given, minimum_us=shortest_us)
    if us is None or us > LONGEST_INTERVAL_US:
        raise invalid_property(name, given, f"The value must be at most {times.duration_text(LONGEST_INTERVAL_US)}")
    return us


def is_off(pool: PoolRow) -> None:
    """Raises OperationNotValidOnPool when a formula decides the size of the pool."""
    if pool.autoscale_formula is not None:
        raise BatchError("OperationNotValidOnPool", Reason="Autoscale is enabled on the pool")


def is_on(pool: PoolRow) -> str:
    """The formula that decides the size of the pool. Raises OperationNotValidOnPool when there is none."""
    if pool.autoscale_formula is None:
        raise BatchError("OperationNotValidOnPool", Reason="Autoscale is not enabled on the pool")
    return pool.autoscale_formula
