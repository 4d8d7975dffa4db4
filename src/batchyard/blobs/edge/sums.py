"""CRC64 of content as the storage service has it (CRC-64/NVME, the eight bytes little-endian and in base64).

Source: https://learn.microsoft.com/rest/api/storageservices/put-block, `x-ms-content-crc64`. The sum is made by the library that the
service's own client makes it with.
"""

from __future__ import annotations

import base64
import binascii

from azure.storage.extensions import checksums

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge.request import Request

CONTENT, SOURCE = "x-ms-content-crc64", "x-ms-source-content-crc64"
_BYTES = 8


class Crc64:
    """A sum that grows with the content."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        self._value = checksums.crc64.compute(chunk, self._value)

    def digest(self) -> bytes:
        """The sum of what was added so far."""
        return self._value.to_bytes(_BYTES, "little")

    def text(self) -> str:
        """The sum as headers say it."""
        return base64.b64encode(self.digest()).decode()


def of(content: bytes) -> Crc64:
    """The sum of some bytes."""
    found = Crc64()
    found.update(content)
    return found


def wanted(request: Request, name: str = CONTENT, beside: str = "content-md5") -> bytes | None:
    """The sum that a request says, None when it says none. Raises InvalidCrc64, or InvalidHeaderValue when there is an MD5 too."""
    text = request.headers.get(name)
    if text is None:
        return None
    if beside in request.headers:
        raise BlobError("InvalidHeaderValue", f"{name} and {beside} exclude each other.")
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BlobError("InvalidCrc64") from None
    if len(value) != _BYTES:
        raise BlobError("InvalidCrc64")
    return value


def check(said: bytes | None, actual: Crc64) -> None:
    """Raise Crc64Mismatch unless nothing or the actual sum is said."""
    if said is not None and said != actual.digest():
        raise BlobError("Crc64Mismatch")
