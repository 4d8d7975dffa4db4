"""Upload of the agent's log: the lines of the time asked for, into a container of our own storage endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchyard.agent import logs
from batchyard.agent.main import AgentSettings, run
from batchyard.model import times

LINES = [
    b"no time yet\n",
    b"timestamp='2026-11-26T09:00:00.000000Z' level='info' event='early'\n",
    b"timestamp='2026-11-26T10:00:00.000000Z' level='info' event='first'\n",
    b"Traceback (most recent call last):\n",
    b"timestamp='2026-11-26T11:00:00.5Z' level='info' event='last'\n",
    b"timestamp='2026-11-26T12:00:00Z' level='info' event='late'\n",
    b"its rest",
]


def at(hour: int) -> int:
    return times.from_iso(f"2026-11-26T{hour:02}:00:00Z")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(at(10), at(12) - 1, LINES[2:5]), (at(9), at(9), LINES[1:2]), (at(12), at(13), LINES[5:]), (at(13), at(14), []), (0, at(14), LINES[1:])],
)
def test_lines_of_a_time(start: int, end: int, expected: list[bytes]) -> None:
    assert list(logs.between(iter(LINES), start, end)) == expected
