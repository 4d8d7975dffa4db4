"""What an autoscale formula decides (contract 6): pure, so time, chance and samples are arguments.

An evaluation ends after a bounded number of steps with targets that a pool can have, or with one of two kinds of error;
nothing else comes out of it, whatever the formula says.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from batchyard.model.autoscale import SAMPLE_PERIOD_US, Sample
from batchyard.model.words import NodeDeallocationOption
from batchyard.rules import autoscale_functions as functions
from batchyard.rules import autoscale_values as values
from batchyard.rules.autoscale_syntax import (
    Assignment,
    Call,
    Chain,
    Choice,
    Logic,
    Member,
    Method,
    Name,
    Node,
    Number,
    Place,
    Sign,
    Text,
)
from batchyard.rules.autoscale_values import TICKS_PER_US, Interval, Moment, Value, Vector, Word, Wrong

MOST_STEPS = 200_000
"""Expressions evaluated and elements of vectors touched, in all."""
MOST_NODES = 100_000
LONGEST_RESULTS = 8_192
"""Characters of a result string; each is kept with its pool and in its trace."""
_LONGEST_TARGETS = 200
"""Characters that targets and option take of it at most."""
EVALUATION_ERROR = "AutoScalingFormulaEvaluationError"
INSUFFICIENT_DATA = "InsufficientSampleData"

SERIES: Mapping[str, Callable[[Sample], int]] = {
    "$ActiveTasks": lambda sample: sample.active_tasks,
    "$RunningTasks": lambda sample: sample.running_tasks,
    "$PendingTasks": lambda sample: sample.pending_tasks,
    "$SucceededTasks": lambda sample: sample.succeeded_tasks,
    "$FailedTasks": lambda sample: sample.failed_tasks,
    "$ActiveTaskSlots": lambda sample: sample.active_task_slots,
    "$RunningTaskSlots": lambda sample: sample.running_task_slots,
    "$PendingTaskSlots": lambda sample: sample.pending_task_slots,
    "$TaskSlotsPerNode": lambda sample: sample.task_slots_per_node,
    "$CurrentDedicatedNodes": lambda sample: sample.current_dedicated_nodes,
    "$CurrentLowPriorityNodes": lambda sample: sample.current_low_priority_nodes,
    "$PreemptedNodeCount": lambda sample: sample.preempted_node_count,
    "$UsableNodeCount": lambda sample: sample.usable_node_count,
    "$SampleNodeCount": lambda sample: sample.sample_node_count,
    "$CurrentDedicated": lambda sample: sample.current_dedicated_nodes,
    "$CurrentLowPriority": lambda sample: sample.current_low_priority_nodes,
}
"""The last two are what the current nodes were called before there were nodes of two kinds; public formulas still say so."""
EMPTY_SERIES = frozenset(
    {
        "$CPUPercent",
        "$WallClockSeconds",
        "$MemoryBytes",
        "$DiskBytes",
        "$DiskReadBytes",
        "$DiskWriteBytes",
        "$DiskReadOps",
        "$DiskWriteOps",
        "$NetworkInBytes",
        "$NetworkOutBytes",
    }
)
"""Not populated by the service since 2024-03-31; the names still mean something (contract 6.6)."""
WORDS = frozenset(option.value for option in NodeDeallocationOption)
_OPTION = "$NodeDeallocationOption"
_DEDICATED = ("$TargetDedicatedNodes", "$TargetDedicated")
_LOW_PRIORITY = ("$TargetLowPriorityNodes", "$TargetLowPriority")
WRITABLE = (*_DEDICATED, *_LOW_PRIORITY, _OPTION)


class Failure(msgspec.Struct, frozen=True):
    """Why an evaluation failed; `message` begins with line and column."""

    code: str
    message: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of an evaluation; after a failure the targets are the present ones."""

    dedicated: int
    low_priority: int
    option: str
    variables: Mapping[str, str]
    """The formula's own variables, printed, in alphabetical order; those that a failed one came to."""
    whole: bool = True
    """False when there were more variables than a result string has room for."""
    failure: Failure | None = None

    @property
    def results(self) -> str:
        """The result string (contract 6.9); it ends in `...` when variables are left off."""
        shown = {_DEDICATED[0]: self.dedicated, _LOW_PRIORITY[0]: self.low_priority, _OPTION: self.option}
        words = [f"{name}={value}" for name, value in (shown if self.failure else {**shown, **self.variables}).items()]
        return ";".join(words if self.whole or self.failure else [*words, "..."])


