"""How answers look on the wire: headers, envelopes, the error body (contract 1.3, 1.4, 8.1)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import msgspec
from starlette.responses import Response

from batchyard.model import times
from batchyard.model.common import BatchErrorBody, ErrorDetail, ErrorMessage
from batchyard.model.errors import BatchError

JSON = "application/json;odata=minimalmetadata"
RETRY_AFTER_S = {"ServerBusy": "1", "TooManyEnableAutoScaleRequests": "30"}
"""Errors that pass by themselves, and when to try again."""


def request_id() -> str:
    """A new GUID."""
    return str(uuid.uuid4())


def encode(value: object) -> bytes:
    """JSON of a shape."""
    return msgspec.json.encode(value)


def splice(*objects: bytes) -> bytes:
    """One JSON object with the members of all."""
    return b"{" + b",".join(part[1:-1] for part in objects if len(part) > 2) + b"}"


def element(base: str, kind: str, *objects: bytes) -> Response:
    """200 with a single object."""
    metadata = encode({"odata.metadata": f"{base}/$metadata#{kind}/@Element"})
    return Response(splice(metadata, *objects), media_type=JSON)


def entity(base: str, kind: str, *objects: bytes) -> Response:
    """200 with an object of a type of its own, which is no element of a set."""
    metadata = encode({"odata.metadata": f"{base}/$metadata#Microsoft.Azure.Batch.Protocol.Entities.{kind}"})
    return Response(splice(metadata, *objects), media_type=JSON)


def listing(base: str, kind: str, items: Sequence[bytes], next_link: str | None) -> Response:
    """200 with a page of objects."""
    head = encode({"odata.metadata": f"{base}/$metadata#{kind}"})[:-1] + b',"value":['
    tail = b"]}" if next_link is None else b'],"odata.nextLink":' + encode(next_link) + b"}"
    parts = [*items] or [b""]
    parts[0] = head + parts[0]
    parts[-1] += tail
    return Response(b",".join(parts), media_type=JSON)  # a megabyte is copied once


def nothing(status: int, *, modified: int | None = None, resource: str | None = None, location: bool = False) -> Response:
    """An answer without body, with the version of the resource and its URL."""
    response = Response(status_code=status)
    tag(response, modified, resource)
    if location and resource is not None:
        response.headers["Location"] = resource
    return response


def tag(response: Response, modified: int | None, resource: str | None = None) -> Response:
    """Name the version and the URL of what was asked for."""
    if modified is not None:
        response.headers["ETag"] = times.etag(modified)
        response.headers["Last-Modified"] = times.http_date(modified)
    if resource is not None:
        response.headers["DataServiceId"] = resource
    return response


def error_body(error: BatchError, identifier: str, now: int) -> BatchErrorBody:
    """The error as clients read it; the sentence ends with request id and time."""
    values = [ErrorDetail(key=key, value=value) for key, value in error.values.items()] or None
    text = f"{error.message}\nRequestId:{identifier}\nTime:{times.iso(now)}"
    return BatchErrorBody(code=error.code, message=ErrorMessage(lang="en-US", value=text), values=values)


def error(failure: BatchError, identifier: str, base: str, now: int, *, body: bool = True) -> Response:
    """The answer to a failed request; HEAD and 304 have no body."""
    if not body or failure.status == 304:
        return Response(status_code=failure.status)
    metadata = encode({"odata.metadata": f"{base}/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element"})
    response = Response(splice(metadata, encode(error_body(failure, identifier, now))), failure.status, media_type=JSON)
    if failure.code in RETRY_AFTER_S:
        response.headers["Retry-After"] = RETRY_AFTER_S[failure.code]
    return response


def common_headers(response: Response, identifier: str, request_headers: Mapping[str, str]) -> None:
    """What every answer carries."""
    headers = response.headers
    headers["request-id"] = identifier
    headers["DataServiceVersion"] = "3.0"
    headers["Server"] = "Microsoft-HTTPAPI/2.0"
    headers["X-Content-Type-Options"] = "nosniff"
    if request_headers.get("return-client-request-id", "").lower() == "true" and "client-request-id" in request_headers:
        headers["client-request-id"] = request_headers["client-request-id"]
