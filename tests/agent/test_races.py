"""A task's user exchanges directories and links in a loop while root works below them: nothing outside is touched or read.

`BATCHYARD_RACES` says how often each is tried: `make races` tries each 1,000 times.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_world import Container

from batchyard.agent.accounts.logins import Logins
from batchyard.agent.places import beneath, files, layout, removals
from batchyard.agent.places.files import Refused
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.users import User, of_logins
from batchyard.agent.settings import AgentSettings
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.staging import Staging
from batchyard.agent.transfer.upload import Upload
from batchyard.model.common import OutputFile, ResourceFile
from batchyard.model.node import NodeUserCreate, NodeUserUpdate
from batchyard.model.sync import FileRequest

RACES = int(os.environ.get("BATCHYARD_RACES", "15"))
UID, OTHER = 70_655, 70_656
EXCHANGER = """
import ctypes, os, sys
libc, parent = ctypes.CDLL(None), os.getppid()
one, other = map(os.fsencode, sys.argv[1:3])
uid, target = int(sys.argv[3]), sys.argv[4]
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.write(1, b"!")
while os.getppid() == parent:
    if target:
        try:
            os.symlink(target, other)
        except OSError:
            pass
    for _ in range(200):
        libc.renameat2(-100, one, -100, other, 2)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose to a task")


