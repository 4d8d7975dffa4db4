"""Output files are what the task's user may read, wherever patterns and links lead: as a user, as root, without other users."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_world import Container

from batchyard.agent.places import layout
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.rights import acting_as
from batchyard.agent.places.users import User
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.upload import Upload
from batchyard.model.common import OutputFile

UID, OTHER = 70_655, 70_656
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
Send = Callable[..., Awaitable[None]]


@pytest.fixture(params=[pytest.param(UID, marks=needs_root), pytest.param(0, marks=needs_root), -1], ids=["user", "admin", "agent's user"])
def uid(request: pytest.FixtureRequest) -> int:
    """Whom the task runs as."""
    return int(request.param)


@pytest.fixture
def rooms(place: Path) -> Layout:
    found = Layout(str(place / "root"))
    found.make()
    return found


@pytest.fixture
def task(rooms: Layout, uid: int) -> TaskPlace:
    found = rooms.task("job", "task")
    layout.open_to(found, User(uid, "user"))
    return found


@pytest.fixture
def give(uid: int) -> Callable[..., Path]:
    """Makes a file, a directory or a link of the task's user, or of another."""

    def give(path: str | Path, content: str | None = None, link: str | Path | None = None, owner: int = uid, mode: int = 0o700) -> Path:
        path = Path(path)
        if link is not None:
            path.symlink_to(link)
        elif content is not None:
            path.write_text(content)
        else:
            path.mkdir()
        if link is None:
            path.chmod(mode)
        os.chown(path, owner, owner, follow_symlinks=False)
        return path

    return give


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def send(task: TaskPlace, rooms: Layout, uid: int, threads: ThreadPoolExecutor, container: Container) -> Send:
    async def send(pattern: str, **variables: str) -> None:
        output = {
            "filePattern": pattern,
            "destination": {"container": {"containerUrl": container.sas("w")}},
            "uploadOptions": {"uploadCondition": "taskcompletion"},
        }
        variables |= {"AZ_BATCH_NODE_SHARED_DIR": rooms.shared}
        await Upload(task, uid, variables, threads).all([msgspec.convert(output, OutputFile)], 0)

    return send


def log_of(task: TaskPlace) -> str:
    return Path(task.directory, "fileuploaderr.txt").read_text()


async def test_absolute_patterns_and_variables(send: Send, place: Path, give: Callable[..., Path], container: Container) -> None:
    give(place / "o")
    for name in ("a.txt", "b.txt", "c"):
        give(place / "o" / name, name)
    await send(f"{place}/o/*.txt")
    assert container.names() == ["a.txt", "b.txt"]
    await send(f"{place}/o/c")
    await send("$AZ_BATCH_JOB_PREP_WORKING_DIR/[ab].txt", AZ_BATCH_JOB_PREP_WORKING_DIR=str(place / "o"))
    assert container.names() == ["a.txt", "b.txt", "c"]


async def test_a_virtual_environment_is_uploaded_whole(
    send: Send, task: TaskPlace, give: Callable[..., Path], container: Container
) -> None:
    top = Path(task.working)
    for name in ("env", "env/bin", "env/lib"):
        give(top / name)
    give(top / "env/bin/python", link="/usr/bin/env")
    give(top / "env/bin/python3", link="python")
    give(top / "env/lib64", link="lib")
    give(top / "env/lib/module.py", "pass")
    give(top / "env/pyvenv.cfg", "home = /usr")
    give(top / "result.txt", "42")
    await send("**")
    expected = ["env/bin/python", "env/bin/python3", "env/lib/module.py", "env/lib64/module.py", "env/pyvenv.cfg", "result.txt"]
    assert container.names() == expected
    assert container.read("env/bin/python3") == Path("/usr/bin/env").read_bytes()


async def test_links_that_lead_nowhere_are_skipped_and_said(
    send: Send, task: TaskPlace, give: Callable[..., Path], container: Container
) -> None:
    top = Path(task.working)
    give(top / "dangling", link="missing")
    give(top / "loop", link="loop")
    give(top / "through", link="a/b")
    give(top / "a", "a")
    os.mkfifo(top / "pipe", 0o666)
    await send("**")
    assert container.names() == ["a"]
    for name in ("dangling is a link that leads nowhere", "loop is", "through is", "pipe is no regular file"):
        assert name in log_of(task)
    await send("dangling")
    assert "no file matches 'dangling'" in log_of(task)


