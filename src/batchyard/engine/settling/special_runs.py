"""Runs of special tasks on nodes: what start, job preparation and job release tasks have in common.

A report is believed only for the run that the task is in now; a repeated or late one changes nothing.
"""

from __future__ import annotations

import msgspec

from batchyard.engine import wakes
from batchyard.engine.changes.special_tasks import change_special_task
from batchyard.model.states import SpecialTaskState, TaskResult
from batchyard.model.sync import Ended, Outcome
from batchyard.model.task import TaskFailureInformation
from batchyard.rules import outcomes
from batchyard.rules.attempts import Run
from batchyard.rules.transitions import SpecialTaskHappened, TaskHappened
from batchyard.store import special_tasks as rows
from batchyard.store.nodes import NodeRow
from batchyard.store.special_tasks import SpecialTaskRow
from batchyard.store.tx import Tx

INTERNAL_RETRIES = 20
"""Runs that may be lost before the task has failed; the service's bound is not known."""


def current(tx: Tx, node: NodeRow, named: Run) -> SpecialTaskRow | None:
    """Special task that is in this run on this node now, else None."""
    row = rows.get(tx, named.pk)
    if row is None or row.node_pk != node.pk or row.run != named.run or row.state != SpecialTaskState.RUNNING:
        return None
    return row


def complete(tx: Tx, row: SpecialTaskRow, failure: TaskFailureInformation | None, exit_code: int | None, now: int) -> None:
    """Complete a special task."""
    result = TaskResult.SUCCESS if failure is None else TaskResult.FAILURE
    text = None if failure is None else msgspec.json.encode(failure)
    cause = failure.code if failure else None
    change_special_task(tx, row, SpecialTaskHappened.ENDED, now, cause=cause, ended=now, exit_code=exit_code, result=result, failure=text)


def run_again(tx: Tx, row: SpecialTaskRow, now: int) -> None:
    """Make another run, without counting it, after one of which nobody knows how it ended."""
    rows.move(tx, row, run=row.run + 1, losses=row.losses + 1, started=now)
    tx.wake(wakes.node(row.node_pk))


def put_off(tx: Tx, row: SpecialTaskRow) -> None:
    """Make another run, without counting it, once the node is back from what interrupted the present one."""
    rows.move(tx, row, run=row.run + 1)


def begin_anew(tx: Tx, row: SpecialTaskRow, now: int) -> None:
    """Begin from the first run, as if it had never run."""
    change_special_task(
        tx,
        row,
        SpecialTaskHappened.STARTED,
        now,
        cause=f"node {row.node_pk}",
        run=row.run + 1,
        retries=0,
        started=now,
        ended=None,
        last_retry=None,
        exit_code=None,
        result=None,
        failure=None,
        stale=0,
        losses=0,
    )
    tx.wake(wakes.node(row.node_pk))


def settle(tx: Tx, row: SpecialTaskRow, ended: Ended, max_retries: int, now: int) -> bool:
    """Complete an ended task, or run it again when a retry is left; True when it is completed."""
    failed = ended.failure is not None
    verdict = outcomes.after_end(
        exit_code=ended.exit_code,
        stage=ended.stage,
        failed=failed,
        retryable=ended.outcome is Outcome.BAD_EXIT,
        retries=row.retries,
        max_retries=max_retries,
        conditions=None,
        stopped=False,  # such a run is not settled
    )
    if verdict.happened is TaskHappened.RETRY_DUE:
        rows.move(tx, row, run=row.run + 1, retries=row.retries + 1, last_retry=now, started=now)
        tx.wake(wakes.node(row.node_pk))
        return False
    complete(tx, row, ended.failure, ended.exit_code, now)
    return True
