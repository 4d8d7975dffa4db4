"""The starts of the same files of many tasks in one answer (`submit -f`): one request to each node instead of one for each file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from batchyard.api.batch import tasks
from batchyard.api.wire.call import Call
from batchyard.model import frames
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.states import TaskState
from batchyard.model.sync import FileRequest, Starts
from batchyard.rules.places import task_directory
from batchyard.store.reader import Reader

MOST_TASKS, MOST_FILES = 50, 4
MOST_BYTES = 32 << 10
"""Of each file; so an answer has six megabytes at most."""


class Outputs(msgspec.Struct, forbid_unknown_fields=True):
    """Tasks of the job, and files of each by their path in its directory."""

    tasks: list[str]
    files: list[str]


async def read(call: Call) -> Response:
    """POST /batchyard/jobs/{jobId}/outputs: a frame for each file of each task, in the order of the request."""
    wanted = call.decode(Outputs)
    for name, given, most in (("tasks", wanted.tasks, MOST_TASKS), ("files", wanted.files, MOST_FILES)):
        if not 0 < len(given) <= most:
            raise invalid_property(name, str(len(given)), f"There must be between 1 and {most}")
    places = await call.db.read(_places, call.ids["job_id"], wanted.tasks)
    by_node: dict[int, list[str]] = {}
    for node_pk, directory in places:
        if node_pk is not None and directory not in by_node.setdefault(node_pk, []):
            by_node[node_pk].append(directory)
    answers = await asyncio.gather(*(_of_node(call, node_pk, those, wanted.files) for node_pk, those in by_node.items()))
    found = {directory: those for answer in answers for directory, those in answer.items()}
    missing = [frames.frame(frames.MISSING)] * len(wanted.files)
    body = b"".join(one for _, directory in places for one in found.get(directory, missing))
    return Response(body, media_type="application/octet-stream")


def _places(reader: Reader, job_id: str, names: Sequence[str]) -> list[tuple[int | None, str]]:
    """Node and directory of each task, without a node where it has no files. Raises JobNotFound."""
    found: list[tuple[int | None, str]] = []
    for name in names:
        try:
            job, task = tasks.find(reader, job_id, name)
        except BatchError as error:
            if error.code != "TaskNotFound":
                raise
            found.append((None, ""))
            continue
        there = task.node_id is not None and not (task.state == TaskState.ACTIVE and task.run == 0)
        found.append((task.node_pk if there else None, task_directory(job.id, task.id)))
    return found


async def _of_node(call: Call, node_pk: int, directories: list[str], files: list[str]) -> dict[str, list[bytes]]:
    """The frames of each directory; none when the node does not answer, or its agent does not know the operation."""
    content = msgspec.json.encode(Starts(directories=directories, files=files, most=MOST_BYTES))
    request = FileRequest(id="", operation="starts", content=msgspec.Raw(content))
    try:
        exchange = await call.services.relay.ask(node_pk, request)
        seen = frames.Frames()
        got = [frames.frame(*one) for chunk in [chunk async for chunk in exchange.chunks()] for one in seen.feed(chunk)]
    except (BatchError, ConnectionError, ValueError):
        return {}
    each = len(files)
    return {directory: got[at * each : (at + 1) * each] for at, directory in enumerate(directories) if len(got) >= (at + 1) * each}
