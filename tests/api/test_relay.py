"""What a node refuses reaches the client with its code and its reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from batchyard.api.wire.relay import Relay
from batchyard.model.errors import BatchError
from batchyard.model.sync import FileHead, FileRequest


@pytest.mark.parametrize(
    ("head", "status", "values"),
    [
        (FileHead(error="NodeUserExists"), 409, {}),
        (FileHead(error="NodeUserNotFound"), 404, {}),
        (FileHead(error="OperationNotValidOnNode", reason="sudo is not installed"), 409, {"Reason": "sudo is not installed"}),
    ],
)
async def test_a_nodes_refusal_is_the_answer(head: FileHead, status: int, values: dict[str, str]) -> None:
    relay = Relay(lambda _: None)
    asked = asyncio.create_task(relay.ask(1, FileRequest(id="", operation="add_user")))
    await asyncio.sleep(0)
    (request,) = relay.waiting(1)
    assert relay.answer(1, request.id, head) is not None
    with pytest.raises(BatchError) as caught:
        await asked
    assert (caught.value.code, caught.value.status, caught.value.values) == (head.error, status, values)


ONE, TWO, NAME = "0" * 16, "1" * 16, "f" * 32


class Others:
    """Other servers: their relays, of which `gone` hear nothing."""

    def __init__(self, name: str) -> None:
        self.id, self.relays, self.heard = name, dict[str, Relay](), asyncio.Event()

    async def spread(self, node_pk: int, request: FileRequest) -> None:
        for relay in self.relays.values():
            relay.hear(node_pk, request)
        self.heard.set()

    async def pass_on(self, node_pk: int, request_id: str, head: str, chunks: AsyncIterator[bytes]) -> bool:
        exchange = self.relays[request_id.partition("-")[0]].answer(node_pk, request_id, FileHead(error=head))
        assert exchange is not None
        return await exchange.feed(chunks)


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_a_request_reaches_the_server_where_the_node_asks_and_its_answer_the_one_that_asked() -> None:
    first, second = Others(ONE), Others(TWO)
    one, two = Relay(lambda _: None, first), Relay(lambda _: None, second)
    first.relays[TWO], second.relays[ONE] = two, one
    asked = asyncio.create_task(one.ask(7, FileRequest(id="", operation="get")))
    await first.heard.wait()
    (request,) = two.waiting(7)
    assert request.id.startswith(f"{ONE}-")
    assert two.waiting(8) == []
    two.told([request])
    assert two.waiting(7) == [], "a node remembers what it was told, so a poll that waits must not spin"
    two.hear(7, request)
    assert two.waiting(7) == [request], "nobody answered it yet"
    assert await two.pass_on(8, "x", "", nothing()) is None
    assert await two.pass_on(7, request.id, "FileNotFound", nothing()) in (True, False)
    with pytest.raises(BatchError) as caught:
        await asked
    assert caught.value.code == "FileNotFound"
    assert two.waiting(7) == []


@pytest.mark.parametrize("name", ["x", NAME, f"{TWO}-{NAME}", f"{ONE}-{NAME} HTTP/1.1\r\nx: y", f"{ONE}-{NAME}/../..", f"../{ONE}-{NAME}"])
async def test_only_what_another_server_asked_is_passed_on(name: str) -> None:
    """The id comes from a node, and becomes a part of a URL."""
    relay = Relay(lambda _: None, Others(TWO))
    assert await relay.pass_on(1, name, "{}", nothing()) is None