def evaluate(
    formula: Sequence[Node], *, now: int, samples: Sequence[Sample], random: Callable[[], float], dedicated: int, low_priority: int
) -> Outcome:
    """Evaluate a parsed formula at `now` (µs since 1970) for a pool with these targets; samples the oldest first."""
    run = _Evaluation(now, samples, random, {_DEDICATED[0]: dedicated, _LOW_PRIORITY[0]: low_priority})
    try:
        run.all(formula)
    except _Stopped:
        pass
    except _Failed as failed:
        return Outcome(dedicated, low_priority, NodeDeallocationOption.REQUEUE.value, *run.own(), failed.failure)
    option = run.variables.get(_OPTION, Word(NodeDeallocationOption.REQUEUE.value))
    return Outcome(run.target(_DEDICATED), run.target(_LOW_PRIORITY), values.printed(option), *run.own())


class _Stopped(Exception):
    """The formula called stop()."""


class _Failed(Exception):
    def __init__(self, place: Place, message: str, code: str = EVALUATION_ERROR) -> None:
        super().__init__(message)
        self.failure = Failure(code, f"{place}: {message}")


class _Scarce(Wrong):
    """There are too few samples."""


def _of_resource_data(call: Call) -> bool:
    """True for a function of samples of empty series and nothing else."""
    return call.name in functions.OF_LIST and bool(call.arguments) and all(map(_is_resource_data, call.arguments))


def _is_resource_data(node: Node) -> bool:
    return isinstance(node, Method) and node.name == "GetSample" and isinstance(node.owner, Name) and node.owner.name in EMPTY_SERIES


