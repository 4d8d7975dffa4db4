"""What servers that share a database say to each other: which files clients want of nodes, and the answers of these.

Who calls shows a token that only servers can make, another one for each server that is called. A server that cannot be reached is left
out: what it was to hear is said again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator

import msgspec
import structlog

from batchyard.agent.talk import trust
from batchyard.agent.talk.link import Link
from batchyard.api.wire.accounts import CLUSTER
from batchyard.model.sync import FILE_HEADER, FileRequest
from batchyard.server.peers import Peers
from batchyard.store.servers import ServerRow

log = structlog.get_logger()

_HEARD_S = 5.0


class Calls:
    """Calls to other servers; `authority` is a PEM file of whom to trust."""

    def __init__(self, peers: Peers, key: bytes, authority: str | None) -> None:
        self._peers, self._key, self._authority = peers, key, authority
        self._links: dict[str, tuple[str, Link]] = {}

    @property
    def id(self) -> str:
        """Of this server."""
        return self._peers.id

    def is_peer(self, token: str) -> bool:
        """True for what another server shows to this one."""
        return hmac.compare_digest(self._token(self.id).encode(), token.encode())

    def _token(self, server: str) -> str:
        return hmac.new(self._key, f"call to {server}".encode(), hashlib.sha256).hexdigest()

    def _link(self, server: ServerRow) -> Link:
        """Raises OSError."""
        url, link = self._links.get(server.id, ("", None))
        if link is None or url != server.url:
            link = Link(server.url, self._token(server.id), trust.of_server(server.url, self._authority))
            self._links[server.id] = server.url, link
        return link

    def of(self, account: str) -> AccountCalls:
        """The calls about one account."""
        return AccountCalls(self, account)

    async def spread(self, path: str, content: bytes) -> None:
        """Say something to all."""
        await asyncio.gather(*(self._say(server, path, content) for server in self._peers.others))

    async def _say(self, server: ServerRow, path: str, content: bytes) -> None:
        try:
            answer = await self._link(server).post(path, content, _HEARD_S)
            if answer.status not in (204, 404):
                log.warning("another server refuses a call", server=server.url, status=answer.status)
        except OSError as error:
            log.info("another server does not hear", server=server.url, reason=str(error) or type(error).__name__)

    async def pour(self, server_id: str, path: str, head: str, chunks: AsyncIterator[bytes]) -> None:
        """Send a stream to one server until it answers. Raises OSError."""
        server = next((row for row in self._peers.others if row.id == server_id), None)
        if server is None:
            raise OSError("the server that asked is gone")
        await self._link(server).pour(path, chunks, f"{FILE_HEADER}: {head}\r\n".encode("latin-1"))


class AccountCalls:
    """The other servers, as the relay of one account knows them."""

    def __init__(self, calls: Calls, account: str) -> None:
        self._calls, self._account, self.id = calls, account, calls.id

    async def spread(self, node_pk: int, request: FileRequest) -> None:
        """Tell all of a request."""
        await self._calls.spread(f"/{CLUSTER}/{self._account}/{node_pk}/wanted", msgspec.json.encode(request))

    async def pass_on(self, node_pk: int, request_id: str, head: str, chunks: AsyncIterator[bytes]) -> bool:
        """Send an answer to the server that its id names; False when that took not all of it. Raises OSError."""
        whole = False

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal whole
            async for chunk in chunks:
                if chunk:
                    yield chunk
            whole = True

        await self._calls.pour(request_id.partition("-")[0], f"/{CLUSTER}/{self._account}/{node_pk}/answers/{request_id}", head, pieces())
        return whole
