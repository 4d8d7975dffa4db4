"""Start tasks: run whenever a node's agent joins, before the node takes tasks if they are to wait for it (contract 3.14)."""

from __future__ import annotations

import msgspec

from batchyard.engine.settling.moves import back_to_work
from batchyard.engine.settling.special_runs import begin_anew, settle
from batchyard.model.pool import StartTask
from batchyard.model.states import SpecialTaskState
from batchyard.model.sync import Ended
from batchyard.model.task import TaskCreateContent
from batchyard.rules import transitions
from batchyard.rules.transitions import NodeHappened
from batchyard.store import special_tasks as rows
from batchyard.store.nodes import NodeRow
from batchyard.store.special_tasks import NO_JOB, START, SpecialTaskRow
from batchyard.store.tx import Tx

TASK_ID = "startup"
_start_task = msgspec.json.Decoder(StartTask)


def begin(tx: Tx, node: NodeRow, spec: StartTask | None, pool_id: str, now: int) -> NodeHappened:
    """Have a node that joins run its pool's start task; what happens to the node by that."""
    row = rows.find(tx, NO_JOB, START, node.pk)
    if spec is None:
        if row is not None:
            rows.delete(tx, row.pk)
        return NodeHappened.JOINED
    if row is None:
        pk = rows.add(tx, job_pk=NO_JOB, node_pk=node.pk, kind=START, node_id=node.id, pool_id=pool_id, started=now)
        tx.log(now, START, pk, "started", new=SpecialTaskState.RUNNING, cause=f"node {node.pk}")
    else:
        begin_anew(tx, row, now)
    return NodeHappened.JOINED if spec.wait_for_success is False else NodeHappened.START_TASK_STARTED


def report(tx: Tx, node: NodeRow, row: SpecialTaskRow, ended: Ended, now: int) -> None:
    """Record how a run of the start task ended; the node is idle, or has failed, when there is nothing left to try."""
    spec = _spec(node)
    if not settle(tx, row, ended, spec.max_task_retry_count or 0, now):
        return
    happened = NodeHappened.START_TASK_SUCCEEDED if ended.failure is None else NodeHappened.START_TASK_FAILED
    if not transitions.NODE.allows(node.state, happened):
        return  # waitForSuccess is false, or the node is on its way to something else
    back_to_work(tx, node, happened, now)


def order_body(node: NodeRow) -> bytes:
    """The start task in the form in which nodes are told of tasks."""
    spec = _spec(node)
    return msgspec.json.encode(
        TaskCreateContent(
            id=TASK_ID,
            command_line=spec.command_line,
            resource_files=spec.resource_files,
            environment_settings=spec.environment_settings,
            user_identity=spec.user_identity,
            container_settings=spec.container_settings,
        )
    )


def _spec(node: NodeRow) -> StartTask:
    assert node.start_task is not None, f"node {node.pk} has no start task"
    return _start_task.decode(node.start_task)
