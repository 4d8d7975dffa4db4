"""Upload of the agent's log: the lines of the time asked for, into a container of our own storage endpoint."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_world import Container

from batchyard.agent.settings import AgentSettings
from batchyard.agent.transfer import logs
from batchyard.model import times

LINES = [
    b"no time yet\n",
    b"timestamp='2026-11-26T09:00:00.000000Z' level='info' event='early'\n",
    b"timestamp='2026-11-26T10:00:00.000000Z' level='info' event='first'\n",
    b"Traceback (most recent call last):\n",
    b"timestamp='2026-11-26T11:00:00.5Z' level='info' event='last'\n",
    b"timestamp='2026-11-26T12:00:00Z' level='info' event='late'\n",
    b"its rest",
]


def at(hour: int) -> int:
    return times.from_iso(f"2026-11-26T{hour:02}:00:00Z")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (at(10), at(12) - 1, LINES[2:5]),
        (at(9), at(9), LINES[1:2]),
        (at(12), at(13), LINES[5:]),
        (at(13), at(14), []),
        (0, at(14), LINES[1:]),
    ],
)
def test_lines_of_a_time(start: int, end: int, expected: list[bytes]) -> None:
    assert list(logs.between(iter(LINES), start, end)) == expected


@pytest.fixture
def log_file(settings: AgentSettings, place: Path) -> Path:
    """The agent's log, which the agent is told of."""
    settings.log_file = str(place / "agent.log")
    (place / "agent.log").write_bytes(b"".join(LINES))
    return place / "agent.log"


async def ask(node: Any, url: str, start: int, end: int | None = None) -> tuple[Any, Any]:
    """Head and body of the answer to a request for logs."""
    content = {"containerUrl": url, "directory": "account-1/pool/node/guid", "start": start} | ({} if end is None else {"end": end})
    head, body = await node.file("upload_logs", "", content=msgspec.Raw(json.dumps(content).encode()))
    return head, json.loads(body) if body else None


async def uploaded(container: Container, name: str) -> bytes:
    """A blob, once it is there."""
    while name not in await asyncio.to_thread(container.names):
        await asyncio.sleep(0.005)
    return await asyncio.to_thread(container.read, name)


@pytest.mark.usefixtures("log_file")
async def test_the_lines_of_a_time_arrive_in_the_container(node: Any, container: Container, log_file: Path) -> None:
    head, body = await ask(node, container.sas("w"), at(10), at(12) - 1)
    assert (head.error, body) == (None, {"numberOfFilesUploaded": 1})
    assert await uploaded(container, "account-1/pool/node/guid/agent.log") == b"".join(LINES[2:5])
    head, body = await ask(node, container.sas("w"), at(13))
    assert (head.error, body) == (None, {"numberOfFilesUploaded": 0})
    log_file.unlink()
    assert (await ask(node, container.sas("w"), 0))[1] == {"numberOfFilesUploaded": 0}


@pytest.mark.usefixtures("log_file")
@pytest.mark.parametrize("where", ["root", "host", "missing", "forbidden", "nonsense"])
async def test_where_nothing_can_be_written_is_told_afterwards(node: Any, container: Container, where: str) -> None:
    """How many files there are is said before they are sent; what became of them is said once, however often a sync repeats it."""
    signature = container.sas("rl").partition("?")[2]
    url = {
        "root": f"{container.url}?{signature}",
        "host": "http://127.0.0.1:9/?sig=x",
        "missing": container.sas("w", "nobody"),
        "forbidden": container.sas("r"),
        "nonsense": "nonsense?sig=x",
    }[where]
    head, body = await ask(node, url, 0)
    assert (head.error, body) == (None, {"numberOfFilesUploaded": 1})
    [news] = await node.until(lambda: [news for sync in node.syncs for news in sync.news][:1])
    assert news.happened == "service log not uploaded"
    assert "account-1/pool/node/guid/agent.log" in news.cause
    assert "sig=" not in news.cause
    assert await node.until(lambda: node.syncs[-1].news == [])


async def test_an_agent_without_a_log_file_says_so(node: Any, container: Container) -> None:
    head, _ = await ask(node, container.sas(), 0)
    assert (head.error, "no file" in head.reason) == ("OperationNotValidOnNode", True)
