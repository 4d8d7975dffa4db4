"""`batchyard queue`: what it does, the SDK sees, and the other way round."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue import QueueClient
from tests.cli.conftest import Cli, Server

from batchyard.cli import daemon
from batchyard.model.endpoints import Ways

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def queue(cli: Cli, server: Server) -> Run:
    """`batchyard queue` on the local server, which says where its queues are."""

    def run(*words: str, **more: Any) -> CompletedProcess[str]:
        return cli("queue", *words, "--dir", server.directory, **more)

    return run


@pytest.fixture
def named(queue: Run, server: Server) -> Iterator[tuple[str, QueueClient]]:
    """A queue, and the SDK's view of it."""
    name = f"own-{secrets.token_hex(4)}"
    made = queue("create", name)
    assert (made.returncode, made.stdout) == (0, f"{name}\n"), made.stderr
    words = daemon.storage_connection_string(daemon.account(server.directory), Ways(server.endpoint))
    with QueueClient.from_connection_string(words, name) as client:
        yield name, client
    queue("delete", name, "--yes")


def entries(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_messages_go_in_and_out(queue: Run, named: tuple[str, QueueClient]) -> None:
    name, sdk = named
    put = queue("put", name, "a <&> é", "-", input="two\nlines")
    assert len(put.stdout.split()) == 2, put.stderr
    assert [one.content for one in sdk.peek_messages(5)] == ["a <&> é", "two\nlines"]
    assert entries(queue("show", name, "-o", "jsonl")) == [{"name": name, "messages": 2}]
    assert name in queue("list", "own-", "-o", "id").stdout.split()
    peeked = entries(queue("peek", name, "-n", "9", "-o", "jsonl"))
    assert [(one["text"], one["dequeueCount"]) for one in peeked] == [("a <&> é", 0), ("two\nlines", 0)]
    kept = entries(queue("get", name, "--keep", "--hidden", "1h", "-o", "jsonl"))
    assert [(one["text"], one["dequeueCount"]) for one in kept] == [("a <&> é", 1)]
    assert [one["text"] for one in entries(queue("get", name, "-n", "9", "-o", "jsonl"))] == ["two\nlines"]
    assert entries(queue("get", name, "-o", "jsonl")) == []
    assert entries(queue("show", name, "-o", "jsonl"))[0]["messages"] == 1, "only what was kept is there"


def test_more_than_one_call_gives_and_all_of_it_gone(queue: Run, named: tuple[str, QueueClient]) -> None:
    name, sdk = named
    for number in range(70):
        sdk.send_message(f"m{number}")
    taken = entries(queue("get", name, "-n", "66", "-o", "jsonl"))
    assert [one["text"] for one in taken] == [f"m{number}" for number in range(66)]
    assert sdk.get_queue_properties().approximate_message_count == 4
    assert queue("clear", name, "--yes").stdout == f"the queue {name} is empty\n"
    assert sdk.get_queue_properties().approximate_message_count == 0
    assert queue("delete", name, "--yes").stdout == f"the queue {name} is deleted\n"
    with pytest.raises(ResourceNotFoundError):
        sdk.get_queue_properties()


def test_how_long_a_message_lives_and_hides(queue: Run, named: tuple[str, QueueClient]) -> None:
    name, sdk = named
    assert queue("put", name, "later", "--hidden", "1h", "--lives", "2d").returncode == 0
    assert (list(sdk.peek_messages()), sdk.get_queue_properties().approximate_message_count) == ([], 1)
    assert queue("put", name, "now", "--lives", "90m").returncode == 0
    [message] = sdk.peek_messages()
    assert message.expires_on is not None
    assert message.inserted_on is not None
    assert (message.expires_on - message.inserted_on).total_seconds() == 5400


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("create Bad_Name", 1, "(InvalidResourceName)"),
        ("show no-such-queue", 1, "(QueueNotFound)"),
        ("peek no-such-queue", 1, "(QueueNotFound)"),
        ("put no-such-queue x", 1, "(QueueNotFound)"),
        ("get no-such-queue", 1, "(QueueNotFound)"),
        ("clear no-such-queue", 1, "(QueueNotFound)"),
        ("delete no-such-queue", 1, "(QueueNotFound)"),
        ("put q", 2, "TEXT is missing"),
        ("put q x --lives soon", 2, "--lives is a span of time"),
        ("peek q -n 33", 2, "--number of peek is 32 at most"),
        ("get q -n 0", 2, "-n wants a whole number of at least 1"),
    ],
)
def test_mistakes(queue: Run, words: str, code: int, said: str) -> None:
    done = queue(*words.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("batchyard: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
