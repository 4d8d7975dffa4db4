"""Instances of multi-instance tasks: a row for each of the newest run, the primary's as number 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batchyard.model.states import TaskResult
from batchyard.model.words import SubtaskState
from batchyard.store.reader import Change, Params, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned


class InstanceRow(msgspec.Struct):
    """A row of `instance`."""

    pk: int
    task_pk: int
    number: int
    run: int
    node_pk: int
    node_id: str
    pool_id: str
    address: str
    """IP address of the node."""
    state: SubtaskState
    version: int
    state_time: int
    previous_state: SubtaskState | None
    previous_time: int | None
    ready: int
    """True once its coordination command has succeeded."""
    told: int
    """True once its node told how it ended."""
    started: int | None
    ended: int | None
    exit_code: int | None
    """Of the coordination command."""
    result: TaskResult | None
    failure: bytes | None
    retention: int | None
    """As it was when the run began: a later change reaches the primary alone (contract 3.10)."""
    expires: int | None


class Expired(msgspec.Struct):
    """An instance whose directory need not be kept any longer."""

    pk: int
    task_pk: int
    node_pk: int
    job_id: str
    task_id: str


_COLUMNS = columns(InstanceRow)
ROWS = Versioned("instance", InstanceRow)
_OF_TASK = Statement(f"SELECT {_COLUMNS} FROM instance WHERE task_pk = :task_pk ORDER BY number", InstanceRow)
_ONE = Statement(f"SELECT {_COLUMNS} FROM instance WHERE task_pk = :task_pk AND number = :number AND run = :run", InstanceRow)
_PREPARING = Statement(
    f"SELECT {columns(InstanceRow, 'instance.')} FROM instance JOIN task ON task.pk = instance.task_pk"
    " WHERE instance.node_pk = :node_pk AND instance.state <> 'completed' AND instance.state = 'preparing' AND task.job_pk = :job_pk",
    InstanceRow,
)
_ADD = Change(
    "INSERT INTO instance (pk, task_pk, number, run, node_pk, node_id, pool_id, address, state, state_time, started, retention)"
    " SELECT :pk, pk, :number, run, :node_pk, :node_id, :pool_id, :address, :state, :now, :started, retention FROM task WHERE pk = :task_pk"
)
_LEAVE = Change(
    "INSERT INTO leftover (job_pk, task_pk, node_pk) SELECT :job_pk, :task_pk, node_pk FROM instance WHERE task_pk = :task_pk"
    " ON CONFLICT DO NOTHING"
)
_ADDRESSES = Statement("SELECT address FROM instance WHERE task_pk = :task_pk ORDER BY number", str)
_DROP = Change("DELETE FROM instance WHERE task_pk = :task_pk")
_EXPIRED = Statement(
    "SELECT instance.pk, task.pk, instance.node_pk, job.id, task.id FROM instance JOIN task ON task.pk = instance.task_pk"
    " JOIN job ON job.pk = task.job_pk WHERE instance.expires <= :now ORDER BY instance.expires LIMIT :n",
    Expired,
)
_FORGET_EXPIRED = Change("UPDATE instance SET expires = NULL, version = version + 1 WHERE pk = :pk")


def of_task(reader: Reader, task_pk: int) -> list[InstanceRow]:
    """The instances of the newest run of a task, by number; none of an ordinary task, nor before the first run."""
    return reader.all(_OF_TASK, task_pk=task_pk)


def addresses(reader: Reader, task_pk: int) -> list[str]:
    """Where the instances of the newest run of a task are, by number."""
    return reader.all(_ADDRESSES, task_pk=task_pk)


def find(reader: Reader, task_pk: int, run: int, number: int) -> InstanceRow | None:
    """An instance of a run, unless there is a newer run."""
    return reader.first(_ONE, task_pk=task_pk, run=run, number=number)


def preparing(reader: Reader, node_pk: int, job_pk: int) -> list[InstanceRow]:
    """Instances of tasks of a job that wait for its preparation task on a node."""
    return reader.all(_PREPARING, node_pk=node_pk, job_pk=job_pk)


def replace(tx: Tx, task_pk: int, job_pk: int, rows: Sequence[Params]) -> None:
    """The instances of a run that has just begun, in the place of the last one's; where those were is remembered with the leftovers."""
    tx.change(_LEAVE, job_pk=job_pk, task_pk=task_pk)
    tx.change(_DROP, task_pk=task_pk)
    tx.change_many(_ADD, [{"task_pk": task_pk, **row} for row in rows])


def move(tx: Tx, row: InstanceRow, **changes: Any) -> InstanceRow:
    """Change an instance, but for its state, that nobody changed since it was read; the instance as it is then."""
    return tx.move(ROWS, row, changes)


def set_state(tx: Tx, row: InstanceRow, changes: Mapping[str, Any]) -> InstanceRow:
    """The same with its state, for `engine.changes` alone."""
    return tx.set_state(ROWS, row, changes)


def expired(reader: Reader, now: int, n: int) -> list[Expired]:
    """Instances whose directories need not be kept any longer, at most `n`."""
    return reader.all(_EXPIRED, now=now, n=n)


def forget_expired(tx: Tx, pks: Sequence[int]) -> None:
    """The directories of these instances are on their way out."""
    tx.change_many(_FORGET_EXPIRED, [{"pk": pk} for pk in pks])
