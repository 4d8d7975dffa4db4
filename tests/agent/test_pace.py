"""When a busy agent speaks. The moment that it waits is made long, so that whoever waited for it would run into the time limit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.talk import pace
from batchyard.agent.talk.pace import Pace


@pytest.fixture(autouse=True)
def _long_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GATHER_S", "_LOADED_S"):
        monkeypatch.setattr(pace, name, 1_000.0)


async def test_who_has_not_reported_lately_speaks_at_once() -> None:
    await asyncio.wait_for(Pace(["one", "two", "three"], 2).wait(), 10)


async def test_who_runs_less_than_its_cores_can_speaks_at_once() -> None:
    own = Pace(["one"], 2)
    own.report(1)
    await asyncio.wait_for(own.wait(), 10)


async def test_an_end_that_leaves_cores_idle_is_the_last_that_is_waited_for() -> None:
    running = ["one", "two", "three"]
    own = Pace(running, 2)
    own.report(1)
    waiting = asyncio.create_task(own.wait())
    running.pop()
    own.ended()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    running.pop()
    own.ended()
    await asyncio.wait_for(waiting, 10)


async def test_once_as_many_have_ended_as_still_run_nobody_waits() -> None:
    running = [str(number) for number in range(6)]
    own = Pace(running, 2)
    for _ in range(2):
        own.report(1)
        waiting = asyncio.create_task(own.wait())
        for _ in range(2):
            running.pop()
            own.ended()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        running.pop()
        own.ended()
        await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(own.wait(), 10)
        running += "abc"


@pytest.mark.parametrize(("ends", "loaded"), [(1, False), (399, False), (400, True), (1000, True)])
async def test_more_are_gathered_where_so_many_end_that_the_cores_are_loaded(
    monkeypatch: pytest.MonkeyPatch, ends: int, loaded: bool
) -> None:
    monkeypatch.setattr(pace, "_GATHER_S", 0.0)
    loop = asyncio.get_running_loop()
    own, now = Pace(["one", "two", "three"], 2), float(int(loop.time()))
    with monkeypatch.context() as patch:
        for moment, told in ((now, 1), (now + 1.0, ends)):
            patch.setattr(loop, "time", lambda moment=moment: moment)
            own.report(told)
        waiting = asyncio.create_task(own.wait())
        await asyncio.sleep(0)
        assert waiting.done() is not loaded
    waiting.cancel()


async def test_a_busy_agent_tells_ends_together_and_the_first_and_last_at_once(node: Any, place: Path) -> None:
    cores = node.facts.cores

    def gate(name: str) -> Path:
        return place / f"go-{name}"

    names = ["first", "second", *(f"further-{number}" for number in range(cores))]
    for name in names:
        node.order(name, f"/bin/sh -c 'until [ -e {gate(name)} ]; do sleep 0.01; done'")
    await node.until(lambda: node.syncs and set(node.syncs[-1].has) == set(names))
    gate("first").touch()
    await node.end_of("first")
    gate("second").touch()
    noted = place / "root/volatile/ends"
    async with asyncio.timeout(20):
        while not any(b'"second"' in file.read_bytes() for file in noted.iterdir()):
            await asyncio.sleep(0.01)
    gate(names[2]).touch()
    await node.end_of(names[2])
    assert [[end.attempt for end in sync.ended] for sync in node.syncs if sync.ended] == [["first"], ["second", names[2]]]
    for name in names:
        gate(name).touch()