@contextlib.contextmanager
def exchanging(one: str | Path, other: str | Path, uid: int = UID, target: Path | None = None) -> Iterator[None]:
    """Exchange two names all the time, as a user; with `target` the other is made a link to that whenever it is missing."""
    command = [sys.executable, "-I", "-S", "-c", EXCHANGER, str(one), str(other), str(uid), str(target or "")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"!"
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()


@pytest.fixture
def rooms(place: Path) -> Layout:
    found = Layout(str(place / "root"))
    found.make()
    return found


@pytest.fixture
def task(rooms: Layout) -> TaskPlace:
    """A directory that belongs to a task of `UID`, which runs."""
    found = rooms.task("job", "task")
    layout.open_to(found, User(UID, "_azbatch"))
    return found


@pytest.fixture
def victim(rooms: Layout) -> Path:
    """A directory of root's, in a place that no user may enter, with the names that a task uses."""
    return fill(Path(rooms.volatile))


def fill(above: Path) -> Path:
    found = above / "victim"
    (found / "sub").mkdir(parents=True)
    for name in ("file", "sub/file", "secret.txt", "authorized_keys"):
        (found / name).write_text("root's")
    return found


def tree(top: Path) -> dict[str, tuple[int, int, int, str]]:
    """All that is below a directory, with owner, mode and content."""
    found = {}
    for path in sorted([top, *top.rglob("*")]):
        seen = path.lstat()
        found[str(path.relative_to(top))] = seen.st_ino, seen.st_uid, seen.st_mode, path.read_text() if path.is_file() else ""
    return found


def plant(at: Path, target: Path, uid: int = UID) -> Path:
    at.symlink_to(target)
    os.chown(at, uid, uid, follow_symlinks=False)
    return at


def give(path: Path, content: str | None = None, uid: int = UID) -> Path:
    """A file, or a directory, of the task's user."""
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    os.chown(path, uid, uid)
    return path


@pytest.fixture
def url() -> Iterator[str]:
    """A web server that has every file."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", -1

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "7")
            self.end_headers()
            self.wfile.write(b"hostile")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_resource_files(task: TaskPlace, victim: Path, url: str) -> None:
    before = tree(victim)
    link = plant(Path(task.directory, "link"), victim)
    wanted = [ResourceFile(http_url=url, file_path=path) for path in ("file", "sub/file", "new/file", "sub/new")]
    with ThreadPoolExecutor(4) as threads:
        await Staging(task.working, UID, threads).all(wanted)  # as long as nobody disturbs it
        assert all(Path(task.working, each.file_path or "").is_file() for each in wanted)
        with exchanging(task.working, link):
            for _ in range(RACES):
                with contextlib.suppress(Failed):
                    await Staging(task.working, UID, threads).all(wanted)
                assert tree(victim) == before


async def test_attempts_of_an_agent(node: Any, settings: AgentSettings, url: str) -> None:
    """What a task may do to another one of the same user, while an agent prepares that."""
    victim = fill(Path(settings.root, "volatile"))
    before = tree(victim)
    task = Path(settings.root, "workitems/job/job-1/task")
    wanted = [{"httpUrl": url, "filePath": path} for path in ("file", "sub/file", "new/file", *map(str, range(22)))]
    with exchanging(task / "wd", task / "link", settings.uid_base, victim):
        for each in range(RACES):
            await node.result(f"task.{each}", "true", resourceFiles=wanted)
            assert tree(victim) == before


async def test_taking_a_directory_over(task: TaskPlace, victim: Path) -> None:
    before = tree(victim)
    link = plant(Path(task.directory, "link"), victim)
    with exchanging(task.working, link):
        for _ in range(RACES):
            with contextlib.suppress(OSError):
                layout.open_to(task, User(UID, "_azbatch"))
            assert tree(victim) == before


async def test_output_files(task: TaskPlace, victim: Path, container: Container, rooms: Layout) -> None:
    give(Path(task.working, "own.txt"), "own")
    link = plant(Path(task.directory, "link"), victim)
    target = {"container": {"containerUrl": container.sas("w")}}
    options = {"uploadCondition": "taskcompletion"}
    patterns = ("*.txt", "secret.txt", "../wd/**", "$AZ_BATCH_TASK_DIR/*/*.txt")
    outputs = [
        msgspec.convert({"filePattern": each, "destination": target, "uploadOptions": options}, OutputFile, strict=False)
        for each in patterns
    ]
    variables = {"AZ_BATCH_TASK_DIR": task.directory}
    with ThreadPoolExecutor(1) as threads:
        await Upload(task, UID, variables, threads).all(outputs[:1], 0)
        assert b"own" in {container.read(name) for name in container.names()}, "nobody disturbed it"
        with exchanging(task.working, link):
            for _ in range(RACES):
                with contextlib.suppress(Failed):
                    await Upload(task, UID, variables, threads).all(outputs, 0)
    found = {name: container.read(name) for name in container.names()}
    assert b"root's" not in found.values()
    assert not [name for name in found if "secret" in name]


async def test_what_lies_below_another_users_closed_directory(task: TaskPlace, container: Container, rooms: Layout) -> None:
    """An exchange between a directory of the task's own and a link into the other user's."""
    closed = give(Path(rooms.shared, "closed"), uid=OTHER)
    give(closed / "f", "another user's", uid=OTHER)
    closed.chmod(0o700)
    own = give(Path(task.working, "own"))
    give(own / "f", "own")
    link = plant(Path(task.working, "link"), closed)
    target = {"container": {"containerUrl": container.sas("w")}}
    output = {"filePattern": "own/*", "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
    wanted = [msgspec.convert(output, OutputFile), msgspec.convert(output | {"filePattern": "link/f"}, OutputFile)]
    with ThreadPoolExecutor(1) as threads:
        await Upload(task, UID, {}, threads).all(wanted[:1], 0)  # as long as nobody disturbs it
        assert {container.read(name) for name in container.names()} == {b"own"}
        with exchanging(own, link):
            for _ in range(RACES):
                with contextlib.suppress(Failed):
                    await Upload(task, UID, {}, threads).all(wanted, 0)
                assert {container.read(name) for name in container.names()} == {b"own"}


def ask(task: TaskPlace, rooms: Layout, operation: str, path: str, **members: Any) -> files.Found:
    base = task.directory[len(rooms.root) + 1 :]
    return files.answer(rooms.root, FileRequest(id="1", operation=operation, base=base, path=path, **members))  # type: ignore[arg-type]


def test_listing_and_reading(task: TaskPlace, victim: Path, rooms: Layout) -> None:
    give(Path(task.working, "file"), "own")
    link = plant(Path(task.directory, "link"), victim)
    base = task.directory[len(rooms.root) + 1 :]
    names: set[str] = set()
    with exchanging(task.working, link):
        for _ in range(RACES):
            for path in ("wd/file", "link/file", "wd/secret.txt"):
                found = ask(task, rooms, "get", path)
                if found.fd >= 0:
                    assert os.pread(found.fd, 100, 0) == b"own"
                    os.close(found.fd)
                assert ask(task, rooms, "properties", "wd/secret.txt").head.entry is None
            for path in ("", "wd"):
                with contextlib.suppress(OSError, beneath.Outside):
                    request = FileRequest(id="1", operation="list", base=base, path=path, recursive=True)
                    names.update(os.path.basename(entry.name) for entry in files.entries(rooms.root, request))
    assert names <= {"wd", "link", "file"}


def test_deletion_of_files(task: TaskPlace, victim: Path, rooms: Layout) -> None:
    before = tree(victim)
    link = plant(Path(task.directory, "link"), victim)
    with exchanging(task.working, link):
        for _ in range(RACES):
            for path in ("wd/file", "wd/sub", "link/sub", "wd/secret.txt"):
                ask(task, rooms, "delete", path, recursive=True)
    assert tree(victim) == before


def test_removal_of_directories(task: TaskPlace, victim: Path, rooms: Layout) -> None:
    before = tree(victim)
    for _ in range(RACES):
        layout.open_to(task, User(UID, "_azbatch"))
        inside = give(Path(task.working, "sub"))
        give(inside / "file", "own")
        link = plant(Path(task.working, "link"), victim)
        with exchanging(inside, link):
            with contextlib.suppress(OSError):
                ask(task, rooms, "delete", "wd/sub", recursive=True)
            removals.move_away(rooms, task.directory[len(rooms.root) + 1 :].split("/"))
            removals.empty(rooms, threading.Event())
        removals.empty(rooms, threading.Event())
        assert tree(victim) == before


async def test_logs_of_uploads(task: TaskPlace, victim: Path, container: Container, rooms: Layout) -> None:
    before = tree(victim)
    give(Path(task.working, "own.txt"), "own")
    own = give(Path(task.directory, "fileuploadout.txt"), "own")
    link = plant(Path(task.directory, "link"), victim / "secret.txt")
    target = {"container": {"containerUrl": container.sas("w")}}
    output = {"filePattern": "own.txt", "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
    with ThreadPoolExecutor(1) as threads, exchanging(own, link):
        for _ in range(RACES):
            await Upload(task, UID, {}, threads).all([msgspec.convert(output, OutputFile)], 0)
            assert tree(victim) == before


def test_homes_of_accounts(rooms: Layout, victim: Path) -> None:
    before = tree(victim)
    logins, name = Logins(rooms, True, of_logins(70_000)), f"by_{secrets.token_hex(5)}"
    logins.add(NodeUserCreate(name=name, ssh_public_key="first"), 0)
    try:
        uid = pwd.getpwnam(name).pw_uid
        home = Path(rooms.root, "home", name)
        link = plant(home / "link", victim, uid)
        with exchanging(home / ".ssh", link, uid):
            for each in range(-(-RACES // 2)):
                for key in (f"key {each}", None):
                    with contextlib.suppress(OSError, Refused):
                        logins.update(name, NodeUserUpdate(ssh_public_key=key), 0)
                    assert tree(victim) == before
    finally:
        logins.remove_all()
        shutil.rmtree(Path(rooms.root, "home"), ignore_errors=True)
