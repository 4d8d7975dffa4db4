"""A server through the command line, from nothing to nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import ResourceExistsError
from tests.conftest import wait_for

from batchyard.cli import daemon, processes


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose server is ended whatever happens."""
    yield tmp_path / "state"
    daemon.stop(tmp_path / "state")


def up(directory: Path, *more: str) -> daemon.Server:
    done = batchyard("up", "--dir", directory, "--port", "0", *more)
    assert done.returncode == 0, done.stderr
    server = daemon.running(directory)
    assert server is not None
    assert server.url in done.stdout
    assert f'eval "$(batchyard env --dir {directory})"' in done.stdout
    return server


def test_up_env_status_down(directory: Path) -> None:
    server = up(directory)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
    assert f"export AZURE_BATCH_ENDPOINT={server.url}" in batchyard("env", "--dir", directory).stdout
    assert "0 pools, 0 nodes, 0 open jobs" in batchyard("status", "--dir", directory).stdout
    for name in ("account.json", "server.json", "server.log", "batchyard.db", "batchyard.db-wal", "batchyard.db-shm"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name

    second = batchyard("up", "--dir", directory, "--port", "0")
    assert second.returncode == 1
    assert f"already runs at {server.url}" in second.stderr

    assert batchyard("down", "--dir", directory).returncode == 0
    assert processes.start_time(server.pid) is None
    assert not (directory / "server.json").exists()
    assert batchyard("down", "--dir", directory).returncode == 1


def test_the_account_outlives_the_server(directory: Path) -> None:
    up(directory)
    account = daemon.account(directory)
    daemon.stop(directory)
    up(directory)
    assert daemon.account(directory) == account


def test_up_after_a_crash(directory: Path) -> None:
    server = up(directory)
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not processes.start_time(server.pid), "its end")
    assert json.loads((directory / "server.json").read_bytes())["pid"] == server.pid
    assert up(directory).pid != server.pid


def test_down_finishes_within_seconds_and_without_force(directory: Path) -> None:
    up(directory)
    stopped = daemon.stop(directory)
    assert stopped.willing
    assert stopped.agents == 0


def test_a_configuration_file_is_read_at_the_start(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "batchyard.toml"
    path.write_text("[quotas]\npool = 1\n")
    for command in ("up", "serve"):
        wrong = batchyard(command, "--dir", directory, "--port", "0", "--config", path)
        assert (wrong.returncode, wrong.stderr) == (
            1,
            f"batchyard: {path} line 2: there is no setting pool in quotas; did you mean pools?\n",
        )
    assert not directory.exists()
    path.write_text("[quotas]\npools = 0\nactive_jobs = 0\n")
    server = up(directory, "--config", str(path))
    account = daemon.account(directory)
    batch = BatchClient(server.url, AzureNamedKeyCredential(account.name, account.keys[0]), retry_total=0)
    image = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    pool = models.BatchPoolCreateOptions(id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=machine, target_dedicated_nodes=0)
    with pytest.raises(ResourceExistsError, match="PoolQuotaReached"):
        batch.create_pool(pool)
    with pytest.raises(ResourceExistsError, match="ActiveJobAndScheduleQuotaReached"):
        batch.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))


@pytest.fixture
def passable() -> Iterator[Path]:
    """A state directory that tasks of other users can reach; its server is ended whatever happens."""
    above = Path(tempfile.mkdtemp(prefix="batchyard-test-"))
    above.chmod(0o711)
    yield above / "state"
    daemon.stop(above / "state")
    shutil.rmtree(above)


