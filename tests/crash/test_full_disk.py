"""A server, its log, its storage and its nodes on a disk that is really full, and afterwards."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from tests.conftest import Server, SmallDisk, wait_for

from batchyard.api.wire import auth
from batchyard.api.wire.auth import Signed

MIB = 1 << 20
SECONDS = 20
"""How long any answer may take; a server whose writer is gone gives none."""

MakeDisk = Callable[[int], SmallDisk]


def batchyard(*words: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def ask(server: Server, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a signed request. Raises TimeoutError when no answer comes."""
    content = b"" if body is None else msgspec.json.encode(body)
    query = "api-version=2025-06-01"
    headers = {"ocp-date": formatdate(usegmt=True)}
    if method != "GET":
        headers |= {"content-length": str(len(content)), "content-type": "application/json; odata=minimalmetadata"}
    headers["authorization"] = auth.sign(server.account, server.key, Signed(method, path, query, headers))
    connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=SECONDS)
    try:
        connection.request(method, f"{path}?{query}", content or None, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, msgspec.json.decode(text) if text else {}, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def pool(pool_id: str, nodes: int = 0) -> dict[str, Any]:
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
    machine = {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
    return {"id": pool_id, "vmSize": "STANDARD_D2S_V3", "virtualMachineConfiguration": machine, "targetDedicatedNodes": nodes}


def add_job(server: Server, job_id: str, pool_id: str = "p") -> int:
    return ask(server, "POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}})[0]


@pytest.fixture
def server_on(small_disk: MakeDisk) -> Iterator[Callable[[int], tuple[Server, SmallDisk]]]:
    """Starts a server whose whole directory is on a disk of so many bytes."""
    servers: list[Server] = []

    def start(size: int) -> tuple[Server, SmallDisk]:
        disk = small_disk(size)
        servers.append(Server(nodes=1, below=disk.path))
        return servers[-1], disk

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("size", [48 * MIB, 700 * MIB])
def test_a_full_disk_refuses_what_is_new_and_all_works_once_there_is_room(server_on: Any, size: int) -> None:
    server, disk = server_on(size)
    assert ask(server, "POST", "/pools", pool("p"))[0] == 201
    assert add_job(server, "before") == 201
    disk.fill()
    for n in range(30):
        status, body, headers = ask(server, "POST", "/jobs", {"id": f"full-{n}", "poolInfo": {"poolId": "p"}})
        assert (status, body["code"]) == (503, "ServerBusy")
        assert int(headers["retry-after"]) > 0
    assert ask(server, "GET", "/jobs/before")[0] == 200
    disk.relieve()
    wait_for(lambda: add_job(server, "after") in (201, 409), "the server to take work again", SECONDS)
    assert ask(server, "GET", "/jobs/full-3")[0] == 404, "what was refused is not there"
    down = batchyard("down", "--dir", server.directory)
    assert (down.returncode, "was killed" in down.stdout) == (0, False), down.stdout


def test_a_task_that_fills_the_disk_ends_and_its_removal_makes_room_again(server_on: Any) -> None:
    """Nobody but clients of the service does anything: the reserve lets the end be written down and the job be deleted."""
    server, disk = server_on(700 * MIB)
    assert ask(server, "POST", "/pools", pool("p", nodes=1))[0] == 201
    assert add_job(server, "fills") == 201
    script = "cat /dev/zero > big 2> why; test -s big; exit 7"
    assert ask(server, "POST", "/jobs/fills/tasks", {"id": "t", "commandLine": f"/bin/sh -c '{script}'"})[0] == 201

    def ended() -> dict[str, Any] | None:
        _, task, _ = ask(server, "GET", "/jobs/fills/tasks/t")
        return task if task["state"] == "completed" else None

    assert wait_for(ended, "the end of the task", 90)["executionInfo"]["exitCode"] == 7
    assert disk.free() < 20 * MIB
    assert ask(server, "POST", "/jobs", {"id": "new", "poolInfo": {"poolId": "p"}})[0] == 503
    assert ask(server, "DELETE", "/jobs/fills")[0] == 202
    wait_for(lambda: add_job(server, "new") == 201, "the room that the task took")
    assert ask(server, "POST", "/jobs/new/tasks", {"id": "t", "commandLine": "/bin/true"})[0] == 201
    done = lambda: ask(server, "GET", "/jobs/new/tasks/t")[1]["state"] == "completed"  # noqa: E731
    wait_for(done, "a task to run on the same node", 90)


def test_new_work_is_refused_ahead_of_the_end_and_all_else_goes_on(server_on: Any) -> None:
    server, disk = server_on(64 * MIB)
    assert ask(server, "POST", "/pools", pool("p"))[0] == 201
    assert add_job(server, "j") == 201
    disk.fill(leave=5 * MIB)
    task = {"id": "t", "commandLine": "true"}
    for path, body in (
        ("/pools", pool("q")),
        ("/jobs", {"id": "k", "poolInfo": {"poolId": "p"}}),
        ("/jobs/j/tasks", task),
        ("/jobs/j/addtaskcollection", {"value": [task]}),
    ):
        status, answer, headers = ask(server, "POST", path, body)
        assert (status, answer["code"]) == (503, "ServerBusy"), path
        [reason] = [value["value"] for value in answer["values"] if value["key"] == "Reason"]
        assert "free space" in reason
        assert int(headers["retry-after"]) > 0
    assert ask(server, "PATCH", "/jobs/j", {"priority": 5})[0] == 200
    assert ask(server, "POST", "/jobs/j/disable", {"disableTasks": "requeue"})[0] == 202
    assert ask(server, "DELETE", "/jobs/j")[0] == 202
    wait_for(lambda: ask(server, "GET", "/jobs/j")[0] == 404, "the job to be gone")
    disk.relieve()
    assert add_job(server, "k") == 201


def test_what_the_log_of_the_database_keeps_is_given_up_when_room_is_short(server_on: Any) -> None:
    server, disk = server_on(64 * MIB)
    assert ask(server, "POST", "/pools", pool("p"))[0] == 201
    assert add_job(server, "j") == 201
    log = server.directory / "batchyard.db-wal"
    number = 0
    while log.stat().st_size < 4 * MIB:
        tasks = [{"id": f"{number}-{n}", "commandLine": "x" * 1000} for n in range(100)]
        assert ask(server, "POST", "/jobs/j/addtaskcollection", {"value": tasks})[0] == 200
        number += 1
    wait_for(lambda: (server.directory / "batchyard.db").stat().st_size > MIB, "the checkpoint after which the log is only room")
    disk.fill(leave=6 * MIB)
    assert ask(server, "POST", "/jobs", {"id": "k", "poolInfo": {"poolId": "p"}})[0] == 503
    wait_for(lambda: add_job(server, "k") == 201, "the room of the log")


def test_content_of_blobs_is_refused_ahead_of_the_end_and_taken_again_once_there_is_room(server_on: Any) -> None:
    server, disk = server_on(64 * MIB)
    service = BlobServiceClient.from_connection_string(server.storage_connection_string, retry_total=0)
    box = service.create_container("box")
    box.upload_blob("before", b"b" * 100_000)
    for left in (3 * MIB, 0):
        disk.fill(leave=left)
        for size in (10, 100_000, 3 * MIB):
            with pytest.raises(HttpResponseError) as refused:
                box.upload_blob(f"full-{size}", b"x" * size, connection_timeout=SECONDS, read_timeout=SECONDS)
            assert (refused.value.status_code, refused.value.error_code) == (503, "ServerBusy")
        assert box.download_blob("before").readall() == b"b" * 100_000
    disk.relieve()
    box.upload_blob("after", b"a" * 3 * MIB)
    assert sorted(box.list_blob_names()) == ["after", "before"]


def test_a_task_that_takes_more_than_its_size_allows_ends_with_disk_full(tmp_path: Path) -> None:
    settings = tmp_path / "batchyard.toml"
    settings.write_text("[[sizes]]\nname = 'standard_d2s_v3'\ntask_disk = '4 MiB'\n")
    server = Server("--config", str(settings), nodes=1)
    try:
        assert ask(server, "POST", "/pools", pool("p", nodes=1))[0] == 201
        assert add_job(server, "j") == 201
        task = {
            "id": "t",
            "commandLine": "/bin/sh -c 'head -c 9000000 /dev/zero > big; sleep 300'",
            "constraints": {"maxTaskRetryCount": 2},
        }
        assert ask(server, "POST", "/jobs/j/tasks", task)[0] == 201
        done = wait_for(lambda: found if (found := ask(server, "GET", "/jobs/j/tasks/t")[1])["state"] == "completed" else None, "the end")
        ended = done["executionInfo"]
        assert (ended["result"], ended["retryCount"], "exitCode" in ended) == ("failure", 0, False)
        assert (ended["failureInfo"]["code"], ended["failureInfo"]["category"].lower()) == ("DiskFull", "usererror")
    finally:
        server.stop()


def test_up_on_a_full_disk_says_so_at_once(small_disk: MakeDisk) -> None:
    disk = small_disk(32 * MIB)
    state = disk.path / "state"
    state.mkdir()
    disk.fill(leave=MIB)
    for command in ("up", "serve"):
        done = batchyard(command, "--dir", state, "--port", "0", seconds=SECONDS)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "full disk" in done.stderr
        assert str(state) in done.stderr
    assert not (state / "batchyard.db").exists(), "nothing was begun"
    disk.fill()
    done = batchyard("up", "--dir", disk.path / "other", "--port", "0", seconds=SECONDS)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    disk.relieve()
    try:
        assert batchyard("up", "--dir", state, "--port", "0").returncode == 0
    finally:
        assert batchyard("down", "--dir", state).returncode == 0


def test_down_works_on_a_full_disk(server_on: Any) -> None:
    server, disk = server_on(700 * MIB)
    assert ask(server, "POST", "/pools", pool("p", nodes=1))[0] == 201
    wait_for(server.agents, "the node's agent")
    disk.fill()
    assert ask(server, "POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}})[0] == 503
    down = batchyard("down", "--dir", server.directory)
    assert (down.returncode, "was killed" in down.stdout, down.stderr) == (0, False, "")
    assert server.process.wait(SECONDS) == 0
    assert not server.agents()


def test_an_agent_that_dies_on_a_full_disk_comes_back_once_there_is_room(server_on: Any) -> None:
    server, disk = server_on(700 * MIB)
    assert ask(server, "POST", "/pools", pool("p", nodes=1))[0] == 201
    assert add_job(server, "j") == 201
    assert ask(server, "POST", "/jobs/j/tasks", {"id": "t", "commandLine": "/bin/true"})[0] == 201

    def ended(task: str) -> bool:
        return bool(ask(server, "GET", f"/jobs/j/tasks/{task}")[1]["state"] == "completed")

    wait_for(lambda: ended("t"), "the node to work")
    disk.fill()
    [(node, pid)] = server.agents().items()
    server.kill_agent(node)
    wait_for(lambda: server.agents().get(node) != pid, "the end of the agent")
    disk.relieve()
    wait_for(lambda: ask(server, "POST", "/jobs/j/tasks", {"id": "u", "commandLine": "/bin/true"})[0] == 201, "room for a task")
    wait_for(lambda: ended("u"), "the node to work again", 90)
