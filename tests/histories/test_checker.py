"""The checker finds an order where there is one and none where there is none: compared with trying all orders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.histories import blob_model, queue_model
from tests.histories.blob_model import Delete, Lease, Read, Write
from tests.histories.checker import NEVER, Model, Op, stuck
from tests.histories.queue_model import Claim, Miss, Put, Remove


def register(state: int, op: Op) -> int | None:
    """A register of one number: a call is a number to write, or "read"; what a read is told is its answer."""
    if op.call == "read":
        return state if op.answer == state else None
    return int(op.call)


REGISTER = Model(0, register, lambda op: op.call != "read")


def any_order(ops: Sequence[Op], first: int) -> bool:
    """The same by definition: some order of all that was answered, and of some of the rest."""
    answered = [op for op in ops if op.answer is not None]
    others = [op for op in ops if op.answer is None]
    chosen = [answered + list(some) for size in range(len(others) + 1) for some in combinations(others, size)]
    return any(_is_right(order, first) for some in chosen for order in permutations(some))


def _is_right(order: Sequence[Op], first: int) -> bool:
    state, reached = first, -NEVER
    for op in order:
        if op.ended_us < reached:
            return False
        found = register(state, op)
        if found is None:
            return False
        state, reached = found, max(reached, op.begun_us)
    return True


@st.composite
def operations(draw: st.DrawFn) -> Op:
    begun = draw(st.integers(0, 8))
    ended = begun + draw(st.integers(0, 5))
    if draw(st.booleans()):
        return Op(begun, ended, "read", draw(st.integers(0, 2)))
    return Op(begun, ended, draw(st.integers(1, 2)), draw(st.sampled_from(["ok", None])))


WRITE_OF_WHAT_IS_THERE = [Op(0, 9, 1, "ok"), Op(0, 9, 1, "ok"), Op(0, 9, 2, "ok"), Op(4, 5, "read", 2), Op(6, 7, "read", 1)]
READ_BEHIND_WHAT_NOBODY_ANSWERED = [Op(0, 1, 1), Op(2, 4, "read", 0), Op(3, 5, "read", 1)]


@settings(max_examples=300)
@example(WRITE_OF_WHAT_IS_THERE)
@example(READ_BEHIND_WHAT_NOBODY_ANSWERED)
@given(st.lists(operations(), max_size=6))
def test_it_says_what_trying_all_orders_says(ops: list[Op]) -> None:
    assert (not stuck(ops, REGISTER)) == any_order(ops, 0)


def read(begun: int, ended: int, version: str) -> Op:
    return Op(begun, ended, Read(frozenset([version])), "ok")


WRONG_BLOBS = {
    "an acknowledged write is lost": [Op(0, 1, Write("a"), "ok"), read(2, 3, "")],
    "an old version comes back": [Op(0, 1, Write("a"), "ok"), Op(2, 3, Write("b"), "ok"), read(4, 5, "b"), read(6, 7, "a")],
    "what nobody wrote": [Op(0, 1, Write("a"), "ok"), read(2, 3, "b")],
    "what is written comes after its server's end": [Op(0, 2, Write("a")), read(3, 4, ""), read(5, 6, "a")],
    "two exchanges of one version": [
        Op(0, 1, Write("a"), "ok"),
        Op(2, 5, Write("b", match="a"), "ok"),
        Op(2, 5, Write("c", match="a"), "ok"),
    ],
    "two have a lease": [Op(0, 1, Write("a"), "ok"), Op(2, 5, Lease("acquire", "x"), "ok"), Op(2, 5, Lease("acquire", "y"), "ok")],
    "a write with a lease that was ended": [
        Op(0, 1, Write("a"), "ok"),
        Op(2, 3, Lease("acquire", "x"), "ok"),
        Op(4, 5, Lease("break", ""), "ok"),
        Op(6, 7, Write("b", "x"), "ok"),
    ],
    "a deletion that did nothing": [Op(0, 1, Write("a"), "ok"), Op(2, 3, Delete(), "ok"), read(4, 5, "a")],
}


@pytest.mark.parametrize("history", WRONG_BLOBS.values(), ids=WRONG_BLOBS)
def test_what_no_blob_may_do_is_noticed(history: list[Op]) -> None:
    assert stuck(history, blob_model.MODEL)
    assert not stuck(history[:-1], blob_model.MODEL)


WRONG_QUEUES = {
    "given twice within its time": [Op(0, 1, Put(), "ok"), Op(2, 3, Claim(100, "r", 1), "ok"), Op(4, 5, Claim(100, "s", 2), "ok")],
    "given twice, the first to nobody": [Op(0, 1, Put(), "ok"), Op(2, 3, Claim(100)), Op(4, 5, Claim(100, "s", 2), "ok")],
    "given after its removal": [
        Op(0, 1, Put(), "ok"),
        Op(2, 3, Claim(9, "r", 1), "ok"),
        Op(4, 5, Remove("r"), "ok"),
        Op(20, 21, Claim(9, "s", 2), "ok"),
    ],
    "lost": [Op(0, 1, Put(), "ok"), Op(2, 3, Claim(9, "r", 1), "ok"), Op(20, 21, Miss(), "ok")],
    "removed by who has it no more": [
        Op(0, 1, Put(), "ok"),
        Op(2, 3, Claim(9, "r", 1), "ok"),
        Op(20, 21, Claim(9, "s", 2), "ok"),
        Op(22, 23, Remove("r"), "ok"),
    ],
    "a claim forgotten": [Op(0, 1, Put(), "ok"), Op(2, 3, Claim(9, "r", 1), "ok"), Op(20, 21, Claim(9, "s", 1), "ok")],
}


@pytest.mark.parametrize("history", WRONG_QUEUES.values(), ids=WRONG_QUEUES)
def test_what_no_queue_may_do_is_noticed(history: list[Op]) -> None:
    assert stuck(history, queue_model.MODEL)
    assert not stuck(history[:-1], queue_model.MODEL)
