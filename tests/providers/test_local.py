"""Nodes on this machine: real agents, whose server does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from provider_suite import LIMIT, ProviderSuite, order

from batchyard.cli import processes
from batchyard.providers.base import NodeOrder, NodeProvider, Seen
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


def agents(nodes: Path) -> set[int]:
    """Agents that run; a child of one looks like it until it has become what it shall be."""
    found = {pid for pid, _ in processes.agents_below(nodes)}
    noted = {int(note["pid"]): note["started"] for note in (json.loads(path.read_bytes()) for path in nodes.glob("*/process"))}
    begun = {pid for pid, started in noted.items() if processes.start_time(pid) == started}  # /proc may not name them yet
    return {pid for pid in found if parent(pid) not in found} | begun


def parent(pid: int) -> int | None:
    """Parent of a process, None when it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


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

    stages = ("directory", "root", "token", "process", "note")
    middles = ("directory", "token", "agent")

    def again(self, provider: NodeProvider) -> NodeProvider:
        return LocalProvider(directory(provider), NOBODY, LIMIT)

    def kill(self, provider: NodeProvider, handle: str) -> None:
        end(pid_of(handle))

    def machines(self, provider: NodeProvider) -> int:
        return len(agents(directory(provider)))

    def remains(self, provider: NodeProvider) -> Sequence[str]:
        return [home.name for home in directory(provider).iterdir()] if directory(provider).exists() else []

    @contextlib.contextmanager
    def failing(self, provider: NodeProvider, stage: str) -> Iterator[None]:
        full = OSError(errno.ENOSPC, "No space left on device")
        make = Path.mkdir

        def no_directory(path: Path, *args: Any, **kwargs: Any) -> None:
            if (path.name == "root") == (stage == "root") and path != directory(provider):
                raise full
            make(path, *args, **kwargs)

        where = {
            "directory": patch.object(Path, "mkdir", no_directory),
            "root": patch.object(Path, "mkdir", no_directory),
            "token": patch.object(Path, "write_text", side_effect=full),
            "process": patch.object(subprocess, "Popen", side_effect=full),
            "note": patch.object(Path, "write_bytes", side_effect=full),
        }
        with where[stage]:
            yield

    @contextlib.contextmanager
    def slow(self, provider: NodeProvider, node_id: str) -> Iterator[threading.Event]:
        gate, start = threading.Event(), subprocess.Popen

        def slowly(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
            if any(node_id in word for word in command):
                assert gate.wait(30)
            return start(command, **how)

        with patch.object(subprocess, "Popen", slowly):
            yield gate

    async def break_off(self, provider: NodeProvider, wanted: NodeOrder, middle: str) -> None:
        home = directory(provider) / wanted.node_id
        if middle == "agent":
            await provider.launch(wanted)
            while not list(processes.agents_below(directory(provider))):  # until /proc names it
                await asyncio.sleep(0)
            (home / "process").unlink()
            return
        home.mkdir(mode=0o711, parents=True)
        if middle == "token":
            (home / "root").mkdir()
            (home / "token").touch(mode=0o600)

    def keep(self, handle: str, provider: NodeProvider) -> None:
        (Path(handle) / "root" / "kept").touch()

    def keeps(self, handle: str, provider: NodeProvider) -> bool:
        return (Path(handle) / "root" / "kept").exists()


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
    while not list(processes.agents_below(directory(provider))):  # until /proc names it
        await asyncio.sleep(0)
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


def wait_for_end(handle: str) -> None:
    """Return when the agent of a node is gone."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid_of(handle))
        try:
            assert select.select([fd], [], [], 30)[0]
        finally:
            os.close(fd)


async def test_it_is_said_why_an_agent_died(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'a line before' >&2\necho 'no module named frobnicate' >&2\necho >&2\nexit 3\n")
    broken.chmod(0o755)
    wanted = order()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(broken))
        handle = await provider.launch(wanted)
    wait_for_end(handle)
    assert await provider.observe([handle]) == {handle: Seen.GONE}
    assert await provider.why(handle) == "the agent exited with code 3: no module named frobnicate"
    later = LocalProvider(directory(provider), NOBODY, LIMIT)
    assert await later.why(handle) == "the agent has ended: no module named frobnicate", "the exit code went with the server"


async def test_a_killed_agent_a_stopped_one_and_one_that_is_gone_have_their_reasons(provider: LocalProvider) -> None:
    wanted = order()
    handle = await provider.launch(wanted)
    for _ in range(3):
        end(pid_of(handle))
        assert await provider.observe([handle]) == {handle: Seen.GONE}
        assert await provider.why(handle) == "the agent was ended by signal 9, Killed"
        assert await provider.launch(wanted) == handle
    moved = LocalProvider(directory(provider), "http://127.0.0.1:10", LIMIT)
    assert "another address" in await moved.why(handle)
    await provider.stop([handle])
    assert await provider.why(handle) == "the agent was stopped"
    await provider.release([handle])
    assert await provider.why(handle) == "the node's directory is gone"


async def test_what_cannot_be_removed_is_no_release(provider: LocalProvider) -> None:
    handle = await provider.launch(order())
    with patch.object(os, "rmdir", side_effect=OSError(errno.EBUSY, "Device or resource busy")), pytest.raises(OSError, match="busy"):
        await provider.release([handle])
    await provider.release([handle])
    assert list(directory(provider).iterdir()) == []


def nest(top: Path, levels: int) -> None:
    """As many directories in one another, with a file at the bottom."""
    top.mkdir(parents=True, exist_ok=True)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


async def test_however_deep_a_task_has_nested_directories_its_node_is_released(provider: LocalProvider) -> None:
    deep = directory(provider) / "deep"
    nest(deep / "root", 1_200)
    await provider.release([str(deep)])
    assert not deep.exists()


async def test_a_node_that_cannot_be_removed_keeps_no_other(provider: LocalProvider) -> None:
    first, second = directory(provider) / "first", directory(provider) / "second"
    first.mkdir(parents=True)
    second.mkdir()
    (second / "file").touch()
    rmdir = os.rmdir

    def refuse(path: str, *, dir_fd: int) -> None:
        if path == "first":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmdir(path, dir_fd=dir_fd)

    with patch.object(os, "rmdir", refuse), pytest.raises(OSError, match="busy"):
        await provider.release([str(first), str(second)])
    assert list(directory(provider).iterdir()) == [first]
