"""Moving the server's clock, for tests: only a server started with `--test-clock` knows the operation."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine import wakes
from batchyard.engine.checks.demands import duration_us
from batchyard.engine.clock import MovableClock
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property


class ClockAdvance(msgspec.Struct, forbid_unknown_fields=True):
    """By how much, as an ISO 8601 duration."""

    advance: str


class ClockReading(msgspec.Struct):
    """The time it is now."""

    now: str


async def advance(call: Call) -> Response:
    """POST /batchyard/clock"""
    clock = call.services.clock
    if not isinstance(clock, MovableClock):
        raise BatchError("InvalidUri")
    text = call.decode(ClockAdvance).advance
    us = duration_us("advance", text)
    if us is None:
        raise invalid_property("advance", text, "The value must be finite")
    clock.advance(us)
    call.services.wakes([wakes.UPKEEP, wakes.CAPACITY, wakes.SCHEDULES])
    return Response(wire.encode(ClockReading(now=times.iso(clock.now()))), media_type=wire.JSON)
