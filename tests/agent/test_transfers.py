"""Resource and output files against real servers: the storage endpoint, and a web server that misbehaves on request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from storage_world import Container

from batchyard.agent.places import beneath
from batchyard.agent.places.layout import TaskPlace
from batchyard.agent.settings import AgentSettings
from batchyard.agent.transfer import storage
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.staging import Staging
from batchyard.agent.transfer.stop import Cancelled
from batchyard.agent.transfer.storage import Unreachable
from batchyard.agent.transfer.upload import Upload
from batchyard.model.common import OutputFile, ResourceFile

ALL_PAUSES_S = storage.PAUSES_S
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")


@dataclass
class Web:
    """A web server that answers each path with the next of its statuses; 200 brings the path as content, 1 waits for `go`."""

    url: str = ""
    plan: dict[str, list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    async def until_asked(self) -> None:
        while not self.asked:
            await asyncio.sleep(0.005)


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found.asked.append(path)
            statuses = found.plan.get(path, [200])
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            if status == 0:
                self.close_connection = True
                return
            if status == 1:
                found.go.wait(30)
                status = 200
            self.send_response(status)
            body = path.encode() * 10
            self.send_header("content-length", str(len(body) + (status == 206) * 5))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    found.go.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def task(place: Path) -> TaskPlace:
    (place / "task/wd").mkdir(parents=True)
    (place / "shared").mkdir()
    return TaskPlace("job", "task", str(place / "task"), str(place / "trash"))


Stage = Callable[..., Awaitable[None]]


@pytest.fixture
def stage(task: TaskPlace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(storage, "PAUSES_S", (0.01,))

    async def stage(*files: dict[str, Any], uid: int = -1) -> None:
        await Staging(task.working, uid, threads).all(msgspec.convert(list(files), list[ResourceFile]))

    return stage


def details(failed: Failed) -> str:
    return msgspec.json.encode(failed.info).decode()


async def test_a_url_becomes_a_file_with_its_mode(stage: Stage, web: Web, task: TaskPlace) -> None:
    await stage({"httpUrl": web.url + "/a", "filePath": "in/deep/a.txt"}, {"httpUrl": web.url + "/b", "filePath": "b", "fileMode": "0640"})
    a, b = Path(task.working, "in/deep/a.txt"), Path(task.working, "b")
    assert a.read_bytes() == b"/a" * 10
    assert (a.stat().st_mode & 0o7777, b.stat().st_mode & 0o7777) == (0o770, 0o640)
    assert sorted(os.listdir(task.working)) == ["b", "in"]


async def test_a_later_download_replaces_the_earlier(stage: Stage, web: Web, task: TaskPlace) -> None:
    await stage({"httpUrl": web.url + "/a", "filePath": "a"})
    await stage({"httpUrl": web.url + "/b", "filePath": "a"})
    assert Path(task.working, "a").read_bytes() == b"/b" * 10


@needs_root
async def test_files_and_directories_belong_to_the_tasks_user(stage: Stage, web: Web, task: TaskPlace) -> None:
    os.chown(task.working, 70555, 70555)
    await stage({"httpUrl": web.url + "/a", "filePath": "in/a"}, uid=70555)
    assert {Path(task.working, name).stat().st_uid for name in ("in", "in/a")} == {70555}


@pytest.mark.parametrize(
    ("status", "code", "category"),
    [
        (404, "BlobNotFound", "usererror"),
        (403, "BlobAccessDenied", "usererror"),
        (401, "BlobAccessDenied", "usererror"),
        (400, "BlobDownloadMiscError", "usererror"),
        (500, "BlobDownloadMiscError", "servererror"),
        (0, "BlobDownloadMiscError", "servererror"),
    ],
)
async def test_failures_have_their_codes_and_never_show_a_signature(
    stage: Stage, web: Web, status: int, code: str, category: str, task: TaskPlace
) -> None:
    web.plan["/a"] = [status]
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": web.url + "/a?sig=SECRET", "filePath": "a"})
    assert (caught.value.stage, caught.value.info.code, caught.value.info.category) == ("preprocessing", code, category)
    assert "SECRET" not in details(caught.value)
    assert f"{web.url}/a" in details(caught.value)
    assert os.listdir(task.working) == []
    assert len(web.asked) == (2 if status in (0, 500) else 1)


async def test_passing_errors_are_tried_again(stage: Stage, web: Web, task: TaskPlace) -> None:
    web.plan["/a"] = [503, 200]
    await stage({"httpUrl": web.url + "/a", "filePath": "a"})
    assert Path(task.working, "a").exists()


async def test_a_server_that_is_started_anew_fails_no_task(
    stage: Stage, send: Send, web: Web, task: TaskPlace, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 25 <= sum(ALL_PAUSES_S) <= 30
    monkeypatch.setattr(storage, "PAUSES_S", (0.01,) * len(ALL_PAUSES_S))
    away = [503, 0] * 4 + [500]
    web.plan["/a"] = [*away, 200]
    await stage({"httpUrl": web.url + "/a", "filePath": "a"})
    assert len(web.asked) == 10
    for name in ("write_blob", "page", "ask"):
        monkeypatch.setattr(storage, name, failing(getattr(storage, name), list(away)))
    await send("a")
    await stage({"storageContainerUrl": container.sas("rl"), "filePath": "again"})
    assert Path(task.working, "again/a").read_bytes() == b"/a" * 10


def failing(call: Callable[..., Any], statuses: list[int]) -> Callable[..., Any]:
    def fail(*arguments: Any) -> Any:
        if statuses:
            raise Unreachable(statuses.pop(), "away")
        return call(*arguments)

    return fail


async def test_a_download_that_hangs_is_given_up_and_writes_nothing_later(web: Web, task: TaskPlace) -> None:
    web.plan["/a"] = [1]
    threads = ThreadPoolExecutor(2)
    staging = Staging(task.working, -1, threads)
    file = ResourceFile(http_url=web.url + "/a", file_path="in/a")
    work = asyncio.create_task(staging.all([file]))
    await web.until_asked()
    staging.stop.set()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    web.go.set()
    await asyncio.to_thread(threads.shutdown)
    assert [path.name for path in Path(task.working).rglob("*")] == ["in"]


async def test_a_download_that_fails_stops_the_others(web: Web, task: TaskPlace) -> None:
    web.plan |= {"/slow": [1], "/wrong": [404]}
    threads = ThreadPoolExecutor(2)
    staging = Staging(task.working, -1, threads)
    files = [ResourceFile(http_url=f"{web.url}/{name}", file_path=name) for name in ("slow", "wrong")]
    with pytest.raises(Failed, match="does not exist"):
        await staging.all(files)
    web.go.set()
    await asyncio.to_thread(threads.shutdown)
    assert [path.name for path in Path(task.working).rglob("*")] == []


def test_a_kill_behind_the_last_piece_still_keeps_the_file_out(
    task: TaskPlace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging(task.working, -1, threads)

    def pieces() -> Iterator[bytes]:
        yield b"all"
        staging.stop.set()

    @contextlib.contextmanager
    def ask(*_: object) -> Iterator[storage.Heard]:
        yield storage.Heard(200, {}, pieces())

    monkeypatch.setattr(storage, "ask", ask)
    with staging._opened(), pytest.raises(Cancelled):
        staging._write("http://127.0.0.1/a", "a", 0o600, "a")
    assert os.listdir(task.working) == []


async def test_a_kill_does_not_wait_for_a_transfer(node: Any, web: Web, place: Path) -> None:
    web.plan["/a"] = [1]
    node.order("task.1", "true", resourceFiles=[{"httpUrl": web.url + "/a", "filePath": "a"}])
    await web.until_asked()
    del node.wanted["task.1"]
    node.change()
    async with asyncio.timeout(10):  # the server holds the answer for longer
        assert (await node.end_of("task.1")).failure.code == "TaskEnded"
        assert (await node.result("task.2", "true")).exit_code == 0
    assert not web.go.is_set()


async def test_sigterm_does_not_wait_for_a_transfer(server: Any, settings: AgentSettings, web: Web) -> None:
    web.plan["/a"] = [1]
    command = [sys.executable, "-m", "batchyard.agent.main", "--server", server.url]
    command += ["--root", str(settings.root), "--token-file", str(settings.token_file)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    server.order("task", "true", resourceFiles=[{"httpUrl": web.url + "/a", "filePath": "a"}])
    await web.until_asked()
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, b"agent stopped" in log) == (0, True)


async def test_nobody_listening_and_silence(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(storage, "web", lambda: httpx.Client(timeout=0.05))
        with pytest.raises(Failed) as caught:
            await stage({"httpUrl": f"http://127.0.0.1:{port}/", "filePath": "a"})
    assert caught.value.info.code == "BlobDownloadTimedOut"
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": f"http://127.0.0.1:{port}/", "filePath": "a"})
    assert caught.value.info.code == "BlobDownloadMiscError"


@pytest.mark.parametrize("path", ["../a", "/tmp/a", "a/../../b", "", ".", "a/.."])
async def test_paths_cannot_leave_the_working_directory(stage: Stage, web: Web, task: TaskPlace, path: str) -> None:
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": web.url + "/a", "filePath": path})
    assert (caught.value.info.code, caught.value.info.category) == ("ResourceFileCreateFailed", "usererror")
    assert web.asked == []


async def test_planted_links_are_not_followed(stage: Stage, web: Web, task: TaskPlace, place: Path) -> None:
    (place / "outside").mkdir()
    (place / "victim").write_text("untouched")
    Path(task.working, "link").symlink_to(place / "outside")
    Path(task.working, "file").symlink_to(place / "victim")
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": web.url + "/a", "filePath": "link/a"})
    assert caught.value.info.code == "ResourceDirectoryCreateFailed"
    await stage({"httpUrl": web.url + "/a", "filePath": "file"})
    assert (place / "victim").read_text() == "untouched"
    assert list((place / "outside").iterdir()) == []


async def test_a_full_disk_and_a_wrong_mode(stage: Stage, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": web.url + "/a", "filePath": "a", "fileMode": "rwx"})
    assert caught.value.info.code == "ResourceFileCreateFailed"

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": web.url + "/a", "filePath": "a"})
    assert caught.value.info.code == "DiskFull"


async def test_a_killed_attempt_fetches_nothing_more(task: TaskPlace, threads: ThreadPoolExecutor, web: Web) -> None:
    staging = Staging(task.working, -1, threads)
    staging.stop.set()
    with pytest.raises(Cancelled):
        await staging.all([ResourceFile(http_url=web.url, file_path="a")])
    assert web.asked == []


async def test_a_container_comes_with_its_directories(stage: Stage, container: Container, task: TaskPlace) -> None:
    names = ["a/1.txt", "a/b/2.txt", "top.txt", *(f"many/{n}" for n in range(30))]
    for name in names:
        container.client.upload_blob(name, name.encode())
    await stage(
        {"storageContainerUrl": container.sas("rl"), "filePath": "in", "blobPrefix": "a/"}, {"storageContainerUrl": container.sas("rl")}
    )
    found = {str(path.relative_to(task.working)): path.read_text() for path in Path(task.working).rglob("*") if path.is_file()}
    assert found == {name: name for name in names} | {f"in/{name}": name for name in names[:2]}


@pytest.mark.parametrize(("permissions", "name", "code"), [("w", "data", "BlobAccessDenied"), ("rl", "missing", "BlobNotFound")])
async def test_containers_that_cannot_be_read(stage: Stage, container: Container, permissions: str, name: str, code: str) -> None:
    with pytest.raises(Failed) as caught:
        await stage({"storageContainerUrl": container.sas(permissions, name)})
    assert caught.value.info.code == code
    assert "sig=" not in details(caught.value)


async def test_the_linked_storage_is_not_known_here(stage: Stage) -> None:
    with pytest.raises(Failed) as caught:
        await stage({"autoStorageContainerName": "data"})
    assert caught.value.info.code == "BlobDownloadMiscError"


Send = Callable[..., Awaitable[None]]


@pytest.fixture
def send(task: TaskPlace, threads: ThreadPoolExecutor, container: Container, place: Path) -> Send:
    async def send(pattern: str, exit_code: int = 0, *, url: str = "", when: str = "taskcompletion", uid: int = -1, **target: Any) -> None:
        destination = {"container": {"containerUrl": url or container.sas("w")} | target}
        file = {"filePattern": pattern, "destination": destination, "uploadOptions": {"uploadCondition": when}}
        variables = {"AZ_BATCH_TASK_DIR": task.directory, "SHARED": str(place / "shared")}
        upload = Upload(task, uid, variables, threads)
        await upload.all([msgspec.convert(file, OutputFile)], exit_code)

    return send


def fill(task: TaskPlace, *names: str) -> None:
    for name in names:
        path = Path(task.working, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.txt", None, ["a.txt"]),
        ("a.txt", "named", ["named"]),
        ("out/b.txt", None, ["b.txt"]),
        ("*.txt", None, ["a.txt"]),
        ("*.txt", "in", ["in/a.txt"]),
        ("out/*", "in/", ["in/b.txt"]),
        ("**/*.txt", None, ["a.txt", "out/b.txt", "out/x/c.txt"]),
        ("out/**/*.txt", "r", ["r/b.txt", "r/x/c.txt"]),
        ("out/**", "r", ["r/b.txt", "r/x/c.txt"]),
        ("../std*.txt", None, ["stderr.txt", "stdout.txt"]),
        ("$AZ_BATCH_TASK_DIR/stdout.txt", "log", ["log"]),
        ("${AZ_BATCH_TASK_DIR}/wd/?.txt", None, ["a.txt"]),
        ("%SHARED%/s*", None, ["s"]),
        ("[a-c].txt", None, ["a.txt"]),
        ("[!b-z].txt", None, ["a.txt"]),
        ("*/../../*", None, None),
        ("*", None, ["a.txt"]),
        (".*", None, [".hidden"]),
        ("nothing*", None, []),
        ("out", None, []),
    ],
)
async def test_patterns(
    send: Send, task: TaskPlace, place: Path, container: Container, pattern: str, path: str | None, expected: list[str] | None
) -> None:
    fill(task, "a.txt", "out/b.txt", "out/x/c.txt", ".hidden", "out/.hidden/d.txt", "../stdout.txt", "../stderr.txt")
    (place / "shared/s").write_text("")
    with contextlib.nullcontext() if expected is not None else pytest.raises(Failed):
        await send(pattern, path=path)
    assert container.names() == (expected or [])
    if not expected:
        assert pattern in Path(task.directory, "fileuploaderr.txt").read_text()
    assert "sig=" not in Path(task.directory, "fileuploadout.txt").read_text() + Path(task.directory, "fileuploaderr.txt").read_text()


@pytest.mark.parametrize("when", ["tasksuccess", "taskfailure", "taskcompletion"])
@pytest.mark.parametrize("exit_code", [0, 3])
async def test_conditions(send: Send, task: TaskPlace, container: Container, when: str, exit_code: int) -> None:
    fill(task, "a")
    await send("a", exit_code, when=when)
    due = when == "taskcompletion" or (when == "tasksuccess") == (exit_code == 0)
    assert container.names() == ["a"] * due


async def test_headers_and_large_files(send: Send, task: TaskPlace, container: Container) -> None:
    data = os.urandom((9 << 20) + 1)
    Path(task.working, "big").write_bytes(data)
    headers = [{"name": "Content-Type", "value": "text/x"}, {"name": "x-ms-meta-a", "value": "b"}]
    await send("big", uploadHeaders=headers)
    assert container.read("big") == data
    properties = container.client.get_blob_client("big").get_blob_properties()
    assert (properties.content_settings.content_type, properties.metadata) == ("text/x", {"a": "b"})
    await send("big", path="again")
    fill(task, "big")
    await send("big")
    assert container.read("big") == b"big"


@pytest.mark.parametrize(
    ("permissions", "name", "code"), [("r", "data", "FileUploadAccessDenied"), ("w", "missing", "FileUploadContainerNotFound")]
)
async def test_upload_failures(send: Send, task: TaskPlace, container: Container, permissions: str, name: str, code: str) -> None:
    fill(task, "a")
    with pytest.raises(Failed) as caught:
        await send("a", url=container.sas(permissions, name))
    assert (caught.value.stage, caught.value.info.code) == ("upload", code)
    assert "sig=" not in details(caught.value)
    assert "a -> " in Path(task.directory, "fileuploaderr.txt").read_text()


async def test_a_planted_link_in_the_place_of_the_log_is_replaced(send: Send, task: TaskPlace, place: Path) -> None:
    (place / "victim").write_text("untouched")
    Path(task.directory, "fileuploadout.txt").symlink_to(place / "victim")
    fill(task, "a")
    await send("a")
    assert (place / "victim").read_text() == "untouched"
    assert "a -> " in Path(task.directory, "fileuploadout.txt").read_text()


@pytest.mark.parametrize("path", ["..", "a/../b", "/a", "a\0b"])
def test_parts_refuse_what_leaves(path: str) -> None:
    with pytest.raises(beneath.Outside):
        beneath.parts(path)


async def test_resource_and_output_files_of_a_whole_attempt(node: Any, container: Container, web: Web) -> None:
    target = {"container": {"containerUrl": container.sas("w"), "path": "result"}}
    output = {"filePattern": "copy", "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
    end = await node.result("task", "cp in/a copy", resourceFiles=[{"httpUrl": web.url + "/x", "filePath": "in/a"}], outputFiles=[output])
    assert (end.exit_code, end.failure) == (0, None)
    assert container.read("result") == b"/x" * 10
    web.plan["/no"] = [404]
    end = await node.result("missing", "true", resourceFiles=[{"httpUrl": web.url + "/no", "filePath": "a"}])
    assert (end.stage, end.exit_code, end.failure.code) == ("preprocessing", None, "BlobNotFound")
    output["destination"] = {"container": {"containerUrl": container.sas("w", "missing")}}
    for command, retries, code, stage in (
        ("touch copy", 0, "FileUploadContainerNotFound", "upload"),
        ("sh -c 'touch copy; exit 3'", 0, "FileUploadContainerNotFound", "upload"),
        ("sh -c 'touch copy; exit 3'", 2, "FailureExitCode", "run"),
    ):
        name = f"upload{retries}{command[0]}"
        end = await node.result(name, command, outputFiles=[output], constraints={"maxTaskRetryCount": retries})
        assert (end.failure.code, end.stage, end.exit_code) == (code, stage, 3 * ("3" in command))
