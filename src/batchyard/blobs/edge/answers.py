"""What every answer of the storage endpoints has in common: errors, and headers."""

from __future__ import annotations

import errno
import logging
import uuid

from starlette.responses import Response
from starlette.types import Message, Scope, Send

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge import documents
from batchyard.blobs.edge.request import NEWEST_VERSION
from batchyard.blobs.errors import Unavailable

log = logging.getLogger(__name__)

DEFAULT_VERSION = "2021-12-02"
_RETRY_AFTER_S = "5"
"""A disk is not emptied in a moment."""
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def as_answer(error: Exception) -> BlobError:
    """What an error is to the client; what is no answer of ours is logged."""
    if isinstance(error, BlobError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        log.error("no space left for blobs: %s", error)
        return busy("The storage endpoint has no disk space left.")
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        log.error("no file descriptors left for blobs: %s", error)
        return busy("The storage endpoint has too many files open.")
    if isinstance(error, Unavailable):
        log.error("the catalogue cannot be used now: %s", error)
        return busy("The storage endpoint cannot read or write its catalogue for now.")
    log.error("storage request failed", exc_info=error)
    return BlobError("InternalError")


def busy(reason: str) -> BlobError:
    """The answer of an endpoint that takes nothing for the moment."""
    return BlobError("ServerBusy", reason, headers={"retry-after": _RETRY_AFTER_S})


def error_response(error: BlobError, method: str) -> Response:
    """An error as clients of the storage services read it."""
    headers = {"x-ms-error-code": "ConditionNotMet" if error.code == "NotModified" else error.code, **error.headers}
    if method == "HEAD" or error.status == 304:
        return Response(status_code=error.status, headers=headers)
    return Response(documents.error(error.code, error.message), error.status, headers, media_type="application/xml")


def with_common_headers(scope: Scope, send: Send) -> Send:
    """What every answer carries: ids, version, and the client's own id when it can be echoed."""
    asked = {name: value for name, value in scope["headers"] if name in (b"x-ms-version", b"x-ms-client-request-id")}
    version = asked.get(b"x-ms-version", b"")
    common = [
        (b"x-ms-request-id", str(uuid.uuid4()).encode()),
        (b"x-ms-version", min(version, NEWEST_VERSION.encode()) if len(version) == 10 else DEFAULT_VERSION.encode()),
    ]
    client_id = asked.get(b"x-ms-client-request-id", b"")
    if 0 < len(client_id) <= 1024 and all(0x21 <= byte <= 0x7E for byte in client_id):
        common.append((b"x-ms-client-request-id", client_id))

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *common]
        await send(message)

    return wrapped
