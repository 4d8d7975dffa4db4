"""The door of a server with many accounts: which one a request is for, and that it is let in before a closed world is opened for it.

An account is named by `/accounts/NAME` in front of the path, by the first label of the host name, by who signs, by what a token says, or
by its storage account. The default one is asked where nothing names another; a name that says two different ones is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from batchyard.api.operations import OPERATIONS
from batchyard.api.wire import auth, wire
from batchyard.api.wire.accounts import CLUSTER, OPERATOR, PEER, PREFIX, PREFIXED, Known, Worlds
from batchyard.api.wire.auth import Signed
from batchyard.blobs.base import BlobError
from batchyard.blobs.edge import tables
from batchyard.blobs.edge.answers import error_response, with_common_headers
from batchyard.blobs.edge.request import PORT, QUEUE, TABLE, addressed
from batchyard.blobs.edge.server import turned_away
from batchyard.blobs.queues.edge import turned_away as queue_turned_away
from batchyard.engine.clock import Clock
from batchyard.engine.nodes import nodes
from batchyard.engine.nodes.nodes import NotThisNode
from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.model.joining import read
from batchyard.model.sync import gone
from batchyard.model.tokens import parted
from batchyard.store.db import StoreUnavailable

_AGENT = "agent"
_STORAGE_HOSTS = ("blob.", "dfs.", "web.", "queue.", "table.")
_GONE = ("AccountNotFound", "AccountBeingDeleted")
"""It went while the request was on its way, which is told nobody but the operator."""
_OWN = frozenset({"", _AGENT, CLUSTER, PREFIX, QUEUE, TABLE, *(op.path.split("/")[1] for op in OPERATIONS)})
"""First segments of paths that name no storage account."""
RESERVED = _OWN | {"healthz", "readyz", "metrics", "subscriptions", "providers", "certificates", "lifetimejobstats", "lifetimepoolstats"}
"""What no storage account may be called: these are, may become, or are in the cloud's service, first segments of other paths."""
_PREFIX = re.compile(rf"/{PREFIX}/([A-Za-z0-9-]{{1,63}})(?=/)", re.ASCII)
_HOST = re.compile(r"([A-Za-z0-9-]{1,63})\.[^.:]+\.(?:[^.:]+\.)*[A-Za-z][A-Za-z0-9-]*(?::\d+)?", re.ASCII)


class _Asked(NamedTuple):
    """What a request says of whom it is for."""

    prefix: str
    """`/accounts/NAME`, or nothing."""
    first: str
    """The first segment of the path behind that."""
    second: str
    authorization: str
    host: str
    port: str
    """The storage service whose own port was asked; nothing for all other requests."""

    @property
    def signer(self) -> str:
        return auth.signer(self.authorization)

    @property
    def token(self) -> str:
        scheme, _, token = self.authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


