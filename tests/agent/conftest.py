"""A server that speaks sync in memory, real directories that every user can enter, and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
import uvicorn
from azure.storage.blob import BlobServiceClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).parent))

from lines import Site, Wire, serving, wire_to
from storage_world import KEY, Container

from batchyard.agent.main import run
from batchyard.agent.process import control, spawner
from batchyard.agent.settings import AgentSettings
from batchyard.blobs.edge.server import application
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.model.sync import Ended, FileEntry, FileHead, FileRequest, Gang, NodeFacts, NodeSetup, Order, Orders, Removal, Sync, gone

TOKEN = "token of the node"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="batchyard-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["cgroup2", "freezer", "session"])
def any_control(request: pytest.FixtureRequest, place: Path) -> tuple[str, str, str]:
    """Every way of ending everything that works on this machine."""
    found = control.probe(place.name, request.param)
    if found[0] != request.param:
        pytest.skip(f"this machine does not let the tests use {request.param}")
    return found


def is_alive(pid: int) -> bool:
    """True unless the process is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@dataclass
class Pipe:
    """A named pipe that every user may write to."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    async def line(self) -> str:
        """The next line that a process wrote."""
        fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)  # for writing as well, so that there is never an end of file
        loop = asyncio.get_running_loop()
        try:
            text = b""
            async with asyncio.timeout(20):
                while not text.endswith(b"\n"):
                    ready = asyncio.Event()
                    loop.add_reader(fd, ready.set)
                    await ready.wait()
                    loop.remove_reader(fd)
                    text += os.read(fd, 4096)
            return text.decode().strip()
        finally:
            loop.remove_reader(fd)
            os.close(fd)


@pytest.fixture
def pipe(place: Path) -> Pipe:
    """A named pipe."""
    os.mkfifo(place / "pipe")
    os.chmod(place / "pipe", 0o666)
    return Pipe(place / "pipe")


LATER = """
import runpy, time

real = time.monotonic
time.monotonic = lambda: real() + float(open("{ahead}").read())
runpy.run_path("{script}", run_name="__main__")
"""


@pytest.fixture
def spawners_later(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of all spawners so many seconds ahead of the real one; they look at it when they are next spoken to."""
    ahead, script = place / "ahead", place / "later.py"

    def move(seconds: float) -> None:
        (place / "ahead.new").write_text(str(seconds))
        (place / "ahead.new").rename(ahead)

    script.write_text(LATER.format(ahead=ahead, script=spawner.__file__))
    monkeypatch.setattr(spawner, "__file__", str(script))
    move(0)
    return move


