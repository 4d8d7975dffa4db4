"""Job preparation and job release tasks: one row per job and node, whatever its run. Start tasks: one row per node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from batchyard.model.states import SpecialTaskState, TaskResult
from batchyard.rules.odata import Filter, matches
from batchyard.store.filters import Page, sift
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned

PREPARATION = "preparation"
RELEASE = "release"
START = "start"
NO_JOB = 0
"""Key in the place of the job for start tasks, which belong to their node alone."""
_LOOKED_AT = 2_000
"""Nodes that a page by `$filter` looks at."""


class SpecialTaskRow(msgspec.Struct):
    """A row of `special_task`."""

    pk: int
    job_pk: int
    node_pk: int
    kind: str
    node_id: str
    pool_id: str
    state: SpecialTaskState
    version: int
    run: int
    retries: int
    started: int
    ended: int | None
    last_retry: int | None
    exit_code: int | None
    result: TaskResult | None
    failure: bytes | None
    stale: int
    losses: int
    expires: int | None
    """When its directory may be removed, known once its job is completed; None before, after, and never."""


class SpecialOrder(msgspec.Struct):
    """What a node has to be told of a special task."""

    pk: int
    run: int
    kind: str
    job_id: str
    environment: bytes | None
    preparation_id: str | None
    body: bytes


_COLUMNS = columns(SpecialTaskRow)
ROWS = Versioned("special_task", SpecialTaskRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM special_task WHERE pk = :pk", SpecialTaskRow)
_FIND = Statement(f"SELECT {_COLUMNS} FROM special_task WHERE job_pk = :job_pk AND kind = :kind AND node_pk = :node_pk", SpecialTaskRow)
_OF_JOB = Statement(f"SELECT {_COLUMNS} FROM special_task WHERE job_pk = :job_pk AND kind = :kind ORDER BY node_pk", SpecialTaskRow)
_PAGE = Statement(
    f"SELECT {_COLUMNS} FROM special_task WHERE job_pk = :job_pk AND node_pk IN (SELECT DISTINCT node_pk FROM special_task"
    " WHERE job_pk = :job_pk AND node_pk > :after ORDER BY node_pk LIMIT :n) ORDER BY node_pk, pk",
    SpecialTaskRow,
)
_RUNNING = Statement(f"SELECT {_COLUMNS} FROM special_task WHERE node_pk = :node_pk AND state = 'running'", SpecialTaskRow)
_CLOSED = Statement(
    "SELECT node_pk FROM special_task WHERE job_pk = :job_pk AND kind = 'preparation' AND state = 'completed' AND result = 'failure'", int
)
_NODES_OF = Statement("SELECT DISTINCT node_pk FROM special_task WHERE job_pk = :job_pk AND node_pk IN (SELECT pk FROM node)", int)
_ORDER = Statement(
    "SELECT special_task.pk, special_task.run, special_task.kind, job.id, job.environment, job.preparation_id, job.body"
    " FROM special_task JOIN job ON job.pk = special_task.job_pk WHERE special_task.pk = :pk",
    SpecialOrder,
)
_PREPARED = Statement(
    f"SELECT {_COLUMNS} FROM special_task WHERE node_pk = :node_pk AND kind = 'preparation' AND state = 'completed' AND result = 'success'"
    " AND stale = 0",
    SpecialTaskRow,
)
_EXPIRED = Statement(f"SELECT {_COLUMNS} FROM special_task WHERE expires <= :now ORDER BY expires LIMIT :n", SpecialTaskRow)
_DELETE_PREPARATIONS = Change("DELETE FROM special_task WHERE node_pk = :node_pk AND kind = 'preparation'")
_DELETE_START = Change("DELETE FROM special_task WHERE job_pk = 0 AND kind = 'start' AND node_pk = :node_pk")
_DELETE = Change("DELETE FROM special_task WHERE pk = :pk")
_DELETE_OF_JOB = Change("DELETE FROM special_task WHERE job_pk = :job_pk")


def get(reader: Reader, pk: int) -> SpecialTaskRow | None:
    """Special task by key."""
    return reader.first(_BY_PK, pk=pk)


def find(reader: Reader, job_pk: int, kind: str, node_pk: int) -> SpecialTaskRow | None:
    """Special task of a job on a node."""
    return reader.first(_FIND, job_pk=job_pk, kind=kind, node_pk=node_pk)


def of_job(reader: Reader, job_pk: int, kind: str) -> list[SpecialTaskRow]:
    """Special tasks of one kind of a job, over all nodes."""
    return reader.all(_OF_JOB, job_pk=job_pk, kind=kind)


def page(reader: Reader, job_pk: int, after: int, n: int) -> list[SpecialTaskRow]:
    """Both special tasks of the next `n` nodes behind key `after`."""
    return reader.all(_PAGE, job_pk=job_pk, after=after, n=n)


def filtered(reader: Reader, job_pk: int, found: Filter | None, after: int, most: int) -> Page[list[SpecialTaskRow]]:
    """Both special tasks of at most `most` nodes behind key `after` that are asked for."""

    def read(behind: int, n: int) -> list[list[SpecialTaskRow]]:
        return [list(rows) for _, rows in groupby(page(reader, job_pk, behind, n), key=_node)]

    def keep(runs: list[SpecialTaskRow]) -> bool:
        return found is None or matches(found, _properties(runs).get)

    return sift(read, keep, lambda runs: runs[0].node_pk, after, most, most + 1 if found is None else _LOOKED_AT)


def _node(row: SpecialTaskRow) -> int:
    return row.node_pk


def _properties(runs: list[SpecialTaskRow]) -> dict[str, object]:
    """What lists are filtered by; a task that did not run there has none of it."""
    found: dict[str, object] = {"poolId": runs[0].pool_id, "nodeId": runs[0].node_id}
    for row in runs:
        info = "jobReleaseTaskExecutionInfo" if row.kind == RELEASE else "jobPreparationTaskExecutionInfo"
        found |= {
            f"{info}/state": row.state,
            f"{info}/startTime": row.started,
            f"{info}/endTime": row.ended,
            f"{info}/exitCode": row.exit_code,
            f"{info}/result": row.result,
        }
    return found


def running(reader: Reader, node_pk: int) -> Sequence[SpecialTaskRow]:
    """Special tasks that a node should run."""
    return reader.soon(_RUNNING, node_pk=node_pk)


def closed_nodes(reader: Reader, job_pk: int) -> list[int]:
    """Nodes on which the preparation task of a job failed for good; closed unless its tasks do not wait for success."""
    return reader.all(_CLOSED, job_pk=job_pk)


def nodes_of(reader: Reader, job_pk: int) -> list[int]:
    """Nodes that still exist and ran a special task of a job."""
    return reader.all(_NODES_OF, job_pk=job_pk)


def order(reader: Reader, pk: int) -> SpecialOrder:
    """What a node has to be told to run a special task."""
    found = reader.first(_ORDER, pk=pk)
    assert found is not None, f"special task {pk} has no job"
    return found


def add(tx: Tx, **values: Any) -> int:
    """Insert a running special task; its key, which no other ever had: nodes know runs by it."""
    return tx.insert("special_task", pk=tx.reserve("special_task", 1), state=SpecialTaskState.RUNNING, **values)


def move(tx: Tx, row: SpecialTaskRow, **changes: Any) -> SpecialTaskRow:
    """Change a special task, but for its state, that nobody changed since it was read; the task as it is then."""
    return tx.move(ROWS, row, changes)


def set_state(tx: Tx, row: SpecialTaskRow, changes: Mapping[str, Any]) -> SpecialTaskRow:
    """The same with its state, for `engine.changes` alone."""
    return tx.set_state(ROWS, row, changes)


def expired(reader: Reader, now: int, n: int) -> list[SpecialTaskRow]:
    """Special tasks whose directories are to be removed, the longest overdue first."""
    return reader.all(_EXPIRED, now=now, n=n)


def delete(tx: Tx, pk: int) -> None:
    """Remove a special task; the next task of the job makes the node run it again."""
    tx.change(_DELETE, pk=pk)


def prepared(reader: Reader, node_pk: int) -> list[SpecialTaskRow]:
    """Preparation tasks that succeeded on a node and need not be made again yet."""
    return reader.all(_PREPARED, node_pk=node_pk)


def delete_preparations(tx: Tx, node_pk: int) -> None:
    """Forget every preparation on a node."""
    tx.change(_DELETE_PREPARATIONS, node_pk=node_pk)


def delete_start(tx: Tx, node_pk: int) -> None:
    """Forget the start task of a node that is gone."""
    tx.change(_DELETE_START, node_pk=node_pk)


def delete_of_job(tx: Tx, job_pk: int) -> None:
    """Remove all special tasks of a job."""
    tx.change(_DELETE_OF_JOB, job_pk=job_pk)
