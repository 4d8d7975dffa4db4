"""Nodes on this machine: real agents, whose server does not answer."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from provider_suite import LIMIT, ProviderSuite, order

from batchyard.cli import processes
from batchyard.providers.base import NodeProvider, Seen
from batchyard.providers.local import LocalProvider

NOBODY = "http://127.0.0.1:9"
"""The discard port: nobody listens there, and an agent keeps trying."""


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o711)
        made = LocalProvider(Path(place) / "nodes", NOBODY, LIMIT)
        yield made
        for pid, started in list(processes.agents_below(Path(place))):
            processes.end(pid, started, 5)


def directory(provider: NodeProvider) -> Path:
    assert isinstance(provider, LocalProvider)
    return provider._directory


def pid_of(handle: str) -> int:
    return int(json.loads((Path(handle) / "process").read_bytes())["pid"])


def end(pid: int) -> None:
    """Kill and see it gone."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], 30)[0]
    finally:
        os.close(fd)


class TestLocal(ProviderSuite):
    """The suite, with agents as machines."""

    def again(self, provider: NodeProvider) -> NodeProvider:
        return LocalProvider(directory(provider), NOBODY, LIMIT)

    def kill(self, provider: NodeProvider, handle: str) -> None:
        end(pid_of(handle))

    def machines(self, provider: NodeProvider) -> int:
        return len(list(processes.agents_below(directory(provider))))


async def test_a_released_node_leaves_no_files(provider: LocalProvider) -> None:
    handle = await provider.launch(order())
    assert (Path(handle) / "token").stat().st_mode & 0o777 == 0o600
    await provider.release([handle])
    assert list(directory(provider).iterdir()) == []


async def test_stopping_all_keeps_the_files(provider: LocalProvider) -> None:
    wanted = [order(), order()]
    handles = [await provider.launch(one) for one in wanted]
    (Path(handles[0]) / "root" / "kept").touch()
    await provider.stop_all()
    assert list(processes.agents_below(directory(provider))) == []
    assert await provider.launch(wanted[0]) == handles[0]
    assert (Path(handles[0]) / "root" / "kept").exists()


async def test_a_recycled_pid_is_not_taken_for_an_agent(provider: LocalProvider) -> None:
    wanted = order()
    handle = await provider.launch(wanted)
    end(pid_of(handle))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as stranger:
        note = json.loads((Path(handle) / "process").read_bytes())
        (Path(handle) / "process").write_text(json.dumps({"pid": stranger.pid, "started": note["started"] - 1}))
        assert await provider.observe([handle]) == {handle: Seen.GONE}
        await provider.stop_all()
        assert await provider.launch(wanted) == handle
        assert pid_of(handle) != stranger.pid
        await provider.release([handle])
        assert stranger.poll() is None, "the stranger lives"
        stranger.kill()


@pytest.mark.parametrize("note", [b"", b"{", b"[]"])
async def test_an_agent_whose_pid_was_not_noted_is_found(provider: LocalProvider, note: bytes) -> None:
    """The server was killed between the agent's start and the note of it."""
    wanted = order()
    handle = await provider.launch(wanted)
    pid = pid_of(handle)
    (Path(handle) / "process").write_bytes(note)
    later = LocalProvider(directory(provider), NOBODY, LIMIT)
    assert await later.launch(wanted) == handle
    assert pid_of(handle) == pid
    (Path(handle) / "process").unlink()
    await later.release([handle])
    assert list(processes.agents_below(directory(provider))) == []


async def test_an_agent_gets_little_of_the_servers_environment(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_OPERATOR", "1")
    handle = await provider.launch(order())
    variables = Path(f"/proc/{pid_of(handle)}/environ").read_bytes().split(b"\0")
    assert not any(variable.startswith(b"SECRET") for variable in variables)


async def test_an_agent_that_speaks_to_another_address_is_started_anew(provider: LocalProvider) -> None:
    """A server that was killed and comes back on another port would never hear of its old agents."""
    wanted = order()
    handle = await provider.launch(wanted)
    old = pid_of(handle)
    moved = LocalProvider(directory(provider), "http://127.0.0.1:10", LIMIT)
    assert await moved.observe([handle]) == {handle: Seen.GONE}
    assert await moved.launch(wanted) == handle
    assert pid_of(handle) != old
    assert processes.start_time(old) is None
    assert await moved.observe([handle]) == {handle: Seen.ALIVE}


async def test_a_first_start_that_fails_leaves_nothing_behind(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: LocalProvider, home: Path, order: object) -> None:
        (home / "root").mkdir()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LocalProvider, "_start", full_disk)
        for _ in range(LIMIT + 1):
            with pytest.raises(OSError, match="No space"):
                await provider.launch(order())
    assert list(directory(provider).iterdir()) == []
    await provider.launch(order())


async def test_a_new_server_releases_nodes_that_nobody_noted(provider: LocalProvider) -> None:
    kept, forgotten = order(), order()
    handle, other = await provider.launch(kept), await provider.launch(forgotten)
    await provider.sweep({kept.node_id})
    assert await provider.observe([handle, other]) == {handle: Seen.ALIVE, other: Seen.GONE}
    assert [home.name for home in directory(provider).iterdir()] == [kept.node_id]
