"""The notice that a machine will be taken away, as tasks get it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.process import spawner
from batchyard.agent.process.control import Session
from batchyard.agent.process.process import Command, Spawners
from batchyard.agent.state import State
from batchyard.model.sync import Orders, Sync

TRAPS = """/bin/sh -c 'trap "echo notice >> notes; echo noticed > %s" TERM; echo started > %s; while :; do sleep 0.05; done'"""


async def test_running_tasks_get_the_signal_once_and_go_on_until_they_are_ended(node: Any, pipe: Any, place: Path) -> None:
    node.order("task", TRAPS % (pipe, pipe))
    assert await pipe.line() == "started"
    node.notice_s = 30
    node.change()
    assert await pipe.line() == "noticed"
    await node.result("other", "/bin/true")  # more answers with the same notice
    assert "task" not in node.ends
    [notes] = place.glob("root/workitems/job/job-1/task/wd/notes")
    assert notes.read_text() == "notice\n"
    del node.wanted["task"]
    node.change()
    assert (await node.end_of("task")).exit_code == 137


async def test_a_task_that_is_still_being_prepared_gets_it_once_it_runs(node: Any, pipe: Any) -> None:
    node.order("task", TRAPS % (pipe, pipe))
    assert await pipe.line() == "started"
    node.order("task.2", TRAPS % (pipe, pipe))  # waits for the other in its directory
    await node.until(lambda: "task.2" in node.syncs[-1].has)
    node.notice_s = 30
    node.change()
    assert await pipe.line() == "noticed"
    del node.wanted["task"]
    node.change()
    await node.end_of("task")
    assert await pipe.line() == "started"
    assert await pipe.line() == "noticed"
    assert "task.2" not in node.ends


async def test_a_command_whose_spawner_is_being_started_gets_it_too(any_control: tuple[str, str, str], place: Path, pipe: Any) -> None:
    spawners = Spawners(any_control, 1)
    words = shlex.split(TRAPS % (pipe, pipe))
    run = asyncio.create_task(spawners.run(1, Command(words, {"PATH": "/bin:/usr/bin"}, str(place), *logs(place, 1))))
    try:
        await asyncio.sleep(0)  # it waits for the first spawner now
        spawners.terminate(1)
        assert await pipe.line() == "started"
        assert await pipe.line() == "noticed"
    finally:
        spawners.kill(1)
        await run
        await spawners.close()


async def test_a_notice_that_comes_with_the_order_to_start_is_not_lost(any_control: tuple[str, str, str], place: Path) -> None:
    spawners = Spawners(any_control, 1)
    environment = {"PATH": "/bin:/usr/bin"}
    try:
        await spawners.run(1, Command(["true"], environment, str(place), *logs(place, 1)))
        run = asyncio.create_task(spawners.run(2, Command(["sleep", "1000"], environment, str(place), *logs(place, 2), limit_s=20)))
        await asyncio.sleep(0)  # both messages go out together
        spawners.terminate(2)
        assert (await run).code == 143
    finally:
        await spawners.close()


async def test_a_task_that_does_not_catch_it_ends_by_it(node: Any, pipe: Any) -> None:
    node.order("task", f"/bin/sh -c 'echo started > {pipe}; exec sleep 1000'")
    assert await pipe.line() == "started"
    node.notice_s = 30
    node.change()
    ended = await node.end_of("task")
    assert (ended.exit_code, ended.failure.code) == (143, "FailureExitCode")


async def test_only_the_group_of_the_run_gets_it(any_control: tuple[str, str, str], place: Path, pipe: Any) -> None:
    spawners = Spawners(any_control, 1)
    environment = {"PATH": "/bin:/usr/bin"}
    try:
        runs = []
        for key in (1, 2):
            words = ["sh", "-c", f"echo {key} > {pipe}; exec sleep 1000"]
            runs.append(asyncio.create_task(spawners.run(key, Command(words, environment, str(place), *logs(place, key)))))
            assert await pipe.line() == str(key)
        spawners.terminate(3)
        spawners.terminate(1)
        assert (await runs[0]).code == 143
        spawners.terminate(1)
        assert not runs[1].done()
        spawners.kill(2)
        assert (await runs[1]).code == 137
    finally:
        await spawners.close()


def logs(place: Path, key: int) -> tuple[str, str]:
    return str(place / f"out{key}"), str(place / f"err{key}")


def test_a_notice_counts_once_until_it_is_taken_back() -> None:
    state = State()
    said: list[float | None] = []
    for notice in (None, 30.0, 29.0, None, 30.0):
        one: Sync = state.say()
        plan = state.hear(one, Orders(session=1, number=one.number, notice_s=notice))
        said.append(plan.notice_s)
        assert bool(plan) == (plan.notice_s is not None)
    assert said == [None, 30.0, None, None, 30.0]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of root that leads its group."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a process that others may not signal")
def test_a_command_that_became_somebody_else_does_not_end_its_spawner(stranger: subprocess.Popen[bytes]) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    session = Session()
    watcher = spawner.Spawner(-1, session)
    run = spawner.Run(1, session.take(""))
    run.pid = stranger.pid
    watcher._by_key[1] = run
    os.setresuid(70_123, 70_123, 0)
    try:
        watcher._terminate(1)
    finally:
        os.setresuid(0, 0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
    assert stranger.poll() is None
