"""Nothing is left after `batchyard down`: no agent, no spawner, no process of a task, whatever was killed before."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from tests.conftest import wait_for

from batchyard.cli import daemon, processes

MACHINE = models.VirtualMachineConfiguration(
    image_reference=models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)
FAMILY = "sh -c 'setsid sleep 3601 & (sleep 3602 &) ; exec sleep 3603'"
"""A task with a child in a session of its own, an orphan, and itself."""


class Server(Protocol):
    """What these tests need of the fixture `own_server`."""

    directory: Path
    endpoint: str
    account: str
    key: str

    def kill(self) -> None: ...
    def agents(self) -> dict[str, int]: ...
    def kill_agent(self, node_id: str) -> None: ...


@pytest.fixture
def busy(own_server: Server) -> Server:
    """A server with two nodes, each with a task that has a family."""
    with BatchClient(own_server.endpoint, AzureNamedKeyCredential(own_server.account, own_server.key)) as batch:
        batch.create_pool(
            models.BatchPoolCreateOptions(
                id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=MACHINE, target_dedicated_nodes=2
            )
        )
        batch.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))
        batch.create_tasks("j", [models.BatchTaskCreateOptions(id=name, command_line=FAMILY) for name in ("a", "b")])
    wait_for(lambda: len(sleepers(own_server.directory)) >= 6, "both families")
    return own_server


def below(directory: Path) -> Iterator[tuple[int, int, bytes]]:
    """Pid, start and command line of every process that belongs to the directory or was started by one of its tasks."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            started = processes.start_time(pid)
            words, variables = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()
            if (
                started
                and pid != os.getpid()
                and os.fsencode(directory) in words + variables + os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
            ):
                yield pid, started, words


def sleepers(directory: Path) -> list[int]:
    return [pid for pid, _, words in below(directory) if words.startswith(b"sleep\0")]


def remains(directory: Path) -> list[bytes]:
    """What does not end within ten seconds."""
    left = []
    for pid, started, words in list(below(directory)):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                if processes.start_time(pid) == started and not select.select([fd], [], [], 10)[0]:
                    left.append(words)
            finally:
                os.close(fd)
    return left


def test_after_down(busy: Server) -> None:
    stopped = daemon.stop(busy.directory)
    assert stopped.server is not None
    assert stopped.willing
    assert (stopped.agents, busy.agents()) == (0, {})
    assert remains(busy.directory) == []


def test_after_down_when_server_and_an_agent_were_killed(busy: Server) -> None:
    (first, pid), (second, _) = busy.agents().items()
    fd = os.pidfd_open(pid)
    busy.kill()
    busy.kill_agent(first)
    assert select.select([fd], [], [], 30)[0]
    os.close(fd)
    stopped = daemon.stop(busy.directory)
    assert (stopped.server, stopped.agents) == (None, 1), second
    assert busy.agents() == {}
    assert remains(busy.directory) == []