def test_down_leaves_no_process_and_up_runs_the_task_again(passable: Path) -> None:
    directory = passable
    server = up(directory, "--nodes", "1")
    batch = client(directory)
    image = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    batch.create_pool(
        models.BatchPoolCreateOptions(id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=machine, target_dedicated_nodes=1)
    )
    batch.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))
    batch.create_task("j", models.BatchTaskCreateOptions(id="t", command_line="sleep 1000"))
    first = wait_for(lambda: sleeping(directory), "the task to sleep")
    alive = {server.pid: processes.start_time(server.pid), **below(directory)}
    for part in (b"batchyard.agent.main", b"agent/process/spawner.py", b"sleep"):
        assert any(part in command_line(pid) for pid in alive), part

    assert batchyard("down", "--dir", directory).returncode == 0
    assert below(directory) == {}
    assert not [pid for pid, started in alive.items() if processes.start_time(pid) == started]

    up(directory, "--nodes", "1")
    again = wait_for(lambda: sleeping(directory), "the task to sleep")
    assert again.isdisjoint(first)
    batch = client(directory)
    wait_for(lambda: batch.get_task("j", "t").state == models.BatchTaskState.RUNNING, "the task to run")
    assert batch.get_pool("p").current_dedicated_nodes == 1


def pool_and_job(batch: BatchClient) -> None:
    image = models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest")
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    batch.create_pool(
        models.BatchPoolCreateOptions(
            id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=machine, target_dedicated_nodes=1, task_slots_per_node=2
        )
    )
    batch.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))


def kill(server: daemon.Server) -> None:
    """End a server with SIGKILL; its agents live on."""
    fd = os.pidfd_open(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert select.select([fd], [], [], 30)[0]
    os.close(fd)


@pytest.mark.parametrize("taken", [False, True])
def test_a_server_on_a_free_port_that_is_killed_finds_its_agents_again(passable: Path, taken: bool) -> None:
    """On the port that it had, or elsewhere when that is taken: no agent is ended, and nothing runs twice."""
    server = up(passable, "--nodes", "1")
    batch = client(passable)
    pool_and_job(batch)
    go = passable.parent / "go"
    os.mkfifo(go)
    go.chmod(0o666)
    batch.create_task("j", models.BatchTaskCreateOptions(id="t", command_line=f"sh -c 'read word < {go}; echo $word'"))
    wait_for(lambda: batch.get_task("j", "t").state == models.BatchTaskState.RUNNING, "the task to run")
    agents = set(processes.agents_below(passable))
    assert len(agents) == 1
    kill(server)
    with contextlib.ExitStack() as stack:
        if taken:
            stack.enter_context(socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))))
        later = up(passable, "--nodes", "1")
    assert (later.url == server.url) == (not taken)
    batch = client(passable)
    go.write_text("on\n")
    batch.create_task("j", models.BatchTaskCreateOptions(id="u", command_line="printenv AZ_BATCH_ACCOUNT_URL"))
    for name, printed in (("t", "on\n"), ("u", f"{later.url}/\n")):
        wait_for(lambda name=name: batch.get_task("j", name).state == models.BatchTaskState.COMPLETED, "its end")
        assert b"".join(batch.download_task_file("j", name, "stdout.txt")).decode() == printed
    assert set(processes.agents_below(passable)) == agents
    with contextlib.closing(sqlite3.connect(f"file:{passable}/batchyard.db?mode=ro", uri=True)) as rows:
        assert rows.execute("SELECT run, losses FROM task").fetchall() == [(1, 0), (1, 0)]


def client(directory: Path) -> BatchClient:
    """The SDK for the server of a directory."""
    account, server = daemon.account(directory), daemon.running(directory)
    assert server is not None
    return BatchClient(server.url, AzureNamedKeyCredential(account.name, account.keys[0]))


def below(directory: Path) -> dict[int, int | None]:
    """Processes (pid, start time) that work in a state directory or were told its name, and their children.

    These are the server, its agents, their spawners and tasks.
    """
    found: dict[int, int | None] = {}
    parents: dict[int, int] = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            here = Path(f"/proc/{pid}/cwd").readlink().is_relative_to(directory)
            if (here or bytes(directory) in command_line(pid)) and processes.start_time(pid):
                found[pid] = processes.start_time(pid)
    while children := [pid for pid, parent in parents.items() if parent in found and pid not in found]:
        found.update((pid, processes.start_time(pid)) for pid in children)
    return found


def sleeping(directory: Path) -> set[tuple[int, int | None]]:
    """The task's processes."""
    return {(pid, started) for pid, started in below(directory).items() if command_line(pid) == b"sleep\x001000\x00"}


def command_line(pid: int) -> bytes:
    """The words, each ended by NUL; nothing when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