class _Evaluation:
    """One run through a formula."""

    def __init__(self, now: int, samples: Sequence[Sample], random: Callable[[], float], targets: Mapping[str, int]) -> None:
        self._now, self._samples, self._random, self._targets = now, samples, random, targets
        self._times = [sample.at for sample in samples]
        self._steps = 0
        self.variables: dict[str, Value] = {}

    def all(self, statements: Sequence[Node]) -> None:
        """Run the statements from top to bottom. Raises _Stopped, _Failed."""
        for statement in statements:
            if isinstance(statement, Assignment):
                value = self._value(statement.value)
                self._guarded(statement.place, partial(self._assign, statement.name, value))
            else:
                self._value(statement)

    def own(self) -> tuple[dict[str, str], bool]:
        """The formula's own variables as they are printed, in alphabetical order, and whether these are all."""
        names = sorted((name for name in self.variables if name not in WRITABLE), key=lambda name: (name.lstrip("$").lower(), name))
        found: dict[str, str] = {}
        room = LONGEST_RESULTS - _LONGEST_TARGETS
        for name in names:
            value = values.printed(self.variables[name])
            room -= len(name) + len(value) + len("=;")
            if room < 0:
                break
            found[name] = value
        return found, len(found) == len(names)

    def target(self, names: tuple[str, str]) -> int:
        """A target as a pool can have it; the long name wins."""
        return min(MOST_NODES, max(0, math.floor(values.number(self._writable(names)))))

    def _writable(self, names: tuple[str, str]) -> Value:
        long, short = names
        return self.variables.get(long, self.variables.get(short, float(self._targets[long])))

    def _assign(self, name: str, value: Value) -> None:
        if name in SERIES or name in EMPTY_SERIES or name in values.INTERVALS or name in WORDS:
            raise Wrong(f"{name} cannot be assigned to")
        if name == _OPTION and not isinstance(value, Word):
            raise Wrong(f"{name} takes one of {', '.join(sorted(WORDS))}")
        self.variables[name] = values.number(value) if name in _DEDICATED or name in _LOW_PRIORITY else value

    def _guarded(self, place: Place, act: Callable[[], Value | None]) -> Value | None:
        """What `act` gives. Raises _Failed with the place in place of Wrong."""
        try:
            found = act()
        except _Scarce as scarce:
            raise _Failed(place, str(scarce), INSUFFICIENT_DATA) from None
        except Wrong as wrong:
            raise _Failed(place, str(wrong)) from None
        self._spend(place, 1 + len(found) if isinstance(found, tuple) else 1)
        return found

    def _spend(self, place: Place, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise _Failed(place, "The evaluation takes too many steps")

    def _value(self, node: Node) -> Value:
        """What an expression gives. Raises _Stopped, _Failed."""
        match node:
            case Chain():
                return self._chain(node)
            case Logic():
                return self._logic(node)
            case Choice():
                return self._value(node.yes if self._true(node.condition) else node.no)
            case _:
                prepared = self._prepared(node)
                value = self._guarded(node.place, prepared)
                assert value is not None
                return value

    def _prepared(self, node: Node) -> Callable[[], Value]:
        """The last step of an expression whose parts are evaluated. Raises _Stopped, _Failed."""
        match node:
            case Number():
                return lambda: values.finite(float(node.text))
            case Text():
                return lambda: node.value
            case Name():
                return lambda: self._name(node.name)
            case Sign():
                operand = self._value(node.operand)
                return lambda: values.negative(operand) if node.operator == "-" else float(values.number(operand) == 0)
            case Member():
                owner = self._value(node.owner)
                return lambda: values.member(owner, node.name)
            case Call():
                arguments = self._arguments(node.place, node.arguments)
                return lambda: self._call(node.name, arguments)
            case Method():
                arguments = self._arguments(node.place, node.arguments)
                return lambda: self._method(node, arguments)
            case _:
                raise AssertionError(node)

    def _arguments(self, place: Place, nodes: Sequence[Node]) -> list[Value]:
        found = [self._value(node) for node in nodes]
        self._spend(place, sum(len(value) for value in found if isinstance(value, tuple)))
        return found

    def _chain(self, node: Chain) -> Value:
        value = self._operand(node.first, node.rest[0][0])
        for sign, place, operand in node.rest:
            left, right = value, self._operand(operand, sign)
            if left is None or right is None:
                value = 0.0
                continue
            found = self._guarded(place, partial(values.binary, sign, left, right))
            assert found is not None
            value = found
        assert value is not None
        return value

    def _operand(self, node: Node, sign: str) -> Value | None:
        """What an operand gives; None when it is compared and made of nothing but resource data, which nobody has.

        No comparison with it holds, so that formulas for busy and for idle processors leave a pool as it is.
        """
        if sign in values.COMPARISONS and isinstance(node, Call) and _of_resource_data(node):
            self._arguments(node.place, node.arguments)
            return None
        return self._value(node)

    def _logic(self, node: Logic) -> Value:
        """No further than needed, as in C."""
        wanted = node.operator == "||"
        return float(any(self._true(one) for one in node.operands) if wanted else all(self._true(one) for one in node.operands))

    def _true(self, node: Node) -> bool:
        value = self._value(node)
        return self._guarded(node.place, lambda: values.number(value)) != 0

    def _name(self, name: str) -> Value:
        if name in self.variables:
            return self.variables[name]
        if name in SERIES or name in EMPTY_SERIES:
            return self._latest(name)
        if name in WORDS:
            return Word(name)
        if name in values.INTERVALS:
            return values.INTERVALS[name]
        if name == _OPTION:
            return Word(NodeDeallocationOption.REQUEUE.value)
        for names in (_DEDICATED, _LOW_PRIORITY):
            if name in names:
                return self._writable(names)
        raise Wrong(f"Undefined symbol: {name}")

    def _call(self, name: str, arguments: Sequence[Value]) -> Value:
        if name in ("rand", "stop") and arguments:
            raise Wrong(f"{name} takes no arguments")
        if name == "stop":
            raise _Stopped
        if name == "rand":
            return self._random()
        if name == "time":
            return self._time(arguments)
        found = functions.call(name, arguments)
        if found is None:
            raise Wrong(f"Undefined symbol: {name}")
        return found

    def _time(self, arguments: Sequence[Value]) -> Value:
        match arguments:
            case []:
                return Moment(self._now * TICKS_PER_US)
            case [str(text)]:
                return values.read_time(text)
            case _:
                raise Wrong("time takes nothing or a string")

    # samples

    def _history(self, name: str) -> Sequence[Sample]:
        return () if name in EMPTY_SERIES else self._samples

    def _read(self, name: str, samples: Sequence[Sample]) -> Vector:
        try:
            return tuple(float(SERIES[name](sample)) for sample in samples)
        except OverflowError:
            raise Wrong(f"A sample of {name} is out of bounds") from None

    def _latest(self, name: str) -> float:
        found = self._read(name, self._history(name)[-1:])
        if not found:
            raise _Scarce(f"Insufficient data from data set: {name} has no samples")
        return found[0]

    def _method(self, node: Method, arguments: Sequence[Value]) -> Value:
        owner = node.owner
        if not isinstance(owner, Name) or owner.name not in SERIES.keys() | EMPTY_SERIES or owner.name in self.variables:
            raise Wrong(f"Only a variable of the service has the method {node.name}")
        return self._sampled(owner.name, node.name, arguments)

    def _sampled(self, name: str, method: str, arguments: Sequence[Value]) -> Value:
        history = self._history(name)
        arguments = [values.single(argument) for argument in arguments]
        match method, arguments:
            case "GetSamplePeriod", []:
                return Interval(SAMPLE_PERIOD_US * TICKS_PER_US)
            case "Count", []:
                return float(len(history))
            case "HistoryBeginTime", []:
                if not history:
                    raise _Scarce(f"Insufficient data from data set: {name} has no samples")
                return Moment(history[0].at * TICKS_PER_US)
            case "GetSample", [float(count)]:
                if count < 1:
                    raise Wrong("GetSample wants at least one sample")
                return self._read(name, history[-int(min(count, values.MOST_ELEMENTS)) :])
            case "GetSample", [*window, float(percent)]:
                return self._window(name, window, percent)
            case "GetSample", window:
                return self._window(name, window, 0.0)
            case "GetSamplePercent", window:
                return self._found(name, window)[1]
            case _:
                raise Wrong(f"{name} has no method {method} with {len(arguments)} arguments")

    def _window(self, name: str, window: Sequence[Value], percent: float) -> Vector:
        found, share = self._found(name, window)
        if share < percent:
            raise _Scarce(f"Insufficient data from data set: {name} wanted {percent:g}%, received {math.floor(share)}%")
        return self._read(name, found)

    def _found(self, name: str, window: Sequence[Value]) -> tuple[Sequence[Sample], float]:
        """Samples of a window, and their share of those that should be there, in percent. Raises Wrong."""
        if not 1 <= len(window) <= 2:
            raise Wrong("A window has a start and perhaps an end")
        bounds = sorted([*(self._bound(one) for one in window), *([self._now] if len(window) == 1 else [])])
        low, high = bounds
        expected = max(1, (high - low) // SAMPLE_PERIOD_US)
        if name in EMPTY_SERIES:
            return (), 0.0
        found = self._samples[bisect_right(self._times, low) : bisect_right(self._times, high)]
        return found, min(100.0, 100.0 * len(found) / expected)

    def _bound(self, value: Value) -> int:
        """µs since 1970."""
        if isinstance(value, Interval):
            return self._now - value.ticks // TICKS_PER_US
        if isinstance(value, Moment):
            return value.ticks // TICKS_PER_US
        raise Wrong(f"A window is given by timeintervals or timestamps, not {values.kind(value)}")