@dataclass
class FakeServer:
    """Says what a test wants it to; keeps what it was told. Long polls wait for `changed`."""

    port: int = 0
    session: int = 0
    wanted: dict[str, Order] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, Ended] = field(default_factory=dict)
    told: list[Ended] = field(default_factory=list)
    """Every report, repeated ones too."""
    facts: NodeFacts | None = None
    syncs: list[Sync] = field(default_factory=list)
    requests: list[FileRequest] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    answers: dict[str, tuple[FileHead, bytes]] = field(default_factory=dict)
    fail: list[int] = field(default_factory=list)
    """Statuses that the next syncs get; 0 breaks the connection, after the sync was taken in."""
    gone: bool = False
    """The node is gone: every sync is refused, as a poll that an agent has let go of may be the first one."""
    notice_s: float | None = None
    noticed: bool = False
    """True once an agent was told of the notice."""
    newest: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def change(self) -> None:
        """Wake everything that waits."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait until a condition holds; its value."""
        async with asyncio.timeout(20):
            while not (value := what()):
                await self.changed.wait()
        return value

    def order(self, attempt: str, command: str, *, job: str = "job", start: bool = False, gang: Gang | None = None, **members: Any) -> None:
        """Want an attempt; the task's id is the attempt's name up to a dot, a start task has none and no job."""
        environment = members.pop("environment", None)
        named = {} if start else {"id": attempt.partition(".")[0]}
        task = msgspec.Raw(json.dumps({**named, "commandLine": command, **members}).encode())
        common = None if environment is None else msgspec.Raw(json.dumps(environment).encode())
        members = {} if common is None else {"environment": common}
        self.wanted[attempt] = Order(attempt=attempt, job_id="" if start else job, task=task, start=start, gang=gang, **members)
        self.change()

    async def end_of(self, attempt: str) -> Ended:
        """How an attempt ended, once that was told."""
        found: Ended = await self.until(lambda: self.ends.get(attempt))
        return found

    async def result(self, attempt: str, command: str, **members: Any) -> Ended:
        """Order an attempt and wait for its end."""
        self.order(attempt, command, **members)
        return await self.end_of(attempt)

    async def file(self, operation: str, path: str, **members: Any) -> tuple[FileHead, bytes]:
        """Ask for a file operation and wait for the answer."""
        request = FileRequest(id=f"f{len(self.answers)}", operation=operation, base=members.pop("base", ""), path=path, **members)  # type: ignore[arg-type]
        self.requests.append(request)
        self.change()
        found: tuple[FileHead, bytes] = await self.until(lambda: self.answers.get(request.id))
        return found

    async def sync(self, request: Request) -> Response:
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return Response(status_code=403)
        said = msgspec.json.decode(await request.body(), type=Sync)
        if self.gone:
            return Response(gone(TOKEN), status_code=403)
        if self.fail and self.fail[0] != 0:
            self.change()
            return Response(status_code=self.fail.pop(0))
        self.syncs.append(said)
        answer = Orders(session=said.session, number=said.number)
        if said.session == 0:
            self.session += 1
            self.facts = said.facts
            answer.session = self.session
            members: dict[str, Any] = {"account_url": self.url, "slots": 4} | self.setup
            answer.setup = NodeSetup(pool_id="pool", node_id="node", is_dedicated=True, account_name="account", **members)
        elif said.session != self.session:
            answer.fenced = True
            return Response(msgspec.json.encode(answer))
        self.newest = said.number
        self.take(said)
        if self.fail:
            self.fail.pop(0)
            self.change()
            raise ConnectionError("broken off")  # uvicorn closes the connection without an answer
        return await self.answer(said, answer)

    def take(self, said: Sync) -> None:
        """Take in what an agent tells."""
        for end in said.ended:
            self.told.append(end)
            if self.wanted.pop(end.attempt, None) is not None or end.attempt not in self.ends:
                self.ends[end.attempt] = end
        self.removals = [removal for removal in self.removals if removal.number not in said.removed]
        self.change()

    async def answer(self, said: Sync, answer: Orders) -> Response:
        """Answer at once when there is news, else when something changes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(said.wait_s):
                while not (said.ended or answer.setup or self.news(said)):
                    changed = self.changed
                    await changed.wait()
                    if self.newest != said.number:
                        return Response(status_code=204)
                    if said.session not in (0, self.session):
                        answer.fenced = True
                        return Response(msgspec.json.encode(answer))
        answer.wanted = list(self.wanted)
        answer.orders = [order for name, order in self.wanted.items() if name not in said.has]
        answer.files, self.requests = self.requests, []
        answer.removals = self.removals
        answer.notice_s, self.noticed = self.notice_s, self.notice_s is not None
        return Response(msgspec.json.encode(answer))

    def news(self, said: Sync) -> bool:
        return (
            bool(set(self.wanted) ^ set(said.has))
            or bool(self.requests or self.removals)
            or (self.notice_s is not None and not self.noticed)
        )

    async def file_answer(self, request: Request) -> Response:
        head = msgspec.json.decode(unquote(request.headers["x-batchyard-file"]).encode(), type=FileHead)
        self.answers[request.path_params["id"]] = (head, await request.body())
        self.change()
        return Response(status_code=204)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A running FakeServer."""
    fake = FakeServer()
    routes = [
        Route("/agent/sync", fake.sync, methods=["POST"]),
        Route("/agent/files/{id}", fake.file_answer, methods=["POST"]),
        Route("/agent/file", lambda request: Response("content")),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    fake.port = listener.getsockname()[1]
    config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    web = uvicorn.Server(config)
    web.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(web.serve([listener]))
    yield fake
    web.should_exit = True
    fake.session = -1
    fake.change()
    await task
    listener.close()


@pytest.fixture
def settings(server: FakeServer, place: Path) -> AgentSettings:
    """Settings of an agent of this server."""
    (place / "token").write_text(TOKEN)
    return AgentSettings(server=server.url, root=str(place / "root"), token_file=str(place / "token"), wait_s=15, uid_base=uid_base())


def uid_base() -> int:
    """A block of uids for each process that runs tests."""
    return 1_500_000_000 + 1_000 * (os.getpid() % 100_000)


@pytest.fixture
async def node(server: FakeServer, settings: AgentSettings) -> AsyncIterator[FakeServer]:
    """The server with an agent that has joined."""
    agent = asyncio.create_task(run(settings))
    await server.until(lambda: server.session)
    yield server
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent


@pytest.fixture
def entries() -> Callable[[bytes], list[FileEntry]]:
    """Reads the body of a list."""
    return lambda body: msgspec.json.decode(body, type=list[FileEntry])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = LocalBlobStore(tmp_path_factory.mktemp("blobs"))
    listener = socket.create_server(("127.0.0.1", 0))
    app = application(store, {"account": [KEY]}, lambda: datetime.now(UTC))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/account"
    server.should_exit = True
    thread.join()
    listener.close()
    store.close()


@pytest.fixture
def container(endpoint: str) -> Iterator[Container]:
    client = BlobServiceClient(endpoint, credential={"account_name": "account", "account_key": KEY}, retry_total=0)
    found = client.create_container("data")
    yield Container(found, endpoint)
    client.delete_container("data")


@pytest.fixture
def wire(endpoint: str) -> Iterator[Wire]:
    """A wire before the storage endpoint."""
    with wire_to(endpoint) as made:
        yield made


@pytest.fixture
def site() -> Iterator[Site]:
    """A web server with one file."""
    with serving() as made:
        yield made
