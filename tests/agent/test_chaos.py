"""Disturbances on demand, as the agent obeys them. `kill` is tested with an agent of its own in tests/api/test_chaos.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from batchyard.agent.main import run
from batchyard.agent.settings import AgentSettings
from batchyard.model.sync import Chaos, Sync


@pytest.fixture
async def willing(server: Any, settings: AgentSettings) -> AsyncIterator[Any]:
    """The server with an agent that obeys."""
    agent = asyncio.create_task(run(replace(settings, chaos=True)))
    await server.until(lambda: server.session)
    yield server
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent


async def ask(node: Any, kind: Any, seconds: float = 0) -> str | None:
    """The error, if any."""
    content = msgspec.Raw(msgspec.json.encode(Chaos(kind=kind, seconds=seconds)))
    head, _ = await node.file("chaos", "", content=content)
    error: str | None = head.error
    return error


def told(node: Any, code: str) -> list[Sync]:
    return [sync for sync in node.syncs if sync.problems is not None and code in [problem.code for problem in sync.problems]]


async def test_an_agent_that_was_not_started_for_it_obeys_nothing(node: Any) -> None:
    for kind in ("kill", "slow", "disk-full", "heal"):
        assert await ask(node, kind, 1000) == "Forbidden"
    assert (await node.result("task", "/bin/true")).exit_code == 0


async def test_a_word_that_it_does_not_know_changes_nothing(willing: Any) -> None:
    assert await ask(willing, "melt") == "InvalidRequestBody"
    assert (await willing.result("task", "/bin/true")).exit_code == 0


async def test_starts_are_slow_until_it_is_healed(willing: Any) -> None:
    assert await ask(willing, "slow", 0.5) is None
    before = asyncio.get_running_loop().time()
    assert (await willing.result("late", "/bin/true")).exit_code == 0
    assert asyncio.get_running_loop().time() - before >= 0.5
    assert await ask(willing, "slow", 1000) is None
    willing.order("never", "/bin/true")
    await willing.until(lambda: "never" in willing.syncs[-1].has)
    del willing.wanted["never"]
    willing.change()
    assert (await willing.end_of("never")).failure.code == "TaskEnded"
    assert await ask(willing, "heal") is None
    assert (await willing.result("soon", "/bin/true")).exit_code == 0


async def test_a_full_disk_is_reported_and_starts_fail_until_it_is_healed(willing: Any) -> None:
    assert await ask(willing, "disk-full") is None
    [first, *_] = await willing.until(lambda: told(willing, "DiskFull"))
    assert [problem.blocking for problem in first.problems if problem.code == "DiskFull"] == [True]
    ended = await willing.result("task", "/bin/true")
    assert (ended.exit_code, ended.failure.code, ended.stage) == (None, "DiskFull", "preprocessing")
    assert await ask(willing, "heal") is None
    await willing.until(lambda: [s for s in willing.syncs[willing.syncs.index(first) + 1 :] if s.problems is not None])
    assert not told(willing, "DiskFull")[1:]
    assert (await willing.result("again", "/bin/true")).exit_code == 0
