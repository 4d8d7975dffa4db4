"""An agent whose node is on a disk that is really full: what runs goes on, what starts ends with DiskFull, later all works."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SmallDisk

from batchyard.agent.main import run
from batchyard.agent.places import layout
from batchyard.agent.places.users import User
from batchyard.agent.settings import AgentSettings
from batchyard.model.sync import Removal

MIB = 1 << 20


@pytest.fixture
def disk(small_disk: Callable[[int], SmallDisk], settings: AgentSettings) -> SmallDisk:
    """The file system of the node, 700 MiB so that it is no full one from the beginning."""
    made = small_disk(700 * MIB)
    made.path.chmod(0o755)
    for parent in made.path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o001)
    settings.root = str(made.path / "root")
    settings.health_s = 0.2
    return made


@pytest.fixture
async def full_node(server: Any, settings: AgentSettings, disk: SmallDisk) -> AsyncIterator[Any]:
    agent = asyncio.create_task(run(settings))
    await server.until(lambda: server.session)
    yield server
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent


def blocked(server: Any) -> bool:
    """Whether the node says that nothing is to be started on it."""
    told = [sync.problems for sync in server.syncs if sync.problems is not None]
    return any(problem.blocking and problem.code == "DiskFull" for problem in told[-1])


@pytest.mark.parametrize("fill", [SmallDisk.fill, SmallDisk.fill_inodes])
async def test_what_runs_goes_on_and_what_starts_ends_with_disk_full(
    full_node: Any, disk: SmallDisk, fill: Callable[[SmallDisk], None]
) -> None:
    full_node.order("runs", f"/bin/sh -c 'until [ -e {disk.path}/go ]; do sleep 0.05; done; exit 3'")
    assert (await full_node.result("before", "/bin/true")).exit_code == 0
    (disk.path / "wait").touch()
    notes = disk.path / "root/volatile/ends"
    await full_node.until(lambda: not any(note.stat().st_size for note in notes.iterdir()))  # or it would leave room when it goes
    fill(disk)
    await full_node.until(lambda: blocked(full_node))
    ended = await full_node.result("new", "/bin/true", resourceFiles=[{"httpUrl": f"{full_node.url}/agent/file", "filePath": "file"}])
    assert (ended.failure.code, ended.stage, ended.exit_code) == ("DiskFull", "preprocessing", None), ended
    (disk.path / "wait").rename(disk.path / "go")
    assert (await full_node.end_of("runs")).exit_code == 3
    disk.relieve()
    await full_node.until(lambda: not blocked(full_node))
    assert (await full_node.result("after", "/bin/true")).exit_code == 0


async def test_directories_are_removed_where_there_is_no_room_to_move_them(full_node: Any, disk: SmallDisk) -> None:
    assert (await full_node.result("t", "/bin/sh -c 'head -c 9000000 /dev/zero > big'")).exit_code == 0
    directory = f"{disk.path}/root/workitems/job/job-1/t"
    assert os.path.isdir(directory)
    disk.fill()
    full_node.removals = [Removal(number=1, directory="workitems/job/job-1/t")]
    full_node.change()
    await full_node.until(lambda: not full_node.removals)
    assert not os.path.exists(directory)
    async with asyncio.timeout(20):
        while disk.free() < 8 * MIB:
            await asyncio.sleep(0.01)


def test_a_start_task_that_runs_again_needs_no_room_to_begin_anew(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(4_000_000)
    rooms = layout.Layout(str(disk.path / "root"))
    rooms.make()
    place = rooms.start_task(fresh=True)
    os.makedirs(f"{place.working}/deep")
    Path(place.working, "deep", "what fills the disk").write_bytes(b"x" * 100_000)
    disk.fill_inodes()
    layout.open_to(place, User(-1, "agent"))
    assert os.listdir(place.working) == []
