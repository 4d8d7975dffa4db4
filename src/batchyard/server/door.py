"""In front of everything that a server answers: whether it lives and is ready, and that who comes while it ends goes elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchyard.api.wire.accounts import SERVICE
from batchyard.measures import Durations

HEALTHY, READY = "/healthz", "/readyz"
_NOWHERE = "refused"
"""The service of a request that came to no account's."""
_KNOWN_S = 0.5
"""So long an answer about readiness holds: whoever asks often costs the database nothing."""


class Answers:
    """What was answered, by the service that was asked and by status."""

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, int]] = Counter()
        self.durations: dict[str, Durations] = {}

    def add(self, service: str, code: int, seconds: float) -> None:
        """Count one."""
        self.codes[service, code] += 1
        self.durations.setdefault(service, Durations()).add(seconds)


class Door:
    """The server's ASGI application; `ready` says why no request should come here, None when they may."""

    def __init__(self, app: ASGIApp, ready: Callable[[], Awaitable[str | None]]) -> None:
        self._app, self._ready = app, ready
        self.answers = Answers()
        self._lock = asyncio.Lock()
        self._known: tuple[float, str | None] = (0.0, None)
        self.draining = False
        """The server ends: every answer closes its connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do it."""

        code = 0

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                if self.draining:
                    kept = [header for header in message["headers"] if header[0].lower() != b"connection"]
                    message = {**message, "headers": [*kept, (b"connection", b"close")]}
            await send(message)

        if scope["type"] == "http" and scope["path"] in (HEALTHY, READY):
            response = await self._health(scope["method"], scope["path"])
            await response(scope, receive, counted)
            return
        begun = time.monotonic()
        try:
            await self._app(scope, receive, counted)
        finally:
            if code:
                self.answers.add(scope.get(SERVICE, _NOWHERE), code, time.monotonic() - begun)

    async def _health(self, method: str, path: str) -> PlainTextResponse:
        if method not in ("GET", "HEAD"):
            return PlainTextResponse("", 405, {"allow": "GET, HEAD"})
        reason = None if path == HEALTHY else await self.why_not()
        return PlainTextResponse(reason or "ok", 200 if reason is None else 503, {"cache-control": "no-store"})

    async def why_not(self) -> str | None:
        """Why no request should come here, None when they may."""
        if self.draining:
            return "the server ends"
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._known[0]:
                self._known = (now + _KNOWN_S, await self._ready())
            return self._known[1]
