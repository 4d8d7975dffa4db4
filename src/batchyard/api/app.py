"""What every request to an account goes through, in order: identity of the request, signature, version, operation, body, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchyard.api import operations
from batchyard.api.agents.sync import Agents
from batchyard.api.wire import auth, deviations, wire
from batchyard.api.wire.accounts import OPERATOR, PEER, PREFIXED, SERVICE
from batchyard.api.wire.auth import Signed
from batchyard.api.wire.call import LARGEST_BODY, Call, Services, read_query
from batchyard.blobs.edge.request import QUEUE, addressed
from batchyard.engine.nodes.nodes import job_of_token
from batchyard.model.errors import BatchError, invalid_query, let_go
from batchyard.store.db import StoreUnavailable

log = structlog.get_logger()

VERSIONS = frozenset(
    {
        "2018-12-01.8.0",
        "2019-06-01.9.0",
        "2019-08-01.10.0",
        "2020-03-01.11.0",
        "2020-09-01.12.0",
        "2021-06-01.14.0",
        "2022-01-01.15.0",
        "2022-10-01.16.0",
        "2023-05-01.17.0",
        "2023-11-01.18.0",
        "2024-02-01.19.0",
        "2024-07-01.20.0",
        "2025-06-01",
    }
)
"""API versions that are served, each in the form of its time (`deviations`); docs/versions.md names the clients."""

HEALTH_PATH = "/agent/health"


class _Caller(NamedTuple):
    """Who asks: an account with its key, a running task with its token, or the operator."""

    job_id: str | None = None
    """The only job that a task's token is good for."""
    task: int = 0
    operator: bool = False


