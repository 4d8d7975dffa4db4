"""In front of everything that a server answers: whether it lives and is ready, and that who comes while it ends goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEALTHY, READY = "/healthz", "/readyz"
_KNOWN_S = 0.5
"""So long an answer about readiness holds: whoever asks often costs the database nothing."""


class Door:
    """The server's ASGI application; `ready` says why no request should come here, None when they may."""

    def __init__(self, app: ASGIApp, ready: Callable[[], Awaitable[str | None]]) -> None:
        self._app, self._ready = app, ready
        self._lock = asyncio.Lock()
        self._known: tuple[float, str | None] = (0.0, None)
        self.draining = False
        """The server ends: every answer closes its connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do it."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [header for header in message["headers"] if header[0].lower() != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        to = closing if self.draining else send
        if scope["type"] == "http" and scope["path"] in (HEALTHY, READY):
            response = await self._health(scope["method"], scope["path"])
            await response(scope, receive, to)
        else:
            await self._app(scope, receive, to)

    async def _health(self, method: str, path: str) -> PlainTextResponse:
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("", 405, {"allow": "GET, HEAD"})
        reason = None if path == HEALTHY else await self._why_not()
        return PlainTextResponse(reason or "ok", 200 if reason is None else 503, {"cache-control": "no-store"})

    async def _why_not(self) -> str | None:
        if self.draining:
            return "the server ends"
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._known[0]:
                self._known = (now + _KNOWN_S, await self._ready())
            return self._known[1]
