"""Small blobs of a container that are brought in one request, which the Blob service has no call for.

`POST /{account}/{container}?restype=container&comp=batchyard-contents`, with MessagePack in both directions: a list of `Put`, and the
status of each in their order. A storage endpoint that takes it says so, in a header of its answers to single ones.
"""

from __future__ import annotations

import msgspec

COMP = "batchyard-contents"
HEADER = "batchyard-contents"
"""Header of the answer to a Put Blob: how many there may be in one request."""
MOST = 64
LARGEST = 64 << 10
"""Bytes of one blob."""
MOST_BYTES = 4 << 20
"""Of all blobs of a request."""


class Put(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A Put Blob as it would be sent alone."""

    target: str
    """Path and query of its URL, signed for itself."""
    headers: dict[str, str]
    """Without host and length."""
    content: bytes
