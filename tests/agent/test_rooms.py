"""Task directories and their users: who may enter when, and who waits for whom."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from batchyard.agent.places import layout, removals, users
from batchyard.agent.places.layout import Layout
from batchyard.agent.places.removals import Directories
from batchyard.agent.places.users import BLOCK, NAMED, SINGLE, NoSuchUser, User, Users, objection, of_logins
from batchyard.model.common import AutoUserSpecification, UserIdentity
from batchyard.model.sync import NodeAccount
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


@needs_root
@pytest.mark.parametrize("lost", [False, True])
def test_root_takes_over_nothing_that_others_left(place: Path, lost: bool) -> None:
    rooms = Layout(str(place / "root"))
    rooms.make()
    task = rooms.task("job", "task")
    layout.open_to(task, User(70_500, "_azbatch"))
    kept = Path(task.directory if lost else task.working) / "bash"
    kept.write_text("")
    kept.chmod(0o755)
    os.chown(kept, 70_500, 70_500)
    if lost:
        os.rmdir(task.working)
    layout.open_to(task, User(0, "root"))
    assert os.listdir(task.directory) == ["wd"]
    assert os.listdir(task.working) == []
    assert owner_and_mode(task.directory) == owner_and_mode(task.working) == (0, 0o750)
    (Path(task.working) / "own").write_text("")
    layout.open_to(task, User(0, "root"))
    assert os.listdir(task.working) == ["own"]
    removals.empty(rooms, threading.Event())
    assert os.listdir(rooms.trash) == []


def test_users_of_their_own_are_never_shared_and_come_back_as_late_as_possible() -> None:
    pool = Users(70_000, switches=True)
    first = pool.take(OWN)
    pool.give_back(first)
    taken = [pool.take(OWN) for _ in range(SINGLE)]
    assert len({user.uid for user in taken}) == SINGLE
    assert all(70_000 < user.uid < 70_000 + BLOCK - NAMED - 1 for user in taken)
    assert taken[0] != first
    assert taken[-1] == first
    with pytest.raises(NoSuchUser):
        pool.take(OWN)
    pool.give_back(taken[5])
    pool.give_back(taken[6])
    assert pool.take(OWN, lambda: taken[6].uid) == taken[6]


def test_without_root_everybody_is_the_agents_user_but_unknown_users_are_refused() -> None:
    pool = Users(70_000, switches=False)
    pool.learn([NodeAccount(name="bob")])
    assert {pool.take(identity).uid for identity in (None, OWN, UserIdentity(username="bob"))} == {-1}
    with pytest.raises(NoSuchUser, match="'alice'"):
        pool.take(UserIdentity(username="alice"))


def test_named_users_have_uids_of_their_own_that_stay_the_same() -> None:
    pool = Users(70_000, switches=True)
    accounts = [
        NodeAccount(name="a"),
        NodeAccount(name="b", uid=2_345, gid=3_456),
        NodeAccount(name="c"),
        NodeAccount(name="d", admin=True),
    ]
    for _ in range(2):
        pool.learn(accounts)
        users_ = [pool.take(UserIdentity(username=account.name)) for account in accounts]
        assert [(user.name, user.uid, user.group) for user in users_] == [
            ("a", 70_900, 70_900),
            ("b", 2_345, 3_456),
            ("c", 70_902, 70_902),
            ("root", 0, 0),
        ]
    assert pool.of_start_task(OWN).uid not in {user.uid for user in users_} | {pool.take(OWN).uid for _ in range(SINGLE)}


def test_accounts_for_logging_in_have_numbers_that_no_task_has() -> None:
    pool = Users(70_000, switches=True)
    pool.learn([NodeAccount(name=f"u{number}") for number in range(NAMED)])
    tasks = {pool.take(identity).uid for identity in (None, *(UserIdentity(username=f"u{number}") for number in range(NAMED)))}
    tasks |= {pool.take(OWN).uid for _ in range(SINGLE)} | {pool.of_start_task(OWN).uid}
    assert len(of_logins(70_000)) == BLOCK - len(tasks)
    assert not tasks & set(of_logins(70_000))
    for base in (70_000, 71_000):
        assert all(objection("x", uid, 1_000, base) and objection("x", 1_000, uid, base) for uid in of_logins(70_000))


def test_a_node_has_room_for_so_many_named_users() -> None:
    pool = Users(70_000, switches=True)
    pool.learn([NodeAccount(name=f"u{number}") for number in range(NAMED + 1)])
    assert pool.take(UserIdentity(username=f"u{NAMED - 1}")).uid == 70_999
    with pytest.raises(NoSuchUser, match="room for 100"):
        pool.take(UserIdentity(username=f"u{NAMED}"))


@pytest.mark.parametrize(
    ("uid", "gid", "reason"),
    [
        (0, 0, "uid 0 belongs to the system"),
        (999, 5_000, "uid 999 belongs to the system"),
        (5_000, 27, "gid 27 belongs to the system"),
        (50_500, 5_000, "uid 50500 is kept for the tasks of nodes"),
        (70_000, 5_000, "uid 70000 is kept"),
        (2_000_000, 5_000, "uid 2000000 is kept"),
        (5_000, 50_001, "gid 50001 is kept"),
        (65_534, 65_534, "uid 65534 is kept"),
        (-1, -1, "uid -1 belongs to the system"),
    ],
)
def test_numbers_that_no_named_user_gets(uid: int, gid: int, reason: str) -> None:
    assert reason in (objection("alice", uid, gid, 50_000) or "")
    pool = Users(50_000, switches=True)
    pool.learn([NodeAccount(name="alice", uid=uid, gid=gid)])
    with pytest.raises(NoSuchUser, match=f"'alice' is not on this node: its .*{reason[:6]}"):
        pool.take(UserIdentity(username="alice"))


@pytest.mark.parametrize(("setting", "said"), [("0\n", True), ("1\n", False), (None, False)])
def test_second_names_of_others_files_are_named_with_their_mend(place: Path, setting: str | None, said: bool) -> None:
    if setting is not None:
        (place / "setting").write_text(setting)
    assert ("protected_hardlinks=1" in (users.unprotected_names(str(place / "setting")) or "")) == said


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
        await rooms.take(path)
        order.append(name)
        rooms.leave(path)

    async def remove(top: str) -> None:
        async with rooms.going(top):
            order.append("removal")

    await rooms.take("/r/j/t")
    tasks = [asyncio.create_task(use("same", "/r/j/t")), asyncio.create_task(use("other", "/r/j/t2"))]
    await tasks[1]
    assert order == ["other"]
    tasks.append(asyncio.create_task(remove("/r/j")))
    await asyncio.wait(tasks, timeout=0)
    tasks += [asyncio.create_task(use("later", "/r/j/t")), asyncio.create_task(use("neighbour", "/r/jj/t"))]
    await tasks[-1]
    rooms.leave("/r/j/t")
    await asyncio.gather(*tasks)
    assert order == ["other", "neighbour", "removal", "same", "later"] or order == ["other", "neighbour", "removal", "later", "same"]
