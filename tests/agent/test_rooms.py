"""Task directories and their users: who may enter when, and who waits for whom."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from batchyard.agent import layout, users
from batchyard.agent.layout import Layout
from batchyard.agent.removals import Directories
from batchyard.agent.runner import words
from batchyard.agent.users import BLOCK, NoSuchUser, User, Users
from batchyard.model.common import AutoUserSpecification, UserIdentity
from batchyard.model.words import AutoUserScope, ElevationLevel

OWN = UserIdentity(auto_user=AutoUserSpecification(scope=AutoUserScope.TASK, elevation_level=ElevationLevel.NON_ADMIN))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories to other users")


def owner_and_mode(path: str | Path) -> tuple[int, int]:
    seen = os.stat(path, follow_symlinks=False)
    return seen.st_uid, seen.st_mode & 0o7777


@needs_root
def test_a_directory_is_its_users_while_the_attempt_runs_and_closed_afterwards(place: Path) -> None:
    rooms = Layout(str(place / "root"))
    rooms.make()
    task = rooms.task("job", "task")
    user = User(70_501, "own", own=True)
    layout.open_to(task, user)
    assert owner_and_mode(task.directory) == (70_501, 0o750)
    assert owner_and_mode(task.working) == (70_501, 0o750)
    for path, mode in (
        ("", 0o755),
        ("workitems", 0o711),
        ("workitems/job", 0o711),
        ("workitems/job/job-1", 0o711),
        ("volatile", 0o700),
        ("shared", 0o1777),
    ):
        assert owner_and_mode(place / "root" / path) == (0, mode)
    layout.close(task, user)
    assert owner_and_mode(task.directory) == (0, 0o700)


@needs_root
def test_another_user_takes_over_what_the_former_owned_and_nothing_else(place: Path) -> None:
    rooms = Layout(str(place / "root"))
    rooms.make()
    task = rooms.task("job", "task")
    former = User(70_501, "own", own=True)
    layout.open_to(task, former)
    inside, outside = Path(task.working), place / "outside"
    outside.write_text("")
    os.chown(outside, 70_501, 70_501)
    (inside / "sub").mkdir()
    (inside / "sub/file").write_text("")
    (inside / "root's").write_text("")
    (inside / "link").symlink_to(outside)
    os.link(outside, inside / "hard")
    for name in ("sub", "sub/file", "link"):
        os.chown(inside / name, 70_501, 70_501, follow_symlinks=False)
    layout.close(task, former)
    assert layout.former_user(task) == 70_501
    layout.open_to(task, User(70_502, "own", own=True))
    assert [owner_and_mode(inside / name)[0] for name in ("sub", "sub/file", "link", ".", "root's", "hard")] == [70_502] * 4 + [0, 70_501]
    assert owner_and_mode(outside)[0] == 70_501


def test_users_of_their_own_are_never_shared_and_come_back_as_late_as_possible() -> None:
    pool = Users(70_000, switches=True)
    first = pool.take(OWN)
    pool.give_back(first)
    taken = [pool.take(OWN) for _ in range(BLOCK - 1)]
    assert len({user.uid for user in taken}) == BLOCK - 1
    assert all(70_000 < user.uid < 70_000 + BLOCK for user in taken)
    assert taken[0] != first
    assert taken[-1] == first
    with pytest.raises(NoSuchUser):
        pool.take(OWN)
    pool.give_back(taken[5])
    pool.give_back(taken[6])
    assert pool.take(OWN, taken[6].uid) == taken[6]


def test_without_root_everybody_is_the_agents_user_but_named_users_are_refused() -> None:
    pool = Users(70_000, switches=False)
    assert {pool.take(identity).uid for identity in (None, OWN)} == {-1}
    with pytest.raises(NoSuchUser):
        pool.take(UserIdentity(username="alice"))


@needs_root
def test_a_closed_parent_is_named_with_its_mend(place: Path) -> None:
    (place / "closed/root").mkdir(parents=True)
    assert users.obstacle(str(place / "closed/root"), 70_000) is None
    (place / "closed").chmod(0o700)
    assert f"chmod o+x {place}/closed`" in (users.obstacle(str(place / "closed/root"), 70_000) or "")
    assert os.getresuid() == (0, 0, 0)
    assert os.getresgid()[1] == 0


async def test_one_attempt_at_a_time_uses_a_directory_and_a_removal_goes_before_later_ones() -> None:
    rooms = Directories()
    order: list[str] = []

    async def use(name: str, path: str) -> None:
        async with rooms.use(path):
            order.append(name)

    async def remove(top: str) -> None:
        async with rooms.going(top):
            order.append("removal")

    async with rooms.use("/r/j/t"):
        tasks = [asyncio.create_task(use("same", "/r/j/t")), asyncio.create_task(use("other", "/r/j/t2"))]
        await tasks[1]
        assert order == ["other"]
        tasks.append(asyncio.create_task(remove("/r/j")))
        await asyncio.wait(tasks, timeout=0)
        tasks += [asyncio.create_task(use("later", "/r/j/t")), asyncio.create_task(use("neighbour", "/r/jj/t"))]
        await tasks[-1]
    await asyncio.gather(*tasks)
    assert order == ["other", "neighbour", "removal", "same", "later"] or order == ["other", "neighbour", "removal", "later", "same"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a  b\tc\n", ["a", "b", "c"]),
        ("a 'b  c' \"d\"e", ["a", "b  c", "de"]),
        ("a\\ b $HOME *", ["a b", "$HOME", "*"]),
        ("echo #no", ["echo", "#no"]),
        ("", []),
        ("a\u00a0b", ["a\u00a0b"]),
        ("''", [""]),
    ],
)
def test_words(line: str, expected: list[str]) -> None:
    assert words(line) == expected


def test_an_open_quote_is_an_error() -> None:
    with pytest.raises(ValueError, match="quotation"):
        words("echo 'open")