class Api:
    """The ASGI application of one account: its agents, its storage accounts and the Batch operations.

    `PREFIXED` of the scope is the part of the path in front of all that names the account, which the client's signature covers.
    """

    def __init__(self, services: Services, blobs: Mapping[str, ASGIApp], queues: Mapping[str, ASGIApp]) -> None:
        """`blobs` and `queues` are those of the storage accounts, by name."""
        self._services = services
        self._agents = Agents(services)
        self._blobs, self._queues = blobs, queues
        self._closing = False

    def close(self) -> None:
        """Let go of whoever waits, agents and clients of files, so that the server can end."""
        self._closing = True
        self._agents.close()
        self._services.relay.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a request to whom its first path segment names; one that the server's end cuts off is told to come again."""
        if scope["type"] != "http":
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._dispatch(scope, receive, watched)
        except asyncio.CancelledError:
            if begun or not self._closing:
                raise
            await self._busy(scope)(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = _first(scope)
        if (storage := self._storage(scope)) is not None:
            scope[SERVICE] = "storage"
            await storage(scope, receive, send)
        elif first == "agent":
            scope[SERVICE] = "agent"
            healthy = scope["path"].removeprefix(scope.get(PREFIXED, "")) == HEALTH_PATH
            response = PlainTextResponse("ok") if healthy else await self._agents(Request(scope, receive))
            await response(scope, receive, send)
        elif PEER in scope:
            response = await self._agents.peer(Request(scope, receive))
            await response(scope, receive, send)
        else:
            scope[SERVICE] = "own" if first == "batchyard" else "batch"
            response = await self._answer(Request(scope, receive), scope)
            await response(scope, receive, send)

    def _storage(self, scope: Scope) -> ASGIApp | None:
        """The service of the storage account that a request is for; None for other requests."""
        address = None if PREFIXED in scope else addressed(scope, self._blobs)
        if address is None:
            return None
        return (self._queues if address.service == QUEUE else self._blobs)[address.account]

    def _busy(self, scope: Scope) -> Response:
        """503 in the words of the service that was asked."""
        if self._storage(scope) is not None or _first(scope) == "agent":
            return Response(status_code=503, headers={"x-ms-error-code": "ServerBusy", "retry-after": wire.RETRY_AFTER_S["ServerBusy"]})
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        identifier, base = wire.request_id(), _base(scope, headers)
        response = wire.error(BatchError("ServerBusy"), identifier, base, self._services.clock.now(), body=scope["method"] != "HEAD")
        wire.common_headers(response, identifier, headers)
        return response

    async def _answer(self, request: Request, scope: Scope) -> Response:
        identifier = wire.request_id()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        base = _base(scope, headers)
        now = self._services.clock.now()
        try:
            response = await self._operate(request, scope, headers, base, identifier, now)
        except BatchError as error:
            response = wire.error(error, identifier, base, now, body=scope["method"] != "HEAD")
            let_go(error)
        except StoreUnavailable as error:
            response = wire.error(BatchError("ServerBusy"), identifier, base, now)
            let_go(error)
        except ClientDisconnect:
            response = Response(status_code=400)
        except Exception as error:
            if self._closing and isinstance(error, ConnectionError):
                return self._busy(scope)  # a node's answer that the server's end cut off
            log.exception("request failed", method=scope["method"], path=scope["path"], request_id=identifier)
            response = wire.error(BatchError("InternalError"), identifier, base, now)
            let_go(error)
        wire.common_headers(response, identifier, headers)
        return response

    async def _caller(self, signed: Signed, now: int) -> _Caller:
        """Who asks. Raises InvalidAuthenticationInfo, AuthenticationFailed."""
        authorization = signed.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            operator = self._services.operator if auth.signer(authorization) == OPERATOR else None
            auth.verify(operator or self._services.account, signed, now)
            return _Caller(operator=operator is not None)
        caller = await self._services.db.read(job_of_token, self._services.node_key, token.strip())
        if caller is None:
            raise BatchError("InvalidAuthenticationInfo", AuthenticationErrorDetail="The token is not that of a running task.")
        return _Caller(*caller)

    async def _operate(self, request: Request, scope: Scope, headers: Mapping[str, str], base: str, identifier: str, now: int) -> Response:
        raw_path = scope["raw_path"].decode("latin-1").partition("?")[0]
        raw_query = scope["query_string"].decode("latin-1")
        signed = Signed(scope["method"], raw_path, raw_query, headers)
        caller = await self._caller(signed, now)
        query = read_query(raw_query)
        version = _known_version(query.get("api-version"))
        path = raw_path.removeprefix(scope.get(PREFIXED, ""))
        op, ids = operations.match(scope["method"], path, version)
        if caller.job_id is not None and ids.get("job_id", "").lower() != caller.job_id.lower():
            raise BatchError("InsufficientAccountPermissions")
        if caller.operator and not op.operator:
            raise BatchError("InsufficientAccountPermissions")
        operations.check_query(op, query)
        if op.adds and (reason := self._services.room()) is not None:
            raise BatchError("ServerBusy", Reason=reason)
        body = b"" if op.streams else await _read(request, headers)
        content = request.stream() if op.streams else None
        call = Call(self._services, signed, base, ids, query, body, now, identifier, caller.task, caller.operator, path, content)
        return await _in_version(version, op, call)


def _base(scope: Scope, headers: Mapping[str, str]) -> str:
    """The URL that the client knows the account by."""
    return f"{scope['scheme']}://{headers.get('host', 'localhost')}{scope.get(PREFIXED, '')}"


async def _in_version(version: str, op: operations.Op, call: Call) -> Response:
    """The answer to a call, both in the form of an API version."""
    try:
        call.body = deviations.request(op.path, call.body)
        if "$select" in call.query:
            call.query = {**call.query, "$select": deviations.selection(version, op.path, call.query["$select"])}
        response = await op.handler(call)
    except BatchError as error:
        deviations.refusal(version, op.path, error)
        raise
    deviations.answer(version, op.path, response)
    return response


def _first(scope: Scope) -> str:
    """The first segment of the path."""
    path: str = scope["path"].removeprefix(scope.get(PREFIXED, ""))
    return path.partition("/")[2].partition("/")[0]


def _known_version(version: str | None) -> str:
    if version is None:
        raise BatchError("MissingRequiredQueryParameter", QueryParameterName="api-version")
    if not version[:4].isdigit():
        raise invalid_query("api-version", version[:64], "The api version is malformed")
    if version not in VERSIONS:
        raise BatchError("UnsupportedRequestVersion", QueryParameterName="api-version", QueryParameterValue=version[:64])
    return version


async def _read(request: Request, headers: Mapping[str, str]) -> bytes:
    """The body, at most LARGEST_BODY bytes. Raises MissingContentLengthHeader, RequestBodyTooLarge."""
    if request.method in ("GET", "HEAD"):
        return b""
    length = headers.get("content-length")
    if length is None and request.method in ("POST", "PUT", "PATCH"):
        raise BatchError("MissingContentLengthHeader")
    if length is not None and (not length.isdigit() or int(length) > LARGEST_BODY):
        raise BatchError("RequestBodyTooLarge", MaxLimit=LARGEST_BODY)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise BatchError("RequestBodyTooLarge", MaxLimit=LARGEST_BODY)
        chunks.append(chunk)
    return b"".join(chunks)
