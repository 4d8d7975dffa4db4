"""What one blob may answer, as a state and what follows it: written anew from the service's pages, and not from the code under test.

A version is told by the name that its writer gave it. Leases are endless ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.histories.checker import Model, Op

OK = "ok"
ANY = "*"


@dataclass(frozen=True, slots=True)
class State:
    """A blob: no version is no blob, no lease is none."""

    version: str = ""
    lease: str = ""
    broken: bool = False

    @property
    def locked(self) -> bool:
        return bool(self.lease) and not self.broken


NOTHING = State()


@dataclass(frozen=True, slots=True)
class Read:
    """A get: told one of these versions, or none of them but that there is no blob. Also what a copy does to its source."""

    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Write:
    """A put, or what a copy does to its target; `match` is the version that must be there, `new` that none may be."""

    version: str
    lease: str = ""
    match: str = ""
    new: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """A deletion."""

    lease: str = ""
    match: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """acquire, release or break."""

    action: str
    id: str


def after(state: State, op: Op) -> State | None:
    """See `checker.Model`. Answers are `ok` or the code of the error."""
    call = op.call
    if isinstance(call, Read):
        return state if state.version in call.versions else None
    refusal = _lease_refused(state, call) if isinstance(call, Lease) else _refused(state, call)
    if op.answer not in (None, OK):
        return state if refusal == op.answer else None
    return None if refusal is not None else _changed(state, call)


MODEL = Model(NOTHING, after, lambda op: not isinstance(op.call, Read) and op.answer in (None, OK))


def _changed(state: State, call: Write | Delete | Lease) -> State:
    match call:
        case Write():
            return State(call.version, state.lease) if state.locked else State(call.version)
        case Delete():
            return NOTHING
        case Lease("acquire"):
            return replace(state, lease=call.id, broken=False)
        case Lease("release"):
            return replace(state, lease="", broken=False)
    return replace(state, broken=True)


def _refused(state: State, call: Write | Delete) -> str | None:
    if not state.version:
        if isinstance(call, Delete):
            return "BlobNotFound"
        if call.match:
            return "ConditionNotMet"
        return "LeaseNotPresentWithBlobOperation" if call.lease else None
    if call.lease:
        if not state.lease:
            return "LeaseNotPresentWithBlobOperation"
        if state.lease != call.lease:
            return "LeaseIdMismatchWithBlobOperation"
        if state.broken:
            return "LeaseLost"
    elif state.locked:
        return "LeaseIdMissing"
    if isinstance(call, Write) and call.new:
        return "BlobAlreadyExists"
    return "ConditionNotMet" if call.match not in ("", ANY, state.version) else None


def _lease_refused(state: State, call: Lease) -> str | None:
    if not state.version:
        return "BlobNotFound"
    if call.action == "acquire":
        return "LeaseAlreadyPresent" if state.locked and state.lease != call.id else None
    if not state.lease:
        return "LeaseNotPresentWithLeaseOperation"
    return "LeaseIdMismatchWithLeaseOperation" if call.action == "release" and state.lease != call.id else None
