"""What an agent that is told to stop says last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest
from starlette.responses import Response

from batchyard.agent.main import run
from batchyard.agent.run import runner
from batchyard.agent.settings import AgentSettings
from batchyard.model.sync import Gang, Orders, Sync

SLEEPS = "/bin/sh -c 'echo $$ > {pipe}; exec sleep 1000'"


class Running:
    """An agent that a test stops."""

    def __init__(self, settings: AgentSettings) -> None:
        self._task = asyncio.create_task(run(settings))

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def agent(server: Any, settings: AgentSettings) -> Any:
    running = Running(settings)
    await server.until(lambda: server.session)
    yield running
    await running.stop()


async def test_it_ends_what_it_runs_and_says_that_this_was_no_end(server: Any, agent: Running, pipe: Any, alive: Any) -> None:
    server.order("task", SLEEPS.format(pipe=pipe), constraints={"maxTaskRetryCount": 3})
    pid = int(await pipe.line())
    await agent.stop()
    last = server.syncs[-1]
    assert last.leaving
    assert [(end.attempt, end.stopped, end.exit_code) for end in last.ended] == [("task", True, None)]
    assert not alive(pid)
    assert sum(sync.leaving for sync in server.syncs) == 1


async def test_an_instance_that_stays_was_stopped_and_has_not_ended(server: Any, agent: Running) -> None:
    server.order("1.1.0", "/bin/true", gang=Gang(number=0, addresses=["127.0.0.1"]))
    await server.until(lambda: any("1.1.0" in sync.ready for sync in server.syncs))
    await agent.stop()
    assert [(end.attempt, end.stopped, end.exit_code) for end in server.syncs[-1].ended] == [("1.1.0", True, None)]


async def test_a_run_that_the_going_machine_ended_first_is_no_failure(
    server: Any, agent: Running, pipe: Any, alive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LAST_TO_HEAR_S", 60.0)  # however busy this machine is
    server.order("task", SLEEPS.format(pipe=pipe))
    pid = int(await pipe.line())
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
        await asyncio.sleep(0)
    for _ in range(1000):  # mostly the agent has seen the end by then
        await asyncio.sleep(0)
    await agent.stop()
    assert [(end.attempt, end.stopped) for sync in server.syncs for end in sync.ended] == [("task", True)]


async def test_an_attempt_that_is_being_staged_is_no_failure_either(server: Any, agent: Running, pipe: Any) -> None:
    server.order("first", SLEEPS.format(pipe=pipe))
    await pipe.line()
    server.order("first.2", "true")  # waits for the directory of the other
    await server.until(lambda: "first.2" in server.syncs[-1].has)
    await agent.stop()
    assert {end.attempt: (end.stopped, end.exit_code) for end in server.syncs[-1].ended} == {
        "first": (True, None),
        "first.2": (True, None),
    }


async def test_what_the_server_had_ended_is_not_called_stopped_by_the_agent(server: Any, agent: Running, pipe: Any) -> None:
    server.order("task", SLEEPS.format(pipe=pipe))
    await pipe.line()
    del server.wanted["task"]
    server.change()
    ended = await server.end_of("task")
    assert (ended.stopped, ended.failure.code) == (False, "TaskEnded")


async def test_an_agent_whose_node_is_gone_has_nobody_to_say_it_to(server: Any, settings: AgentSettings) -> None:
    running = Running(settings)
    await server.until(lambda: server.session)
    server.gone = True
    server.notice_s = 1  # lets the poll go
    server.change()
    await asyncio.wait({running._task}, timeout=20)
    assert running._task.done()
    assert not any(sync.leaving for sync in server.syncs)
    assert os.path.isdir(settings.root)


async def test_what_the_server_could_not_take_in_is_said_again(server: Any, agent: Running, pipe: Any) -> None:
    """A server whose disk is full, for instance, answers 503 for a moment."""
    server.order("task", SLEEPS.format(pipe=pipe))
    await pipe.line()
    server.fail = [503, 500, 0]
    await agent.stop()
    assert (server.fail, [sync.leaving for sync in server.syncs[-2:]]) == ([], [True, True])
    assert [end.stopped for end in server.ends.values()] == [True]


async def test_an_agent_that_stops_while_it_joins_says_goodbye_too(
    server: Any, settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has begun the session by then, and would wait for it to fall silent."""
    joins, goes_on, answer = asyncio.Event(), asyncio.Event(), server.answer

    async def late(said: Sync, told: Orders) -> Response:
        if said.session == 0:
            joins.set()
            await goes_on.wait()
        found: Response = await answer(said, told)
        return found

    monkeypatch.setattr(server, "answer", late)
    server.order("task", "sleep 1000")
    running = Running(settings)
    await joins.wait()
    stopping = asyncio.create_task(running.stop())
    await asyncio.sleep(0)  # the agent has been told
    goes_on.set()
    await stopping
    assert [(sync.session, sync.leaving) for sync in server.syncs] == [(0, False), (1, True)]
    assert [(end.attempt, end.stopped) for end in server.syncs[-1].ended] == [("task", True)]
