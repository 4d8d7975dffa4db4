"""The last word of an agent that stops: said until it is taken in or there is no time left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from batchyard.agent.talk.link import Link
from batchyard.model.sync import SYNC_PATH, Sync, gone

log = structlog.get_logger()

_PAUSE_S = 0.2


async def bid(link: Link, say: Callable[[], Sync], token: str, seconds: float, move_on: Callable[[], bool]) -> None:
    """Tell the server that the agent stops, or another one; when none hears it within some seconds the node's silence says it."""
    reason: str | None = "it did not answer"
    try:
        async with asyncio.timeout(seconds):
            while (reason := await _once(link, say(), token, seconds)) is not None:
                if not move_on():
                    await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        log.warning("the server did not hear that the agent stops", reason=reason)


async def _once(link: Link, last: Sync, token: str, seconds: float) -> str | None:
    """Why it has to be said again; None when it need not."""
    try:
        answer = await link.post(SYNC_PATH, msgspec.json.encode(last), seconds)
    except OSError as error:
        return str(error) or type(error).__name__
    return None if answer.status == 200 or answer.body == gone(token) else f"it answered {answer.status}"
