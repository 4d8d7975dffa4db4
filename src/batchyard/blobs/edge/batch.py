"""Blob Batch: many deletions or changes of tier in one request, each with its own signature and its own answer.

Source: https://learn.microsoft.com/rest/api/storageservices/blob-batch.
"""

from __future__ import annotations

import email.policy
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser

from starlette.responses import Response
from starlette.types import Scope

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge import transfers
from batchyard.blobs.edge.request import Request, query_of

_MOST_BYTES = 4 * 1024 * 1024
_MOST_PARTS = 256
_LINE = re.compile(rb"(DELETE|PUT) (/[!-~]*) HTTP/1\.1")
_BOUNDARY = re.compile(r';\s*boundary="?([^";]+)', re.IGNORECASE)
"""Clients do not quote one that ought to be: object_store's is random base64, with slashes in it."""
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")

Answer = Callable[[Scope], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Part:
    content_id: str
    scope: Scope


async def run(request: Request, scope: Scope, answer: Answer) -> Response:
    """Answer each part on its own; raises InvalidInput when the body cannot be read, and nothing was done then."""
    parts = _parts(request, scope, await transfers.body(request, _MOST_BYTES))
    boundary = f"batchresponse_{uuid.uuid4()}"
    said = []
    for part in parts:
        response = await answer(part.scope)
        said.append(_said(part.content_id, response))
    head = f"--{boundary}\r\n".encode()
    body = b"".join(head + one for one in said) + f"--{boundary}--\r\n".encode()
    return Response(body, 202, {"content-type": f"multipart/mixed; boundary={boundary}"})


def _said(content_id: str, response: Response) -> bytes:
    """An answer as a part: what a client reads of it are its status line, its headers and its body."""
    lines = [b"Content-Type: application/http"]
    if content_id:
        lines.append(f"Content-ID: {content_id}".encode())
    lines += [b"", f"HTTP/1.1 {response.status_code} {_PHRASES.get(response.status_code, 'Answer')}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    lines.append(f"x-ms-request-id: {uuid.uuid4()}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body) + b"\r\n"


_PHRASES = {200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 412: "Precondition Failed"}


def _parts(request: Request, scope: Scope, body: bytes) -> list[_Part]:
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/mixed"):
        raise BlobError("InvalidHeaderValue", "Content-Type is multipart/mixed with a boundary.")
    named = _BOUNDARY.search(kind)
    head = f'Content-Type: multipart/mixed; boundary="{named[1].strip() if named else ""}"\r\n\r\n'.encode("latin-1")
    whole = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    if not whole.is_multipart():
        raise BlobError("InvalidInput", "The body is not multipart with the boundary that Content-Type names.")
    found: list[Message] = list(whole.iter_parts())
    if not 0 < len(found) <= _MOST_PARTS:
        raise BlobError("InvalidInput", f"A batch has 1 to {_MOST_PARTS} parts.")
    return [_part(request, scope, part, number) for number, part in enumerate(found)]


def _part(request: Request, scope: Scope, part: Message, number: int) -> _Part:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        raise BlobError("InvalidInput", f"Part {number} is not application/http.")
    head, _, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, *lines = head.split(b"\n")
    line = _LINE.fullmatch(first.strip())
    if line is None:
        raise BlobError("InvalidInput", f"Part {number} is no request line of a deletion or a change of tier.")
    headers = []
    for text in filter(None, lines):
        header = _HEADER.fullmatch(text)
        if header is None:
            raise BlobError("InvalidInput", f"Part {number} has a header that cannot be read.")
        headers.append((header[1].lower(), header[2]))
    method, target = line[1].decode(), line[2]
    path, _, query = target.partition(b"?")
    _check(request, method, path.decode("latin-1"), query.decode("latin-1"), number)
    host = request.headers.get("host", "").encode("latin-1")
    headers = [*((name, value) for name, value in headers if name != b"host"), (b"host", host)]  # it may name the account
    inner = {**scope, "method": method, "raw_path": path, "path": path.decode("latin-1"), "query_string": query, "headers": headers}
    inner["extensions"] = {}
    return _Part(str(part.get("Content-ID", "")).strip(), inner)


def _check(request: Request, method: str, path: str, query: str, number: int) -> None:
    """Raise unless a part is one of the two operations, on a blob of what the batch was sent to."""
    account, container, blob = request.names_in(path)
    given = query_of(query)
    wanted = {"DELETE": "", "PUT": "tier"}[method]
    if given.get("comp", "").lower() != wanted or blob is None:
        raise BlobError("InvalidInput", f"Part {number} is no deletion of a blob and no change of its tier.")
    if account != request.account or request.container not in (None, container):
        raise BlobError("InvalidInput", f"Part {number} is not about what the batch was sent to.")
