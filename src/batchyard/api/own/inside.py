"""A command inside of a running task (`batchyard task exec`): its output streams from the node to the client as it is written.

It needs an account key. It ends with the task, with its time limit, and when the client goes away.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from batchyard.api.wire.call import Call
from batchyard.api.wire.streams import Frames
from batchyard.engine.checks.demands import duration_us
from batchyard.engine.work import tasks
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.sync import Execution, FileRequest

MOST_BYTES = 100_000
"""Of all words of a command together; Linux takes 128 KiB of one."""
LONGEST_US = 24 * 3600 * 1_000_000
_DEFAULT_US = 3600 * 1_000_000


class Inside(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A program and its arguments, which no shell reads; and an ISO 8601 duration after which it is ended, an hour by itself."""

    command: list[str]
    time_limit: str | None = None


async def run(call: Call) -> Response:
    """POST /batchyard/jobs/{jobId}/tasks/{taskId}/exec"""
    if call.by_task:
        raise BatchError("InsufficientAccountPermissions")
    wanted = call.decode(Inside)
    limit_us = _limit_us(wanted)
    _check(wanted.command)
    node_pk, attempt = await call.db.run(tasks.enter, call.ids["job_id"], call.ids["task_id"], wanted.command[0], call.now)
    content = msgspec.json.encode(Execution(attempt=attempt, command=wanted.command, limit_s=limit_us / 1e6))
    request = FileRequest(id="", operation="exec", content=msgspec.Raw(content))
    try:
        return Frames(await call.services.relay.ask(node_pk, request))
    except BatchError as error:
        if error.code == "TaskFilesUnavailable":
            raise BatchError("OperationNotValidOnNode", Reason="The node's agent does not answer") from None
        raise


def _limit_us(wanted: Inside) -> int:
    if wanted.time_limit is None:
        return _DEFAULT_US
    us = duration_us("timeLimit", wanted.time_limit)
    if us is None or not 0 < us <= LONGEST_US:
        raise invalid_property("timeLimit", wanted.time_limit, "The value must be longer than nothing and at most P1D")
    return us


def _check(command: list[str]) -> None:
    if not command or not command[0]:
        raise invalid_property("command", "", "It must name a program")
    if sum(len(word.encode("utf-8", "surrogatepass")) + 1 for word in command) > MOST_BYTES:
        raise invalid_property("command", f"{command[0][:50]}…", f"All words together may have {MOST_BYTES} bytes")
    if any("\0" in word or not _is_text(word) for word in command):
        raise invalid_property("command", command[0][:50], "A word must be text without NUL")


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
