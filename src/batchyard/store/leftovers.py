"""Nodes that tasks ran on before they moved on: what they left there is removed with all else of them, and not forgotten before."""

from __future__ import annotations

from batchyard.store.reader import Change, Statement
from batchyard.store.tx import Tx

SPECIAL = 0
"""In the place of a task's key: the special tasks of a job, whose own rows may be gone."""

_ADD = Change("INSERT INTO leftover (job_pk, task_pk, node_pk) VALUES (:job_pk, :task_pk, :node_pk) ON CONFLICT DO NOTHING")
_TAKE = Statement("DELETE FROM leftover WHERE job_pk = :job_pk AND task_pk BETWEEN :first AND :last RETURNING node_pk", int)
_FORGET = Change("DELETE FROM leftover WHERE node_pk = :node_pk")


def add(tx: Tx, *, job_pk: int, task_pk: int, node_pk: int) -> None:
    """Note that a task leaves a node behind; once for each node, however often."""
    tx.change(_ADD, job_pk=job_pk, task_pk=task_pk, node_pk=node_pk)


def take(tx: Tx, job_pk: int, first: int, last: int) -> set[int]:
    """Nodes that tasks of a job with these keys left behind, which is forgotten by that."""
    return set(tx.all(_TAKE, job_pk=job_pk, first=first, last=last))


def forget(tx: Tx, node_pk: int) -> None:
    """Nothing is left on a node that is gone, or lost all its files."""
    tx.change(_FORGET, node_pk=node_pk)
