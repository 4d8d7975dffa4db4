"""What a node streams, passed on to whoever asked for as long as that listens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from batchyard.api.wire.relay import Exchange

log = structlog.get_logger()


class Frames(StreamingResponse):
    """The frames of an exchange, which is over when the response is: then the node ends the command."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(_pieces(exchange), media_type="application/octet-stream")
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the command has ended or whoever asked is gone."""
        try:
            await super().__call__(scope, receive, send)
        except ConnectionError as error:
            log.warning("command broken off", path=scope["path"], reason=str(error))
        finally:
            self._exchange.close()


async def _pieces(exchange: Exchange) -> AsyncIterator[bytes]:
    async for chunk in exchange.chunks():
        yield chunk
