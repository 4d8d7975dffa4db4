"""What an agent knows of its root and of its server's address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.main import WrongToken, run
from batchyard.agent.places.identity import Address, of_root
from batchyard.agent.places.layout import Layout
from batchyard.agent.settings import AgentSettings


def layout(place: Path, name: str = "root") -> Layout:
    made = Layout(str(place / name))
    made.make()
    return made


def test_a_root_has_one_identity_in_all_its_lives_and_a_copy_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layout(place)
    first = of_root(root)
    assert of_root(Layout(root.root)) == first
    assert of_root(layout(place, "other")) != first
    shutil.copytree(root.root, place / "copy")
    assert of_root(Layout(str(place / "copy"))) != first
    with monkeypatch.context() as patched:
        patched.setattr("socket.gethostname", lambda: "another-machine")
        assert of_root(root) != first
    shutil.move(root.root, place / "moved")
    assert of_root(layout(place)) != first


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_a_damaged_identity_is_made_anew(place: Path, content: bytes) -> None:
    root = layout(place)
    Path(root.volatile, "identity").write_bytes(content)
    assert of_root(root) == of_root(root)


def test_an_address_changes_only_when_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "server.json"
    address = Address("http://127.0.0.1:1", file)
    for content in (None, "", "{", "[]", '{"url": 1}', '{"pid": 3, "url": "http://127.0.0.1:1/"}'):
        if content is not None:
            file.write_text(content)
        assert not address.move_on(), content
    file.write_text('{"url": "http://127.0.0.1:2"}')
    assert (address.move_on(), address.url) == (True, "http://127.0.0.1:2")
    assert not address.move_on()
    assert not Address("http://127.0.0.1:1").move_on()


def test_every_server_that_is_known_is_asked_before_the_agent_waits(tmp_path: Path) -> None:
    address = Address("http://a,http://b/ ,http://c")
    assert [(address.move_on(), address.url) for _ in range(3)] == [(True, "http://b"), (True, "http://c"), (False, "http://a")]
    assert (address.move_on(), address.url) == (True, "http://b")
    address.answered()
    assert [(address.move_on(), address.url) for _ in range(3)] == [(True, "http://c"), (True, "http://a"), (False, "http://b")]
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"url": "http://d", "others": ["http://b"]}))
    address = Address("http://d", file)
    assert (address.move_on(), address.url) == (True, "http://b")
    file.unlink()  # its own server ends: what it said of others still holds
    address.answered()
    assert (address.move_on(), address.url) == (True, "http://d")


async def test_a_stranger_at_the_servers_old_address_does_not_end_the_agent(server: Any, settings: AgentSettings, place: Path) -> None:
    """Whoever took the port knows nothing of the node, and says so."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(refuse, "127.0.0.1", 0)
    old = f"http://127.0.0.1:{stranger.sockets[0].getsockname()[1]}"
    (place / "server.json").write_text(json.dumps({"pid": 1, "started": 1, "url": server.url}))
    there = AgentSettings(
        server=old, root=settings.root, token_file=settings.token_file, uid_base=settings.uid_base, server_file=place / "server.json"
    )
    agent = asyncio.create_task(run(there))
    await server.until(lambda: server.session)
    assert (await server.result("task", "printenv AZ_BATCH_ACCOUNT_URL")).exit_code == 0
    assert (place / "root/workitems/job/job-1/task/stdout.txt").read_text() == f"{server.url}/\n"
    await server.file("get", "/shared/none")
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent
    stranger.close()
    await stranger.wait_closed()


async def test_a_stranger_in_the_servers_place_ends_no_agent_and_nothing_that_it_runs(
    server: Any, settings: AgentSettings, pipe: Any, place: Path
) -> None:
    """The server crashed, and until it is back another one answers at its address, which the stale server.json still names."""
    settings.server_file = place / "server.json"
    settings.server_file.write_text(json.dumps({"pid": 1, "started": 1, "url": server.url}))
    agent = asyncio.create_task(run(settings))
    server.order("task", f"sh -c 'echo x > {pipe}; read line < {place}/go'")
    os.mkfifo(place / "go")
    (place / "go").chmod(0o666)
    await pipe.line()
    server.fail = [401, 401, 404, 401]
    server.order("another", "true")  # lets the poll go
    await server.until(lambda: not server.fail)
    await asyncio.to_thread((place / "go").write_text, "\n")
    assert ((await server.end_of("task")).exit_code, server.session) == (0, 1)
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent


async def test_an_agent_whose_token_no_server_ever_knew_ends(server: Any, settings: AgentSettings) -> None:
    Path(settings.token_file).write_text("another")
    with pytest.raises(WrongToken, match="knows no node with the token"):
        await asyncio.wait_for(run(settings), 20)
    assert not server.syncs
