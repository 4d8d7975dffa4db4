"""Polls of agents: what is remembered of them, and what a lost wake-up costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import NODE_KEY, Still

from batchyard.api.agents import sync as agents
from batchyard.engine.nodes import nodes
from batchyard.store import nodes as node_rows


async def poll(still: Still, pk: int, session: int = 0, number: int = 1, **said: Any) -> Any:
    """What a node hears; None when it is none of ours."""
    body = {"session": session, "number": number, **said}
    answer = await still.http.post("/agent/sync", json=body, headers={"authorization": f"Bearer {nodes.token(NODE_KEY, pk)}"})
    return answer.json() if answer.status_code == 200 else None


async def test_what_is_remembered_of_a_node_goes_with_it(still: Still) -> None:
    talks = still.api._agents._talks
    for name in ("n1", "n2", "n3"):
        await still.node("starting", name)
    for pk in (1, 2, 3):
        assert await poll(still, pk) is not None
    assert set(talks) == {1, 2, 3}
    await still.db.run(node_rows.delete, 1)
    assert await poll(still, 1) is None
    assert set(talks) == {2, 3}
    talks[2].at -= nodes.SILENCE_US / 1e6 + agents.LONGEST_WAIT_S + 1  # it says nothing any more
    assert await poll(still, 3) is not None
    assert set(talks) == {3}


async def test_a_poll_that_waits_is_not_forgotten_however_long_it_does(still: Still) -> None:
    talks = still.api._agents._talks
    await still.node("starting", "n1")
    await still.node("starting", "n2")
    joined = await poll(still, 1)
    waiting = asyncio.create_task(poll(still, 1, joined["session"], 2, waitS=30))
    while not talks[1].waiting:
        await asyncio.sleep(0)
    talks[1].at -= 10_000
    assert await poll(still, 2) is not None
    assert set(talks) == {1, 2}
    await still.db.run(node_rows.add_removals, [{"node_pk": 1, "directory": "workitems/x"}])
    still.api._services.wakes(["node:1"])
    assert [each["directory"] for each in (await waiting)["removals"]] == ["workitems/x"]


async def test_a_lost_wake_up_costs_a_look_and_not_the_whole_poll(still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "LOOK_EVERY_S", 0.02)
    await still.node("starting", "n1")
    joined = await poll(still, 1)
    still.db.on_wake = lambda topics: None  # none arrives
    waiting = asyncio.create_task(poll(still, 1, joined["session"], 2, waitS=30))
    while not still.api._agents._talks[1].waiting:
        await asyncio.sleep(0)
    await still.db.run(node_rows.add_removals, [{"node_pk": 1, "directory": "workitems/x"}])
    async with asyncio.timeout(15):  # half of what the poll would wait
        answer = await waiting
    assert [each["directory"] for each in answer["removals"]] == ["workitems/x"]
