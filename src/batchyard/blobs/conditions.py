"""Conditional headers: decided against what the store holds, inside the transaction that acts on it.

Source: https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.blobs.errors import BlobError

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for the operation to happen; times in microseconds since 1970, tags without quotes."""

    if_match: str | None = None
    if_none_match: str | None = None
    modified_since_us: int | None = None
    unmodified_since_us: int | None = None
    may_overwrite: bool = True  # False: the caller's SAS lets it create blobs only


ALWAYS = Conditions()


def check_read(wanted: Conditions, etag: str, modified_us: int) -> None:
    """Raise NotModified (304) or ConditionNotMet (412) for a resource that is there."""
    _check_match(wanted, etag, modified_us)
    if _is_unchanged(wanted, etag, modified_us):
        raise BlobError("NotModified")


def check_write(wanted: Conditions, current: tuple[str, int] | None) -> None:
    """Raise when the change must not happen; `current` is (etag, modified_us), None when there is nothing yet."""
    if current is None:
        if wanted.if_match is not None:
            raise BlobError("ConditionNotMet")
        return
    if not wanted.may_overwrite:
        raise BlobError("UnauthorizedBlobOverwrite")
    # The service answers the "create only" condition with its own code, which SDKs turn into ResourceExistsError.
    if wanted.if_none_match == "*":
        raise BlobError("BlobAlreadyExists")
    _check_match(wanted, *current)
    if _is_unchanged(wanted, *current):
        raise BlobError("ConditionNotMet")


def _check_match(wanted: Conditions, etag: str, modified_us: int) -> None:
    if wanted.if_match not in (None, "*", etag):
        raise BlobError("ConditionNotMet")
    if wanted.unmodified_since_us is not None and _seconds(modified_us) > _seconds(wanted.unmodified_since_us):
        raise BlobError("ConditionNotMet")


def _is_unchanged(wanted: Conditions, etag: str, modified_us: int) -> bool:
    """Whether the "only if it changed" conditions say no; a tag wins over a time, as in RFC 9110 13.1.3."""
    if wanted.if_none_match is not None:
        return wanted.if_none_match in ("*", etag)
    return wanted.modified_since_us is not None and _seconds(modified_us) <= _seconds(wanted.modified_since_us)


def _seconds(us: int) -> int:
    return us // _SECOND_US
