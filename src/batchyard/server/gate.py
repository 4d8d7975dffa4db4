"""The way in by TLS: a handshake is bounded in time, and counts among the connections before anybody has said anything.

The loop's own TLS listener hands a connection on only when its handshake is over, so those that never end one would be nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection

import structlog

from batchyard.api.wire.protocol import most_connections
from batchyard.server.tls import Tls

log = structlog.get_logger()

HANDSHAKE_S = 10.0
"""How long a client may take for its handshake."""
_BREATH_S = 0.1
"""Pause after a connection that could not be taken, as without descriptors."""


class TlsGate:
    """Takes connections of a listener and hands them on when they are encrypted; ends as a server of the loop does."""

    def __init__(self, listener: socket.socket, tls: Tls, http: Callable[[], asyncio.Protocol], open_: Collection[object]) -> None:
        """`open_` are the connections whose handshake is over."""
        self._listener, self._tls, self._http, self._open = listener, tls, http, open_
        self._waiting: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._taking = asyncio.create_task(self._take())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("connection not taken", reason=str(error))
                await asyncio.sleep(_BREATH_S)
                continue
            if len(self._waiting) + len(self._open) >= most_connections():
                connection.close()
                continue
            task = asyncio.create_task(self._shake_hands(connection))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # whoever speaks no TLS, or hangs up
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._http, connection, ssl=self._tls.context, ssl_handshake_timeout=HANDSHAKE_S)

    def close(self) -> None:
        """Take no more connections; those whose handshake is over go on."""
        for task in (self._taking, *self._waiting):
            task.cancel()

    async def wait_closed(self) -> None:
        """Until nothing is taken any more."""
        await asyncio.gather(self._taking, *self._waiting, return_exceptions=True)
