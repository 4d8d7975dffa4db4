"""The loop of all background work, written once; every job is a `run_once` (decision D7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


async def every(name: str, seconds: float, run_once: Callable[[], Awaitable[None]], wake: asyncio.Event) -> None:
    """Run `run_once` every `seconds`, or sooner when `wake` is set; an error is logged, never fatal."""
    while True:
        wake.clear()
        try:
            await run_once()
        except Exception:
            log.exception("background job failed", job=name, next_try_s=seconds)
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            pass
