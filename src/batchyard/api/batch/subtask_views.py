"""Subtasks of multi-instance tasks as clients see them (contract 9.5)."""

from __future__ import annotations

import msgspec

from batchyard.api.wire.call import Call
from batchyard.api.wire.wire import encode
from batchyard.model import times
from batchyard.model.ids import NODE_AFFINITY_PREFIX
from batchyard.model.task import ComputeNodeInformation, Subtask, TaskFailureInformation
from batchyard.rules.places import task_directory
from batchyard.store.instances import InstanceRow

_failure = msgspec.json.Decoder(TaskFailureInformation)


def subtask(row: InstanceRow, job_id: str, task_id: str, call: Call) -> bytes:
    """An instance beside the primary."""
    node_url, directory = call.url("pools", row.pool_id, "nodes", row.node_id), task_directory(job_id, task_id)
    return encode(
        Subtask(
            id=row.number,
            node_info=ComputeNodeInformation(
                affinity_id=NODE_AFFINITY_PREFIX + row.node_id,
                node_url=node_url,
                pool_id=row.pool_id,
                node_id=row.node_id,
                task_root_directory=directory,
                task_root_directory_url=f"{node_url}/files/{directory}",
            ),
            start_time=_time(row.started),
            end_time=_time(row.ended),
            exit_code=row.exit_code,
            failure_info=None if row.failure is None else _failure.decode(row.failure),
            state=row.state,
            state_transition_time=times.iso(row.state_time),
            previous_state=row.previous_state,
            previous_state_transition_time=_time(row.previous_time),
            result=row.result,
        )
    )


def _time(us: int | None) -> str | None:
    return None if us is None else times.iso(us)
