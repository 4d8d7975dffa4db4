"""Small outputs of attempts that end at about the same time go together, and nobody's depends on anybody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import uvicorn
from azure.storage.blob import BlobServiceClient
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from storage_world import KEY, Container

from batchyard.agent.places import layout
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.users import User
from batchyard.agent.transfer import company, small
from batchyard.agent.transfer.company import Company
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.stop import Cancelled
from batchyard.agent.transfer.upload import Upload
from batchyard.blobs.edge.server import application
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.model.common import OutputFile
from batchyard.model.together import HEADER


@dataclass
class Storage:
    """A storage endpoint that notes what is written by whom, and may be held up."""

    url: str = ""
    seen: list[str] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    older: bool = False
    """It says that it takes several at once, and does not."""
    silent: bool = False
    """It does not say so."""

    def of(self, store: LocalBlobStore) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        inner = application(store, {"account": [KEY]}, lambda: datetime.now(UTC))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] in ("PUT", "POST") and b"restype=container&sig" not in scope["query_string"]:
                self.seen.append(scope["method"])
                await asyncio.to_thread(self.open.wait)
            if self.older and scope["method"] == "POST":
                await Response(status_code=400)(scope, receive, send)
                return

            async def said(message: dict[str, object]) -> None:
                if self.silent and message["type"] == "http.response.start":
                    message["headers"] = [one for one in message["headers"] if one[0] != HEADER.encode()]  # type: ignore[attr-defined]
                await send(message)

            await inner(scope, receive, said)  # type: ignore[arg-type]

        return app


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    store = LocalBlobStore(tmp_path / "blobs")
    listener = socket.create_server(("127.0.0.1", 0))
    found = Storage(f"http://127.0.0.1:{listener.getsockname()[1]}/account")
    found.open.set()
    server = uvicorn.Server(uvicorn.Config(found.of(store), log_level="critical", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield found
    found.open.set()
    server.should_exit = True
    thread.join()
    listener.close()
    store.close()


@pytest.fixture
def container(storage: Storage) -> Container:
    client = BlobServiceClient(storage.url, credential={"account_name": "account", "account_key": KEY}, retry_total=0)
    found = Container(client.create_container("data"), storage.url)
    storage.seen.clear()
    return found


@dataclass
class Node:
    """Attempts of one node."""

    rooms: Layout
    threads: ThreadPoolExecutor
    container: Container
    company: Company = field(init=False)

    def __post_init__(self) -> None:
        self.company = Company(self.threads)

    def place(self, task: str, *files: str, content: str = "") -> TaskPlace:
        found = self.rooms.task("job", task)
        if not Path(found.working).exists():
            layout.open_to(found, User(-1, "user"))
        for name in files:
            Path(found.working, name).write_text(content or task)
        return found

    def upload(self, task: str) -> Upload:
        return Upload(self.place(task), -1, {}, self.threads, company=self.company)

    async def send(self, task: str, pattern: str = "out", *, upload: Upload | None = None, url: str = "") -> None:
        """Upload as `TASK/…`."""
        target = {"container": {"containerUrl": url or self.container.sas("cw"), "path": f"{task}/" if "*" in pattern else f"{task}/out"}}
        file = {"filePattern": pattern, "destination": target, "uploadOptions": {"uploadCondition": "taskcompletion"}}
        await (upload or self.upload(task)).all([msgspec.convert(file, OutputFile)], 0)


@pytest.fixture
async def node(place: Path, container: Container) -> AsyncIterator[Node]:
    rooms = Layout(str(place / "root"))
    rooms.make()
    with ThreadPoolExecutor(4) as threads:
        yield Node(rooms, threads, container)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "_PATIENCE_S", 3_600)


async def begun(storage: Storage, count: int) -> None:
    """The storage has heard of so many requests."""
    async with asyncio.timeout(60):
        while len(storage.seen) < count:
            await asyncio.sleep(0.001)


async def behind_one(node: Node, storage: Storage, *others: Awaitable[None]) -> list[BaseException | None]:
    """Upload one, which is held up until the others wait behind it; how these went."""
    node.place("first", "out")
    storage.open.clear()
    first = asyncio.create_task(node.send("first"))
    await begun(storage, 1)
    waiting = [asyncio.ensure_future(other) for other in others]
    for _ in range(5):
        await asyncio.sleep(0)
    storage.open.set()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)  # type: ignore[return-value]


async def test_who_is_alone_goes_alone_and_who_comes_meanwhile_goes_in_one_request(
    node: Node, storage: Storage, container: Container, patient: None
) -> None:
    tasks = [f"t{number}" for number in range(12)]
    for task in tasks:
        node.place(task, "out")
    assert await behind_one(node, storage, *(node.send(task) for task in tasks)) == [None] * 12
    assert storage.seen == ["PUT", "POST"]
    assert {name: container.read(name) for name in container.names()} == {f"{task}/out": task.encode() for task in (*tasks, "first")}
    for task in tasks:
        assert f"/out -> {container.url}/data/{task}/out\n" in Path(node.place(task).directory, "fileuploadout.txt").read_text()


async def test_one_that_is_refused_touches_no_other(node: Node, storage: Storage, container: Container, patient: None) -> None:
    for task in ("a", "b", "c", "d", "e"):
        node.place(task, "out")
    went = await behind_one(
        node,
        storage,
        node.send("a"),
        node.send("b", url=container.sas("r")),
        node.send("c", "nothing"),
        node.send("d", url=container.sas("cw", "missing")),
        node.send("e"),
    )
    assert [getattr(getattr(one, "info", one), "code", one) for one in went] == [
        None,
        "FileUploadAccessDenied",
        None,
        "FileUploadContainerNotFound",
        None,
    ]
    assert container.names() == ["a/out", "e/out", "first/out"]


async def test_the_first_of_a_request_may_not_write_and_the_others_may(
    node: Node, storage: Storage, container: Container, patient: None
) -> None:
    for task in ("a", "b", "c"):
        node.place(task, "out")
    refused, *rest = await behind_one(node, storage, node.send("a", url=container.sas("r")), node.send("b"), node.send("c"))
    assert isinstance(refused, Failed)
    assert refused.info.code == "FileUploadAccessDenied"
    assert rest == [None, None]
    assert container.names() == ["b/out", "c/out", "first/out"]


async def test_one_that_is_killed_meanwhile_sends_nothing(node: Node, storage: Storage, container: Container, patient: None) -> None:
    for task in ("a", "b", "c"):
        node.place(task, "out")
    killed = node.upload("b")
    killed.stop.set()
    went = await behind_one(node, storage, node.send("a"), node.send("b", upload=killed), node.send("c"))
    assert went[::2] == [None, None]
    assert isinstance(went[1], Cancelled)
    assert container.names() == ["a/out", "c/out", "first/out"]


async def test_a_slow_storage_holds_nobody_up_for_long(
    node: Node, storage: Storage, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(company, "_PATIENCE_S", 0)
    node.place("slow", "out")
    node.place("quick", "out")
    storage.open.clear()
    slow = asyncio.create_task(node.send("slow"))
    await begun(storage, 1)
    quick = asyncio.create_task(node.send("quick"))
    await begun(storage, 2)
    assert not slow.done()
    storage.open.set()
    await asyncio.gather(slow, quick)
    assert container.names() == ["quick/out", "slow/out"]


@pytest.mark.parametrize("kind", ["older", "silent"])
async def test_a_storage_that_takes_one_at_a_time_gets_them_so(
    node: Node, storage: Storage, container: Container, patient: None, kind: str
) -> None:
    setattr(storage, kind, True)
    tasks = [f"t{number}" for number in range(4)]
    for task in tasks:
        node.place(task, "out")
    assert await behind_one(node, storage, *(node.send(task) for task in tasks)) == [None] * 4
    assert storage.seen == ["PUT", *["POST"] * (kind == "older"), *["PUT"] * 4]
    assert container.names() == ["first/out", *(f"{task}/out" for task in tasks)]


async def test_many_small_files_of_one_attempt_go_some_at_a_time(node: Node, storage: Storage, container: Container) -> None:
    names = [f"f{number:03}" for number in range(100)]
    node.place("many", *names)
    await node.send("many", "f*")
    assert container.names() == [f"many/{name}" for name in names]
    assert len(storage.seen) <= 6
    assert Path(node.place("many").directory, "fileuploadout.txt").read_text().count(" -> ") == 100


async def test_what_is_larger_goes_alone(node: Node, storage: Storage, container: Container) -> None:
    node.place("t", "a", "b", content="x")
    node.place("t", "c", content="y" * (small.LARGEST + 1))
    node.place("t", "d", content="z" * (small.MOST_ALONE + 1))
    await node.send("t", "*")
    assert [len(container.read(f"t/{name}")) for name in "abcd"] == [1, 1, small.LARGEST + 1, small.MOST_ALONE + 1]


async def test_a_file_that_may_not_be_read_is_said_though_others_go_together(node: Node, storage: Storage, container: Container) -> None:
    place = node.place("t", "a", "b")
    Path(place.working, "c").symlink_to("nowhere")
    await node.send("t", "*")
    assert container.names() == ["t/a", "t/b"]
    assert "c is a link that leads nowhere" in Path(place.directory, "fileuploaderr.txt").read_text()
