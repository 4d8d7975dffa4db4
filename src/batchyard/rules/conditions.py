"""Conditional requests: does the version that the client knows allow the call (contract 1.2, RFC 9110)?"""

from __future__ import annotations

import msgspec

from batchyard.model import times
from batchyard.model.errors import BatchError


class Conditions(msgspec.Struct, frozen=True):
    """The conditional headers of a request; times are whole seconds in microseconds since 1970."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None

    def check(self, modified: int, *, reading: bool = False) -> None:
        """Raise ConditionNotMet (412), or NotModified (304) for a reading call, when the resource is not as required."""
        tag, second = times.etag(modified), modified // 1_000_000 * 1_000_000
        if self.if_match is not None and not _names(self.if_match, tag):
            raise BatchError("ConditionNotMet")
        if self.if_unmodified_since is not None and second > self.if_unmodified_since:
            raise BatchError("ConditionNotMet")
        unchanged = "NotModified" if reading else "ConditionNotMet"
        if self.if_none_match is not None:
            if _names(self.if_none_match, tag):
                raise BatchError(unchanged if self.if_none_match.strip() != "*" else "ConditionNotMet")
        elif self.if_modified_since is not None and second <= self.if_modified_since:
            raise BatchError(unchanged)


NONE = Conditions()


def _names(header: str, tag: str) -> bool:
    """True when the header lists the tag, whatever its quotes (15.x quotes, 14.x does not), or is `*`."""
    wanted = {part.strip().removeprefix("W/").strip('"').lower() for part in header.split(",")}
    return "*" in wanted or tag.lower() in wanted