async def test_names_that_are_not_utf8_lose_nothing(send: Send, task: TaskPlace, give: Callable[..., Path], container: Container) -> None:
    give(Path(task.working, os.fsdecode(b"\xff.txt")), "odd")
    give(Path(task.working, "z.txt"), "z")
    await send("*.txt")
    assert container.names() == ["z.txt", "\ufffd.txt"]


async def test_a_blob_that_cannot_be_loses_no_other(send: Send, task: TaskPlace, give: Callable[..., Path], container: Container) -> None:
    deep = Path(task.working)
    for _ in range(6):
        deep = give(deep / ("d" * 200))
    give(deep / "f", "too long for a blob's name")
    give(Path(task.working, "z"), "z")
    with pytest.raises(Failed) as caught:
        await send("**")
    assert (caught.value.info.code, container.names()) == ("FileUploadMiscError", ["z"])
    assert "cannot be uploaded" in log_of(task)


@needs_root
@pytest.mark.parametrize("uid", [UID], indirect=True)
async def test_what_the_tasks_user_may_not_read_is_a_failure_with_its_reason_and_loses_nothing_else(
    send: Send, task: TaskPlace, rooms: Layout, give: Callable[..., Path], container: Container
) -> None:
    closed = give(Path(rooms.shared, "closed"), owner=OTHER)
    give(closed / "open.txt", "another user's", owner=OTHER, mode=0o644)
    give(Path(task.working, "private"), "root's", owner=0, mode=0o600)
    give(Path(task.working, "link"), link=closed / "open.txt")
    give(Path(task.working, "own"), "own", mode=0o400)
    for pattern in (
        "*",
        "link",
        "private",
        "$AZ_BATCH_NODE_SHARED_DIR/closed/open.txt",
        "$AZ_BATCH_NODE_SHARED_DIR/closed/*",
        "/proc/self/maps",
    ):
        with pytest.raises(Failed) as caught:
            await send(pattern)
        assert (caught.value.stage, caught.value.info.code) == ("upload", "FileUploadMiscError")
        reason = next(each.value for each in caught.value.info.details or [] if each.name == "Message")
        assert "no file on a disk" in reason if "proc" in pattern else "cannot be read: Permission denied" in reason
        assert reason in log_of(task)
    assert container.names() == ["own"]
    assert Path(task.directory, "fileuploadout.txt").stat().st_uid == UID


async def test_a_pattern_made_to_take_for_ever_holds_up_nobody(node: Any, container: Container) -> None:
    """Neither the attempt nor the agent, which does everything else meanwhile."""
    target = {"container": {"containerUrl": container.sas("w")}}
    output = {"filePattern": "*a" * 60 + "*b", "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
    end = await node.result("hostile", f"touch {'a' * 250} b", outputFiles=[output])
    assert (end.exit_code, end.failure) == (0, None)
    assert (await node.result("next", "true")).failure is None


async def test_outputs_of_a_whole_attempt(node: Any, container: Container, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out").chmod(0o1777)
    target = {"container": {"containerUrl": container.sas("w")}}
    outputs = [
        {"filePattern": pattern, "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
        for pattern in (f"{place}/out/*.txt", "**/python", "$AZ_BATCH_NODE_SHARED_DIR/s")
    ]
    command = f"sh -c 'umask 077; echo 1 > {place}/out/a.txt; mkdir bin; ln -s /usr/bin/env bin/python; touch $AZ_BATCH_NODE_SHARED_DIR/s'"
    end = await node.result("task", command, outputFiles=outputs)
    assert (end.exit_code, end.failure) == (0, None)
    assert container.names() == ["a.txt", "bin/python", "s"]


@needs_root
def test_acting_as_a_user_is_a_matter_of_one_thread_and_ends(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    inside, done, seen = threading.Event(), threading.Event(), []

    def look() -> None:
        assert inside.wait(20)
        seen.append(secret.read_text())
        done.set()

    other = threading.Thread(target=look)
    other.start()
    with acting_as(UID, OTHER):
        with pytest.raises(PermissionError):
            secret.read_text()
        inside.set()
        assert done.wait(20)
    other.join()
    assert seen == ["root's"]
    assert secret.read_text() == "root's"
    place.chmod(0o777)
    with acting_as(UID, OTHER):
        (place / "own").touch()
    assert ((place / "own").stat().st_uid, (place / "own").stat().st_gid) == (UID, OTHER)
    (place / "root's").touch()
    assert (place / "root's").stat().st_uid == 0
