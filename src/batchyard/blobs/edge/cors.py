"""Pages of other origins: the preflight, which a browser sends without a signature, and what the answers to a page say.

Source: https://learn.microsoft.com/rest/api/storageservices/cross-origin-resource-sharing--cors--support-for-the-azure-storage-services.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Message, Scope, Send

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge.request import Request
from batchyard.blobs.services import CorsRule, Properties, answer_headers, rule_for

log = logging.getLogger(__name__)

Look = Callable[[str], Properties]
"""What is set for the service of an account."""


async def preflight(look: Look, request: Request) -> Response:
    """Answer to OPTIONS; raises InvalidHeaderValue, and CorsPreflightFailure where no rule lets the page ask."""
    headers = request.headers
    origin, method = headers.get("origin", ""), headers.get("access-control-request-method", "").upper()
    if not origin or not method:
        raise BlobError("InvalidHeaderValue", "Origin and Access-Control-Request-Method are missing.")
    asked = headers.get("access-control-request-headers", "")
    if request.account not in request.accounts:
        raise BlobError("CorsPreflightFailure")
    found = await run_in_threadpool(look, request.account)
    rule = rule_for(found.cors, origin, method, asked.split(","))
    if rule is None:
        raise BlobError("CorsPreflightFailure")
    said = {**answer_headers(rule, origin), "access-control-allow-methods": method, "access-control-max-age": str(rule.max_age_s)}
    if asked:
        said["access-control-allow-headers"] = asked
    return Response(headers=said)


async def for_pages(look: Look, account: str, scope: Scope, send: Send) -> Send:
    """`send` with what tells a browser that the page may read the answer; as it is for callers that are no pages."""
    origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), "")
    if not origin or scope["method"] == "OPTIONS":
        return send
    try:
        found = await run_in_threadpool(look, account)
    except Exception as error:  # the operation itself is answered all the same
        log.error("the CORS rules cannot be read: %s", error)
        return send
    rule = rule_for(found.cors, origin, scope["method"])
    if rule is None:
        return _adding(send, {"vary": "Origin"}) if found.cors else send
    return _adding(send, answer_headers(rule, origin), rule)


def _adding(send: Send, said: Mapping[str, str], rule: CorsRule | None = None) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode("latin-1")) for name, value in said.items()]
            if rule is not None and (exposed := _exposed(rule, [name.decode("latin-1") for name, _ in message["headers"]])):
                more.append((b"access-control-expose-headers", exposed.encode("latin-1")))
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return wrapped


def _exposed(rule: CorsRule, there: list[str]) -> str:
    """The headers of an answer that a page may read: those that the rule names, also by how they begin."""
    names = [*there, "x-ms-request-id", "x-ms-version"]
    found = [
        name
        for name in dict.fromkeys(names)
        if any(name.lower().startswith(one[:-1].lower()) if one.endswith("*") else name.lower() == one.lower() for one in rule.exposed)
    ]
    return ",".join(found)