class Front:
    """The server's ASGI application."""

    def __init__(self, worlds: Worlds, clock: Clock, ports: Mapping[int, str] = MappingProxyType({})) -> None:
        """`ports` are those of single storage services."""
        self._worlds, self._clock, self._ports = worlds, clock, ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the world of its account."""
        if scope["type"] != "http":
            return
        if (service := self._ports.get(scope["server"][1])) is not None:
            scope[PORT] = service
        asked = _asked(scope)
        if asked.first == CLUSTER and not asked.prefix:
            await self._to_peer(asked)(scope, receive, send)
            return
        try:
            storing, service = await self._storing(asked)
            if service == TABLE or (service and not storing):
                refusal = error_response(BlobError("AuthenticationFailed"), scope["method"])
                answer = tables.refusal(scope["method"]) if service == TABLE else refusal
                await answer(scope, receive, with_common_headers(scope, send))
                return
            name = storing or await self._named(asked)
            if asked.prefix:
                scope[PREFIXED] = asked.prefix
            if name != self._worlds.default:
                await self._to(name, asked, scope, receive, send)
                return
        except BatchError as error:
            await _refusal(error, asked, scope, self._clock.now())(scope, receive, send)
            return
        except StoreUnavailable:
            await _refusal(BatchError("ServerBusy"), asked, scope, self._clock.now())(scope, receive, send)
            return
        world = self._worlds.opened(name)
        assert world is not None, "the default account is always open"
        await world(scope, receive, send)

    def _to_peer(self, asked: _Asked) -> ASGIApp:
        """Another server's request goes to the world that it names, if that is open here."""
        world = self._worlds.opened(asked.second)
        if not self._worlds.is_peer(asked.token):
            return Response(status_code=403)
        if world is None:
            return Response(status_code=404)
        known = world

        async def marked(scope: Scope, receive: Receive, send: Send) -> None:
            await known({**scope, PEER: True}, receive, send)

        return marked

    async def _named(self, asked: _Asked) -> str:
        """Name of the account that is asked. Raises AuthenticationFailed when it is named differently in two places."""
        joining = read(asked.token)
        if joining is not None:  # a stranger's is refused by the default account, in the words that machines know
            said = joining.account if await self._worlds.known(joining.account) else ""
        else:
            said = parted(asked.token)[0]
        addressed = asked.prefix.rpartition("/")[2] or await self._by_host(asked.host)
        if addressed:
            if said and said.lower() != addressed.lower():
                raise _unknown()
            return self._worlds.default if addressed.lower() == self._worlds.default.lower() else addressed.lower()
        if asked.signer and asked.signer != OPERATOR:
            known = asked.signer.lower() != self._worlds.default.lower() and await self._worlds.known(asked.signer)
            return known.account.name if known else self._worlds.default
        return said or self._worlds.default

    async def _storing(self, asked: _Asked) -> tuple[str | None, str]:
        """In whose world the storage account lies that the host names, as `NAME.blob.DOMAIN`, or the path; the service if that is named."""
        if asked.prefix:
            return None, ""
        name, _, domain = asked.host.partition(".")
        if domain.lower().startswith(_STORAGE_HOSTS) and (storing := await self._worlds.storing(name)):
            return storing, domain.partition(".")[0].lower()
        if asked.port:
            return await self._worlds.storing(asked.first), asked.port
        if asked.first in (QUEUE, TABLE):
            return await self._worlds.storing(asked.second), asked.first
        return (None if asked.first in _OWN else await self._worlds.storing(asked.first)), ""

    async def _by_host(self, host: str) -> str:
        """The account that a host name of three labels or more begins with; the default one's label may be that of a machine."""
        label = _HOST.fullmatch(host)
        if label is None or label[1].lower() == self._worlds.default.lower():
            return ""
        known = await self._worlds.known(label[1])
        return known.account.name if known else ""

    async def _to(self, name: str, asked: _Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the world of an account, opened if need be. Raises BatchError for who is not let in."""
        _unmark(scope, asked.token)
        if self._worlds.opened(name) is None:
            known = await self._worlds.known(name)
            if known is None:
                raise _unknown()
            if (refusal := _turned_away(known, asked, scope, receive, self._clock.now())) is not None:
                await refusal(scope, receive, send)
                return
        async with AsyncExitStack() as stack:
            try:
                world = await stack.enter_async_context(self._worlds.entered(name))
            except BatchError as error:
                raise _unknown() if error.code in _GONE else error from None
            await world(scope, receive, send)


def _asked(scope: Scope) -> _Asked:
    path = scope["raw_path"].decode("latin-1").partition("?")[0]
    port = scope.get(PORT, "")
    found = None if port else _PREFIX.match(path)
    authorization = host = ""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
    prefix = found[0] if found else ""
    first, second = [*path.removeprefix(prefix).split("/"), "", ""][1:3]
    return _Asked(prefix, first, second, authorization, host, port)


def _unmark(scope: Scope, token: str) -> None:
    """A world knows its tokens without its name."""
    name, rest = parted(token)
    if name:
        kept = [header for header in scope["headers"] if header[0] != b"authorization"]
        scope["headers"] = [*kept, (b"authorization", f"Bearer {rest}".encode("latin-1"))]


def _turned_away(known: Known, asked: _Asked, scope: Scope, receive: Receive, now: int) -> Response | None:
    """The answer to whom the account's keys do not let in, told without its world; None for others."""
    keys = {} if known.leaving else known.storage
    address = None if asked.prefix else addressed(scope, known.storage)
    if address is not None and address.service == QUEUE:
        return queue_turned_away(keys, scope, receive, times.moment(now))
    if address is not None:
        return turned_away(keys, scope, receive, times.moment(now), public=known.public and not known.leaving)
    token = parted(asked.token)[1]
    if asked.first == _AGENT:
        return _no_node(known, asked.token, token)
    try:
        if token:
            if known.leaving or nodes.run_of_token(known.node_key, token) is None:
                detail = "The token is not that of a running task."
                raise BatchError("InvalidAuthenticationInfo", AuthenticationErrorDetail=detail)
        else:
            auth.verify(known.account, _signed(scope), now)
        if known.leaving:
            raise _unknown()
    except BatchError as error:
        return _refusal(error, asked, scope, now)
    return None


def _no_node(known: Known, shown: str, token: str) -> Response | None:
    try:
        nodes.identify(known.node_key, token)
    except NotThisNode:
        return Response(status_code=403)
    return Response(gone(shown), status_code=403) if known.leaving else None


def _signed(scope: Scope) -> Signed:
    return Signed(
        scope["method"], scope["raw_path"].decode("latin-1").partition("?")[0], scope["query_string"].decode("latin-1"), _headers(scope)
    )


def _headers(scope: Scope) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _unknown() -> BatchError:
    return BatchError("AuthenticationFailed", AuthenticationErrorDetail="The account name is not known here.")


def _refusal(error: BatchError, asked: _Asked, scope: Scope, now: int) -> Response:
    """An answer in the words of the service that was asked, or of the agents' endpoint."""
    if asked.first == _AGENT:
        return Response(status_code=error.status)
    headers = _headers(scope)
    identifier, base = wire.request_id(), f"{scope['scheme']}://{headers.get('host', 'localhost')}{asked.prefix}"
    response = wire.error(error, identifier, base, now, body=scope["method"] != "HEAD")
    wire.common_headers(response, identifier, headers)
    return response
