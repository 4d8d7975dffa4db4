"""`batchyard task exec`: a command inside of a running task, its output as it is written, its exit code as this command's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from batchyard.cli import names, streams, where
from batchyard.cli.client import Client
from batchyard.cli.problem import Problem, Usage
from batchyard.model import frames
from batchyard.model.frames import Exited


def run(batch: Client, *, task: str, command: Sequence[str], job: str | None, time_limit: str | None) -> int:
    """Run a command inside of a running task; its exit code."""
    body: dict[str, object] = {"command": list(command)}
    if time_limit is not None:
        seconds = where.seconds(time_limit)
        if seconds is None:
            raise Usage(f"{time_limit!r} is no span of time; they are written 90s, 5m or 1h")
        body["timeLimit"] = f"PT{seconds:g}S"
    job_id, id_ = names.the_task(batch, task, job)
    found, outputs = frames.Frames(), {frames.STDOUT: sys.stdout.buffer, frames.STDERR: sys.stderr.buffer}
    for piece in batch.stream("batchyard", "jobs", job_id, "tasks", id_, "exec", body=body):
        for kind, data in _whole(found, piece):
            if kind == frames.EXIT:
                return _ended(data)
            if kind in outputs:
                outputs[kind].write(data)
        for output in outputs.values():
            output.flush()
    raise Problem(f"the node of {job_id}/{id_} broke off; how the command ended is not known")


def _whole(found: frames.Frames, piece: bytes) -> Sequence[tuple[int, bytes]]:
    try:
        return list(found.feed(piece))
    except ValueError:
        raise Problem("the server answers with something else than the output of a command") from None


def _ended(data: bytes) -> int:
    exited = msgspec.json.decode(data, type=Exited)
    if exited.reason:
        print(streams.paint(f"batchyard: {exited.reason}", "yellow", sys.stderr), file=sys.stderr)
    return exited.exit_code
