"""What may happen to one message of a queue: it is there once, hidden from all for as long as its last claim said, and gone once removed.

A get is an operation on every message: those that it gave it claimed, and if it gave fewer than it was asked for, no other one could be
seen. When a message can be seen is known within the limits of when the claim was begun and ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.histories.checker import Model, Op

OK = "ok"


@dataclass(frozen=True, slots=True)
class Message:
    """A message: who may change it, how often it was claimed, when it is seen again at the soonest and at the latest.

    An unknown receipt is empty: nobody was told it.
    """

    receipt: str
    claims: int
    soonest_us: float
    latest_us: float


NOTHING, GONE = "nothing", "gone"
State = Message | str


@dataclass(frozen=True, slots=True)
class Put:
    """A message is added."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A get that gave the message, or one that nobody answered; `receipt` and `claims` are what was told."""

    hidden_us: int
    receipt: str = ""
    claims: int = 0


@dataclass(frozen=True, slots=True)
class Miss:
    """A get that found too few messages, and not this one."""


@dataclass(frozen=True, slots=True)
class Update:
    """The claim is prolonged; `new` is the receipt that was told."""

    hidden_us: int
    receipt: str
    new: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """The message is taken away for good."""

    receipt: str


def after(state: State, op: Op) -> State | None:
    """See `checker.Model`. Answers are `ok` or the code of the error."""
    match op.call:
        case Put():
            return Message("", 0, op.begun_us, op.ended_us) if state == NOTHING else None
        case Miss():
            return state if isinstance(state, str) or state.latest_us > op.begun_us else None
        case Claim() as claim:
            return _claimed(state, op, claim)
        case Update() as update if op.answer in (None, OK):
            return _hidden(op, update.new, state.claims, update.hidden_us) if _is_held(state, update.receipt) else None
        case Remove() as remove if op.answer in (None, OK):
            return GONE if _is_held(state, remove.receipt) else None
    return state if op.answer == _refusal(state, op.call.receipt) else None


MODEL = Model(NOTHING, after, lambda op: not isinstance(op.call, Miss) and op.answer in (None, OK))


def _claimed(state: State, op: Op, claim: Claim) -> State | None:
    if isinstance(state, str) or op.ended_us < state.soonest_us:
        return None
    if op.answer is not None and claim.claims != state.claims + 1:
        return None
    return _hidden(op, claim.receipt, state.claims + 1, claim.hidden_us)


def _hidden(op: Op, receipt: str, claims: int, hidden_us: int) -> Message:
    return Message(receipt, claims, op.begun_us + hidden_us, op.ended_us + hidden_us)


def _is_held(state: State, receipt: str) -> bool:
    return isinstance(state, Message) and state.receipt == receipt


def _refusal(state: State, receipt: str) -> str | None:
    if isinstance(state, str):
        return "MessageNotFound"
    return "PopReceiptMismatch" if state.receipt != receipt else None
