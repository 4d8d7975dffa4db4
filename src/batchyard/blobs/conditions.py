"""Conditional headers: decided against what the store holds, inside the transaction that acts on it.

Source: https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchyard.blobs import leases
from batchyard.blobs.errors import BlobError
from batchyard.blobs.leases import Lease
from batchyard.blobs.tags import Matches

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for the operation to happen; times in microseconds since 1970, tags without quotes."""

    if_match: str | None = None
    if_none_match: str | None = None
    modified_since_us: int | None = None
    unmodified_since_us: int | None = None
    may_overwrite: bool = True  # False: the caller's SAS lets it create blobs only
    lease_id: str | None = None
    now_us: int = 0
    """When leases are looked at."""
    if_tags: Matches | None = None


ALWAYS = Conditions()


@dataclass(frozen=True, slots=True)
class Version:
    """What conditions are checked against; `what` is Blob or Container."""

    etag: str
    modified_us: int
    lease: Lease | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    what: str = "Blob"
    pending: bool = False
    """A copy from elsewhere is under way, and only that may write."""


def check_read(wanted: Conditions, current: Version) -> None:
    """Raise NotModified (304) or ConditionNotMet (412) for a resource that is there."""
    leases.check_named(current.lease, wanted.lease_id, wanted.now_us, current.what)
    _check_match(wanted, current)
    if _is_unchanged(wanted, current):
        raise BlobError("NotModified")


def check_write(wanted: Conditions, current: Version | None) -> None:
    """Raise when the change must not happen; `current` is None when there is nothing yet."""
    if current is None:
        if wanted.if_match is not None or wanted.if_tags is not None:
            raise BlobError("ConditionNotMet")
        if wanted.lease_id is not None:
            raise BlobError("LeaseNotPresentWithBlobOperation")
        return
    leases.check_write(current.lease, wanted.lease_id, wanted.now_us, current.what)
    check_change(wanted, current)
    if current.pending:
        raise BlobError("PendingCopyOperation")


def check_change(wanted: Conditions, current: Version) -> None:
    """`check_write` for what there is, without its lease: for operations that are about the lease, or need none."""
    if not wanted.may_overwrite:
        raise BlobError("UnauthorizedBlobOverwrite")
    # The service answers the "create only" condition with its own code, which SDKs turn into ResourceExistsError.
    if wanted.if_none_match == "*":
        raise BlobError("BlobAlreadyExists")
    _check_match(wanted, current)
    if _is_unchanged(wanted, current):
        raise BlobError("ConditionNotMet")


def _check_match(wanted: Conditions, current: Version) -> None:
    if wanted.if_match not in (None, "*", current.etag):
        raise BlobError("ConditionNotMet")
    if wanted.unmodified_since_us is not None and _seconds(current.modified_us) > _seconds(wanted.unmodified_since_us):
        raise BlobError("ConditionNotMet")
    if wanted.if_tags is not None and not wanted.if_tags(current.tags):
        raise BlobError("ConditionNotMet")


def _is_unchanged(wanted: Conditions, current: Version) -> bool:
    """Whether the "only if it changed" conditions say no; a tag wins over a time, as in RFC 9110 13.1.3."""
    if wanted.if_none_match is not None:
        return wanted.if_none_match in ("*", current.etag)
    return wanted.modified_since_us is not None and _seconds(current.modified_us) <= _seconds(wanted.modified_since_us)


def _seconds(us: int) -> int:
    return us // _SECOND_US
