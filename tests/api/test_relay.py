"""What a node refuses reaches the client with its code and its reason."""

from __future__ import annotations

import asyncio

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
