"""How much of the disk a task's directory takes, and tasks that take more than their size's limit."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.places import usage
from batchyard.agent.places.usage import TooMuch, measure
from batchyard.model.states import ErrorCategory
from batchyard.model.sync import Gang

MIB = 1 << 20
PLENTY = 1 << 40


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_what_is_measured_is_what_the_disk_holds(place: Path) -> None:
    top = place / "task"
    write(top / "wd" / "a" / "b", 3 * MIB)
    before = measure(str(top), PLENTY)
    assert 3 * MIB <= before < 4 * MIB
    os.link(top / "wd" / "a" / "b", top / "again")
    os.truncate(write(top / "sparse", 1), 1 << 35)
    (top / "elsewhere").symlink_to("/")
    (top / "itself").symlink_to(top)
    assert measure(str(top), PLENTY) - before < MIB
    write(place / "outside", 9 * MIB)
    with pytest.raises(TooMuch, match="more than 2,097,152 bytes"):
        measure(str(top), 2 * MIB)


def test_what_cannot_be_measured_within_bounds_is_too_much(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = place / "task"
    deep.mkdir()
    deep.joinpath(*["d"] * (usage.LEVELS - 1)).mkdir(parents=True)
    measure(str(deep), PLENTY)
    deep.joinpath(*["d"] * usage.LEVELS).mkdir()
    with pytest.raises(TooMuch, match="nested deeper than 100 levels"):
        measure(str(deep), PLENTY)
    many = place / "many"
    for number in range(20):
        write(many / str(number), 0)
    measure(str(many), PLENTY)
    monkeypatch.setattr(usage, "FILES", 19)
    with pytest.raises(TooMuch, match="more than 19 files"):
        measure(str(many), PLENTY)


def test_another_file_system_below_is_not_the_tasks(place: Path, small_disk: Any) -> None:
    disk = small_disk(8 * MIB)
    write(disk.path / "there", 4 * MIB)
    assert measure(str(disk.path.parent), PLENTY) < MIB


@pytest.fixture
def endless() -> Iterator[str]:
    """URL of a file that ends when nobody wants more of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 65_536)

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}/file"
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def server(server: Any) -> Any:
    """A server whose nodes hold each task to four MiB."""
    server.setup = {"task_disk_bytes": 4 * MIB}
    return server


async def test_a_task_that_takes_more_than_its_size_allows_ends_with_disk_full(node: Any) -> None:
    node.order("large", "/bin/sh -c 'head -c 9000000 /dev/zero > big; sleep 300'", constraints={"maxTaskRetryCount": 3})
    node.order("small", "/bin/sh -c 'head -c 1000000 /dev/zero > fits; until [ -e go ]; do sleep 0.05; done'")
    ended = await node.end_of("large")
    assert (ended.failure.code, ended.failure.category, ended.stage) == ("DiskFull", ErrorCategory.USER_ERROR, "run")
    assert ended.exit_code is None
    assert ended.started is not None
    assert "4,194,304 bytes" in ended.failure.message
    assert [(pair.name, pair.value) for pair in ended.failure.details] == [("LimitBytes", str(4 * MIB))]
    assert "small" not in node.ends
    del node.wanted["small"]
    node.change()
    assert (await node.end_of("small")).failure.code == "TaskEnded"


async def test_the_command_of_a_multi_instance_task_tells_that_it_took_too_much(node: Any) -> None:
    gang = Gang(number=0, addresses=["127.0.0.1"])
    node.order("1.1.0", "/bin/true", gang=gang)
    await node.until(lambda: any("1.1.0" in sync.ready for sync in node.syncs))
    large = "/bin/sh -c 'head -c 9000000 /dev/zero > big; sleep 300'"
    node.order("1.1", large, gang=Gang(number=0, addresses=["127.0.0.1"], within="1.1.0"))
    ended = await node.end_of("1.1")
    assert (ended.failure.code, ended.stopped) == ("DiskFull", False)
    assert "1.1.0" not in node.ends, "its instance stays until the server ends it"


async def test_what_a_task_writes_to_stdout_counts_too(node: Any) -> None:
    assert (await node.result("talks", "/bin/sh -c 'head -c 9000000 /dev/zero; sleep 300'")).failure.code == "DiskFull"


async def test_resource_files_that_are_too_large_end_a_task_while_they_arrive(node: Any, endless: str) -> None:
    files = [{"httpUrl": endless, "filePath": "big"}]
    ended = await node.result("fetches", "/bin/true", resourceFiles=files)
    assert (ended.failure.code, ended.stage, ended.exit_code) == ("DiskFull", "preprocessing", None)


async def test_without_a_limit_nothing_is_looked_at(server: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.setup = {}
    server.session = 99  # fenced off, the agent joins again and learns that there is no limit
    server.change()
    await server.until(lambda: server.session > 99)
    looks: list[str] = []
    monkeypatch.setattr(usage, "measure", lambda *args: looks.append(args[0]))
    ended = await node.result("large", "/bin/sh -c 'head -c 9000000 /dev/zero > big'")
    assert (ended.exit_code, ended.failure, looks) == (0, None, [])
