"""Whether operations of many clients at the same time can be put into one order that a model allows: Wing and Gong's search.

Each operation took effect at one moment between its begin and its end, or the history is not linearizable. One that nobody
answered took effect at such a moment or never; it ends when its server did, or never when that is not known.
Sources: Wing and Gong, Testing and Verifying Concurrent Objects, 1993; Lowe, Testing for linearizability, 2017 (states seen before).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Hashable)
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Op:
    """What a client asked and was told, and when, in microseconds; `answer` is None when nobody answered."""

    begun_us: float
    ended_us: float
    call: Any
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Model(Generic[S]):
    """What one thing may answer: the state it begins in, and what follows.

    `after` gives the state that follows, None where the operation cannot have had this answer (or, unanswered, no effect) in this state;
    `changes` is False for operations that change no state whatsoever, as reads and what was refused.
    """

    first: S
    after: Callable[[S, Op], S | None]
    changes: Callable[[Op], bool]


def stuck(history: Iterable[Op], model: Model[Any]) -> Sequence[Op]:
    """Nothing when there is an order; else the operations of which none can come next where the longest order ends."""
    ops = sorted(history, key=lambda op: op.begun_us)
    start = _Place(0, 0, -NEVER, model.first)
    seen = {start.key}
    paths = [iter(_next(ops, start, model))]
    longest, end = 0, start
    while paths:
        place = next(paths[-1], None)
        if place is None:
            paths.pop()
            continue
        if place.key in seen:
            continue
        seen.add(place.key)
        if len(paths) > longest:
            longest, end = len(paths), place
        if not any(op.answer is not None for op in _left(ops, place)):
            return []
        paths.append(iter(_next(ops, place, model)))
    return [ops[at] for at in _candidates(ops, end)]


@dataclass(frozen=True, slots=True)
class _Place:
    """How far an order has come: all before `low` are done or too late, above it those whose bit is set in `done`."""

    low: int
    done: int
    reached_us: float
    """The latest begin of all that are done: what ended before it and nobody answered can no longer take effect."""
    state: Hashable

    @property
    def key(self) -> tuple[int, int, Hashable]:
        return self.low, self.done, self.state


def _next(ops: Sequence[Op], place: _Place, model: Model[Any]) -> list[_Place]:
    """Where an order may go on.

    What never changes anything, is right here and makes nothing too late may as well come here: then there is no other way to try.
    """
    found = []
    candidates = _candidates(ops, place)
    soonest = min((ops[at].ended_us for at in candidates if ops[at].answer is None), default=NEVER)
    for at in candidates:
        op = ops[at]
        state = model.after(place.state, op)
        if state is None:
            continue
        if state == place.state and op.answer is None:
            continue
        step = _advanced(ops, place, at, state)
        if not model.changes(op) and op.begun_us <= soonest:
            return [step]
        found.append(step)
    return found


def _candidates(ops: Sequence[Op], place: _Place) -> list[int]:
    """What no other operation that is still to come precedes; those that end first first, and last those that nobody answered."""
    found, limit = [], NEVER
    for at in range(place.low, len(ops)):
        op = ops[at]
        if op.begun_us > limit:
            break
        if place.done >> (at - place.low) & 1 or _is_late(op, place.reached_us):
            continue
        found.append(at)
        if op.answer is not None:
            limit = min(limit, op.ended_us)
    return sorted(found, key=lambda at: (ops[at].answer is None, ops[at].ended_us))


def _advanced(ops: Sequence[Op], place: _Place, at: int, state: Hashable) -> _Place:
    low, done = place.low, place.done | 1 << (at - place.low)
    reached = max(place.reached_us, ops[at].begun_us)
    while low < len(ops) and (done & 1 or _is_late(ops[low], reached)):
        low, done = low + 1, done >> 1
    return _Place(low, done, reached, state)


def _is_late(op: Op, reached_us: float) -> bool:
    return op.answer is None and op.ended_us < reached_us


def _left(ops: Sequence[Op], place: _Place) -> Iterable[Op]:
    return (ops[at] for at in range(place.low, len(ops)) if not place.done >> (at - place.low) & 1)
