"""What an agent that is ended without a word leaves to the next one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchyard.agent.main import run
from batchyard.agent.places.layout import Layout
from batchyard.agent.process import control
from batchyard.agent.process.process import Command, Exit, SpawnerLost, Spawners
from batchyard.agent.run import remains
from batchyard.model.sync import Ended


@pytest.fixture
def layout(place: Path) -> Layout:
    made = Layout(str(place / "root"))
    made.make()
    return made


def ends(layout: Layout, token: str = "token") -> remains.Ends:
    made = remains.Ends(layout, token)
    made.earlier()
    return made


def test_ends_are_kept_until_the_server_has_taken_them_in(layout: Layout) -> None:
    own = ends(layout)
    one, other = Ended(attempt="1.1", ended=5, exit_code=0), Ended(attempt="2.1", ended=6, exit_code=3, stopped=True)
    own.note(one)
    own.note(other)
    assert remains.Ends(layout, "token").earlier() == {"1.1": one, "2.1": other}
    own.forget(["1.1", "never"])
    assert remains.Ends(layout, "token").earlier() == {"2.1": other}
    own.forget_all()
    assert remains.Ends(layout, "token").earlier() == {}


def test_ends_of_another_node_or_before_the_machine_went_down_are_nobodys(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ends(layout)
    own.note(Ended(attempt="1.1", ended=5))
    assert remains.Ends(layout, "another token").earlier() == {}
    assert os.listdir(layout.volatile + "/ends") == []
    own.note(Ended(attempt="1.1", ended=5))
    monkeypatch.setattr(remains, "_boot", lambda: "another boot")
    assert remains.Ends(layout, "token").earlier() == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"whose": "x"}', b"\xff" * 100])
def test_what_cannot_be_read_is_removed(layout: Layout, content: bytes) -> None:
    own = ends(layout)
    Path(layout.volatile, "ends", "1.1").write_bytes(content)
    assert remains.Ends(layout, "token").earlier() == {}
    assert os.listdir(layout.volatile + "/ends") == []
    own.forget_all()


def test_an_end_that_cannot_be_written_is_no_error(layout: Layout) -> None:
    own = ends(layout)
    os.rmdir(layout.volatile + "/ends")
    own.note(Ended(attempt="1.1", ended=5))
    own.forget(["1.1"])


def test_notes_of_ends_take_bounded_room_however_many_there_were(layout: Layout) -> None:
    own = ends(layout)
    waits = [Ended(attempt=f"{number}.1", ended=5) for number in range(16)]
    for end in waits:
        own.note(end)
    for number in range(16, 3_000):
        own.note(Ended(attempt=f"{number}.1", ended=5))
        own.forget([f"{number}.1"])
    [file] = Path(layout.volatile, "ends").iterdir()
    assert file.stat().st_size < 100_000
    assert list(remains.Ends(layout, "token").earlier().values()) == waits


def test_an_end_that_was_cut_off_spoils_no_other(layout: Layout) -> None:
    own = ends(layout)
    own.note(Ended(attempt="1.1", ended=5))
    [file] = Path(layout.volatile, "ends").iterdir()
    file.write_bytes(file.read_bytes() + b'{"whose":"half of a li')
    second = ends(layout)
    second.note(Ended(attempt="2.1", ended=6))
    assert set(remains.Ends(layout, "token").earlier()) == {"1.1", "2.1"}


def test_an_end_of_an_agent_of_an_older_release_is_found(layout: Layout) -> None:
    end = Ended(attempt="1.1", ended=5, exit_code=3)
    note = {"whose": ends(layout)._whose, "ended": msgspec.to_builtins(end)}
    Path(layout.volatile, "ends", "1.1").write_bytes(msgspec.json.encode(note))
    later = remains.Ends(layout, "token")
    assert later.earlier() == {"1.1": end}
    later.forget(["1.1"])
    assert os.listdir(layout.volatile + "/ends") == []


@dataclass
class Sleeping:
    """A spawner that runs something."""

    spawners: Spawners
    run: asyncio.Task[Exit]
    pid: int
    watch: str


@pytest.fixture
async def sleeping(layout: Layout, any_control: tuple[str, str, str], place: Path, pipe: Any) -> AsyncIterator[Sleeping]:
    spawners = Spawners(any_control, 1, watches=remains.watches(layout))
    words = ["sh", "-c", f"echo started > {pipe}; exec sleep 1000"]
    command = Command(words, {"PATH": "/bin:/usr/bin", control.MARK: str(place)}, str(place), str(place / "out"), str(place / "err"))
    run = asyncio.create_task(spawners.run(1, command))
    assert await pipe.line() == "started"
    [one] = spawners._endings.values()
    yield Sleeping(spawners, run, one.pid, one.watch)
    await spawners.close()


async def test_a_spawner_that_ended_what_it_ran_leaves_no_watch(layout: Layout, sleeping: Sleeping) -> None:
    assert os.path.exists(sleeping.watch)
    await sleeping.spawners.close()
    assert not remains.ran_unwatched(layout)
    with contextlib.suppress(SpawnerLost):
        await sleeping.run


async def test_the_agent_takes_the_watch_of_a_spawner_that_died_when_it_has_ended_what_it_left(layout: Layout, sleeping: Sleeping) -> None:
    os.kill(sleeping.pid, signal.SIGKILL)
    with pytest.raises(SpawnerLost):
        await sleeping.run
    assert not remains.ran_unwatched(layout)


def test_a_watch_that_nobody_holds_is_told_of_once(layout: Layout) -> None:
    Path(remains.watches(layout), "1.1").touch()
    assert remains.ran_unwatched(layout)
    assert not remains.ran_unwatched(layout)


async def test_a_spawner_that_is_still_ending_what_it_ran_is_waited_for(layout: Layout, sleeping: Sleeping) -> None:
    os.kill(sleeping.pid, signal.SIGSTOP)
    asking = asyncio.create_task(asyncio.to_thread(remains.ran_unwatched, layout))
    closing = asyncio.create_task(sleeping.spawners.close())
    assert not (await asyncio.wait({asking}, timeout=0.2))[0]
    os.kill(sleeping.pid, signal.SIGCONT)
    assert not await asking
    await closing
    with contextlib.suppress(SpawnerLost):
        await sleeping.run


async def test_an_agent_that_joins_tells_what_it_found(server: Any, settings: Any, layout: Layout) -> None:
    token = Path(settings.token_file).read_text()
    ends(layout, token).note(Ended(attempt="7.1", ended=5, exit_code=0))
    Path(remains.watches(layout), "1.1").touch()
    agent = asyncio.create_task(run(settings))
    try:
        await server.until(lambda: server.session)
        first = server.syncs[0]
        assert ([end.attempt for end in first.ended], first.has, first.unwatched) == (["7.1"], ["7.1"], True)
        await server.result("task", "true")
        assert not any(sync.unwatched or "7.1" in sync.has for sync in server.syncs[1:])
    finally:
        agent.cancel()
        await asyncio.wait({agent})
    assert "7.1" not in remains.Ends(layout, token).earlier()
