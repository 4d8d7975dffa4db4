"""A command of one instance of a multi-instance task on the node of another: how programs like mpirun start theirs (`docs/mpi.md`).

The agent of the one asks by a POST whose answer is the output as it comes; the agent of the other hears of it in its sync, as of a command
that a client runs inside of a task. Nobody connects to an agent.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from batchyard.api.wire.call import Services, decode
from batchyard.api.wire.streams import Frames
from batchyard.engine.work import gangs
from batchyard.model.errors import BatchError
from batchyard.model.sync import Execution, FileRequest, RemoteStart

LARGEST = 200_000
"""Bytes of a request."""
_SHELL = "/bin/sh"
_LATER = 503
"""The other node's agent does not answer, which may be because this server has just begun."""


async def start(request: Request, services: Services, node_pk: int) -> Response:
    """POST /agent/starts: run a command where another instance of the asking task is."""
    wanted = decode(await _body(request), RemoteStart)
    try:
        place, attempt = await services.db.read(gangs.reach, node_pk, wanted.attempt, wanted.host)
        command = Execution(attempt=attempt, command=[_SHELL, "-c", wanted.command], limit_s=-1.0, name=wanted.name)
        content = msgspec.Raw(msgspec.json.encode(command))
        return Frames(await services.relay.ask(place, FileRequest(id="", operation="exec", content=content)))
    except BatchError as error:
        status = _LATER if error.code == "TaskFilesUnavailable" else error.status
        return Response(str(error.values.get("Reason", error.code)), status_code=status)


async def _body(request: Request) -> bytes:
    """The request's body. Raises BatchError for one that is too large."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST:
            raise BatchError("RequestBodyTooLarge")
    return bytes(body)
