"""What runs of multi-instance tasks ask of each other."""

from __future__ import annotations

import msgspec

from batchyard.model.errors import BatchError
from batchyard.model.states import TaskState
from batchyard.model.sync import NodeFacts
from batchyard.model.words import SubtaskState
from batchyard.rules import attempts
from batchyard.store import instances as rows
from batchyard.store import nodes as node_rows
from batchyard.store import tasks as task_rows
from batchyard.store.instances import InstanceRow
from batchyard.store.reader import Reader

_facts = msgspec.json.Decoder(NodeFacts)
_LONGEST_HOST = 64


def reach(reader: Reader, node_pk: int, asking: str, host: str) -> tuple[int, str]:
    """Where an attempt on a node may start a command on a host: the node there, and the attempt of the same task in which it runs.

    Raises OperationInvalidForCurrentState unless both are instances of the run that a task is in now.
    """
    run = attempts.parse(asking)
    task = None if run is None or run.special else task_rows.get(reader, run.pk)
    if run is None or task is None or task.run != run.run or task.state != TaskState.RUNNING:
        raise _refused("This is no run of a multi-instance task that runs now")
    instances = [row for row in rows.of_task(reader, task.pk) if row.run == run.run and row.state == SubtaskState.RUNNING]
    if not any(row.node_pk == node_pk and row.number == (run.number or 0) for row in instances):
        raise _refused("No instance of this task runs on the node that asks")
    found = next((row for row in instances if host in (row.address, row.node_id)), None)
    found = found or next((row for row in instances if host == _name(reader, row)), None)
    if found is None:
        raise _refused(f"No instance of this task runs on the host {host[:_LONGEST_HOST]}")
    return found.node_pk, attempts.name(task.pk, task.run, found.number)


def _name(reader: Reader, row: InstanceRow) -> str | None:
    """The host name of an instance's node."""
    node = node_rows.get(reader, row.node_pk)
    return None if node is None or node.facts is None else _facts.decode(node.facts).host_name


def _refused(reason: str) -> BatchError:
    return BatchError("OperationInvalidForCurrentState", Reason=reason)
