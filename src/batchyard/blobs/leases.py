"""Leases of blobs and containers: what each state allows, and what each action makes of it.

Source: https://learn.microsoft.com/rest/api/storageservices/lease-blob, with its table of states and actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from batchyard.blobs.errors import BlobError

INFINITE = -1
LONG_AGO_US = 0
"""When a break that takes no time was over: for everybody, also for who asked a moment before and comes to its turn only now."""
_SECOND_US = 1_000_000
_SHORTEST_S, _LONGEST_S = 15, 60


class LeaseState(StrEnum):
    """States, by the names that clients read."""

    AVAILABLE = "available"
    LEASED = "leased"
    EXPIRED = "expired"
    BREAKING = "breaking"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease; `seconds` may be INFINITE, then `until_us` is None. `breaks_us` is when a break is over."""

    id: str
    seconds: int
    until_us: int | None = None
    breaks_us: int | None = None


def state(lease: Lease | None, now_us: int) -> LeaseState:
    """What a lease is at that moment."""
    if lease is None:
        return LeaseState.AVAILABLE
    if lease.breaks_us is not None:
        return LeaseState.BREAKING if now_us < lease.breaks_us else LeaseState.BROKEN
    return LeaseState.EXPIRED if lease.until_us is not None and now_us >= lease.until_us else LeaseState.LEASED


def is_locked(lease: Lease | None, now_us: int) -> bool:
    """Whether only the holder of the lease may write."""
    return state(lease, now_us) in (LeaseState.LEASED, LeaseState.BREAKING)


def headers(lease: Lease | None, now_us: int) -> dict[str, str]:
    """Headers that tell of a lease."""
    now = state(lease, now_us)
    said = {"x-ms-lease-status": "locked" if is_locked(lease, now_us) else "unlocked", "x-ms-lease-state": now.value}
    if lease is not None and now is LeaseState.LEASED:
        said["x-ms-lease-duration"] = "infinite" if lease.seconds == INFINITE else "fixed"
    return said


def kept(lease: Lease | None, now_us: int) -> Lease | None:
    """What a write leaves of a lease: one that has run out is over with the first write of somebody else."""
    return lease if is_locked(lease, now_us) else None


def checked_duration(seconds: int) -> int:
    """A duration that may be asked for; raises InvalidHeaderValue."""
    if seconds != INFINITE and not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise BlobError("InvalidHeaderValue", "x-ms-lease-duration is -1 or 15 to 60 seconds.")
    return seconds


def acquire(lease: Lease | None, proposed: str, seconds: int, now_us: int) -> Lease:
    """A new lease, or the same one for longer; raises LeaseAlreadyPresent."""
    now = state(lease, now_us)
    if lease is not None and now is LeaseState.BREAKING and lease.id == proposed:
        raise BlobError("LeaseIsBreakingAndCannotBeAcquired")
    if lease is not None and now in (LeaseState.LEASED, LeaseState.BREAKING) and lease.id != proposed:
        raise BlobError("LeaseAlreadyPresent")
    return _running(proposed, seconds, now_us)


def renew(lease: Lease | None, given: str, now_us: int) -> Lease:
    """The same lease from now on; raises when it is another's or was broken."""
    held = _held(lease, given)
    if held.breaks_us is not None:
        raise BlobError("LeaseIsBrokenAndCannotBeRenewed")
    return _running(held.id, held.seconds, now_us)


def change(lease: Lease | None, given: str, proposed: str, now_us: int) -> Lease:
    """The same lease under another id; one that has that id already is left alone."""
    now = state(lease, now_us)
    if lease is None or now in (LeaseState.EXPIRED, LeaseState.BROKEN):
        raise BlobError("LeaseNotPresentWithLeaseOperation")
    if now is LeaseState.BREAKING:
        raise BlobError("LeaseIsBreakingAndCannotBeChanged")
    if lease.id not in (given, proposed):
        raise BlobError("LeaseIdMismatchWithLeaseOperation")
    return replace(lease, id=proposed)


def release(lease: Lease | None, given: str) -> None:
    """Raise unless the lease is the caller's, whatever state it is in."""
    _held(lease, given)


def broken(lease: Lease | None, period_s: int | None, now_us: int) -> tuple[Lease, int]:
    """The lease on its way to its end, and the seconds until then; a break that is under way is only made shorter."""
    now = state(lease, now_us)
    if lease is None:
        raise BlobError("LeaseNotPresentWithLeaseOperation")
    if now in (LeaseState.EXPIRED, LeaseState.BROKEN):
        return replace(lease, breaks_us=LONG_AGO_US), 0
    rest = _rest_s(lease, now_us)
    seconds = min(period for period in (period_s, rest if rest is not None else period_s or 0) if period is not None)
    return replace(lease, breaks_us=now_us + seconds * _SECOND_US if seconds else LONG_AGO_US), seconds


def check_write(lease: Lease | None, given: str | None, now_us: int, what: str) -> None:
    """Raise unless a write may happen; `what` is Blob or Container."""
    if given is None:
        if is_locked(lease, now_us):
            raise BlobError("LeaseIdMissing")
        return
    check_named(lease, given, now_us, what)


def check_named(lease: Lease | None, given: str | None, now_us: int, what: str) -> None:
    """Raise unless the lease that a request names, if it does, is there."""
    if given is None:
        return
    if lease is None:
        raise BlobError(f"LeaseNotPresentWith{what}Operation")
    if lease.id != given:
        raise BlobError(f"LeaseIdMismatchWith{what}Operation")
    if not is_locked(lease, now_us):
        raise BlobError("LeaseLost")


def _running(lease_id: str, seconds: int, now_us: int) -> Lease:
    return Lease(lease_id, seconds, None if seconds == INFINITE else now_us + seconds * _SECOND_US)


def _held(lease: Lease | None, given: str) -> Lease:
    if lease is None:
        raise BlobError("LeaseNotPresentWithLeaseOperation")
    if lease.id != given:
        raise BlobError("LeaseIdMismatchWithLeaseOperation")
    return lease


def _rest_s(lease: Lease, now_us: int) -> int | None:
    """Whole seconds that are left, None for ever."""
    ends = [end for end in (lease.until_us, lease.breaks_us) if end is not None]
    return -(-(min(ends) - now_us) // _SECOND_US) if ends else None
