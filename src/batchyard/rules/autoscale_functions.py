"""Functions of autoscale formulas (contract 6.4), but for those that need to know the time or the state of the evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from batchyard.rules.autoscale_values import Value, Vector, Wrong, finite, kind, number, vector


def call(name: str, arguments: Sequence[Value]) -> Value | None:
    """What a function gives; None when there is none of that name. Raises Wrong."""
    try:
        if name in OF_LIST:
            return finite(OF_LIST[name](flat(arguments)))
        if name in _OF_EACH:
            elements = vector(tuple(_OF_EACH[name](element) for element in flat(arguments)))
            return elements[0] if len(arguments) == 1 and isinstance(arguments[0], float) else elements
        if name in _OF_VECTOR:
            return finite(_OF_VECTOR[name](*_vector_and_number(name, arguments)))
    except (ArithmeticError, ValueError):
        raise Wrong(f"{name} is not defined for such numbers") from None
    return None


def flat(arguments: Sequence[Value]) -> Vector:
    """A doubleVecList: doubles and vectors in a row, as one vector. Raises Wrong."""
    elements: list[float] = []
    for argument in arguments:
        if isinstance(argument, tuple):
            elements += argument
        elif isinstance(argument, float):
            elements.append(argument)
        else:
            raise Wrong(f"A double or doubleVec is wanted, not {kind(argument)}")
    return vector(tuple(elements))


def _vector_and_number(name: str, arguments: Sequence[Value]) -> tuple[Vector, float]:
    if len(arguments) != 2 or not isinstance(arguments[0], tuple):
        raise Wrong(f"{name} wants a doubleVec and a double")
    return arguments[0], number(arguments[1])


def _filled(name: str, act: Callable[[Vector], float]) -> Callable[[Vector], float]:
    """The function for vectors that have elements."""

    def checked(elements: Vector) -> float:
        if not elements:
            raise Wrong(f"{name} wants at least one element")
        return act(elements)

    return checked


def _std(elements: Vector) -> float:
    """Sample standard deviation; that of a single element is 0."""
    mean = math.fsum(elements) / len(elements)
    squares = math.fsum((element - mean) * (element - mean) for element in elements)
    return math.sqrt(squares / max(1, len(elements) - 1))


def _percentile(elements: Vector, percent: float) -> float:
    """Between two elements in proportion."""
    if not elements:
        raise Wrong("percentile wants at least one element")
    if not 0 <= percent <= 100:
        raise Wrong("A percentile lies between 0 and 100")
    ordered = sorted(elements)
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _val(elements: Vector, index: float) -> float:
    if not 0 <= index < len(elements):
        raise Wrong(f"There is no element {index:g} in a vector of {len(elements)}")
    return elements[int(index)]


def _round(number: float) -> float:
    """To the nearest integer, halves away from zero."""
    return math.copysign(math.floor(abs(number) + 0.5), number) if abs(number) < 2**52 else number


OF_LIST: Mapping[str, Callable[[Vector], float]] = {
    "avg": _filled("avg", lambda elements: math.fsum(elements) / len(elements)),
    "max": _filled("max", max),
    "min": _filled("min", min),
    "range": _filled("range", lambda elements: max(elements) - min(elements)),
    "std": _filled("std", _std),
    "sum": math.fsum,
    "norm": lambda elements: math.hypot(*elements),
    "len": lambda elements: float(len(elements)),
}
_OF_EACH: Mapping[str, Callable[[float], float]] = {
    "ceil": lambda element: float(math.ceil(element)),
    "floor": lambda element: float(math.floor(element)),
    "round": _round,
    "lg": math.log2,
    "ln": math.log,
    "log": math.log10,
}
_OF_VECTOR: Mapping[str, Callable[[Vector, float], float]] = {"percentile": _percentile, "val": _val}
NAMES = frozenset({*OF_LIST, *_OF_EACH, *_OF_VECTOR, "rand", "time", "stop"})
