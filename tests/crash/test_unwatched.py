"""Agent and spawner are killed together: what they ran goes on with nobody watching, and the next agent settles it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from tests.conftest import wait_for

from batchyard.cli import processes

MACHINE = models.VirtualMachineConfiguration(
    image_reference=models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)


class Server(Protocol):
    """What these tests need of the fixture `own_server`."""

    directory: Path
    endpoint: str
    account: str
    key: str

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def agents(self) -> dict[str, int]: ...
    def kill_agent(self, node_id: str) -> None: ...


@pytest.fixture
def batch(own_server: Server) -> Iterator[BatchClient]:
    """A client, with a pool of one node and a job."""
    with BatchClient(own_server.endpoint, AzureNamedKeyCredential(own_server.account, own_server.key)) as client:
        client.create_pool(
            models.BatchPoolCreateOptions(
                id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE, target_dedicated_nodes=1
            )
        )
        client.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))
        yield client


@pytest.fixture
def notes() -> Iterator[Path]:
    """A directory that every task may write to."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o777)
        yield Path(place)


def runs(notes: Path) -> list[int]:
    """Pids of the runs of the task so far."""
    return [int(line) for line in (notes / "runs").read_text().split()] if (notes / "runs").exists() else []


def add(batch: BatchClient, notes: Path, script: str) -> int:
    """Add a task that notes each of its runs; pid of the first."""
    batch.create_task("j", models.BatchTaskCreateOptions(id="t", command_line=f"/bin/sh -c 'echo $$ >> {notes}/runs; {script}'"))
    return wait_for(lambda: runs(notes), "the task to run")[0]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_with_spawners(server: Server) -> None:
    """End the agent and its spawners, none of which sees the others go."""
    [agent] = server.agents().values()
    os.kill(agent, signal.SIGSTOP)
    for spawner in children(agent):
        os.kill(spawner, signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)


def test_what_runs_on_is_ended_before_it_runs_again_and_counts_as_a_requeue(own_server: Server, batch: BatchClient, notes: Path) -> None:
    first = add(batch, notes, "exec sleep 1000")
    started = processes.start_time(first)
    kill_with_spawners(own_server)
    wait_for(lambda: len(runs(notes)) > 1, "the next run")
    assert processes.start_time(first) != started, "the run that nobody watched goes on"
    info = batch.get_task("j", "t").execution_info
    assert info is not None
    assert (info.requeue_count, info.retry_count) == (1, 0)


def test_a_run_that_its_spawner_ended_is_no_requeue(own_server: Server, batch: BatchClient, notes: Path) -> None:
    add(batch, notes, "exec sleep 1000")
    [node] = own_server.agents()
    own_server.kill_agent(node)
    wait_for(lambda: len(runs(notes)) > 1, "the next run")
    info = batch.get_task("j", "t").execution_info
    assert info is not None
    assert (info.requeue_count, info.retry_count) == (0, 0)


def noted(server: Server) -> int:
    """Bytes of the ends that the nodes keep in mind."""
    return sum(file.stat().st_size for file in server.directory.glob("nodes/*/root/volatile/ends/*"))


@pytest.mark.parametrize("code", [0, 3])
def test_an_end_that_the_server_never_heard_of_is_settled_by_the_next_agent(
    own_server: Server, batch: BatchClient, notes: Path, code: int
) -> None:
    add(batch, notes, f"while [ ! -e {notes}/go ]; do sleep 0.05; done; exit {code}")
    own_server.kill()
    (notes / "go").touch()
    wait_for(lambda: noted(own_server), "the end to be noted")
    kill_with_spawners(own_server)
    own_server.start()

    def done() -> models.BatchTask | None:
        task = batch.get_task("j", "t")
        return task if task.state == "completed" else None

    info = wait_for(done, "the task to be completed").execution_info
    assert info is not None
    assert (info.exit_code, info.requeue_count, info.retry_count, len(runs(notes))) == (code, 0, 0, 1)
    wait_for(lambda: not noted(own_server), "the note to be removed")
