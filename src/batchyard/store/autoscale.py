"""Samples of pools' counters, and the last evaluations of their formulas."""

from __future__ import annotations

import msgspec

from batchyard.model.autoscale import Sample
from batchyard.store.pools import PoolView
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx


class TaskCounters(msgspec.Struct):
    """Tasks and slots of all jobs of a pool."""

    active_tasks: int
    running_tasks: int
    succeeded_tasks: int
    failed_tasks: int
    active_task_slots: int
    running_task_slots: int


class NodeCounters(msgspec.Struct):
    """Nodes of a pool."""

    current_dedicated_nodes: int
    current_low_priority_nodes: int
    preempted_node_count: int
    usable_node_count: int
    sample_node_count: int


def _sum(amount: str) -> str:
    return f"CAST(coalesce(sum({amount}), 0) AS BIGINT)"


def _nodes(condition: str) -> str:
    return _sum(f"CASE WHEN {condition} THEN 1 ELSE 0 END")


# Where multi-instance tasks run, each instance counts (contract 6.6), and takes one slot as every other task there does.
_READY_SLOTS = "CASE WHEN job.state = 'active' THEN ready_slots ELSE 0 END"
_READY = "CASE WHEN job.state <> 'active' THEN 0 WHEN :gangs = 1 THEN ready_slots ELSE ready END"
_RUNNING = "CASE WHEN :gangs = 1 THEN running_slots ELSE running END"
_TASKS = Statement(
    f"SELECT {_sum(_READY)}, {_sum(_RUNNING)}, {_sum('succeeded')}, {_sum('failed')}, {_sum(_READY_SLOTS)}, {_sum('running_slots')}"
    " FROM job JOIN job_counts ON job_pk = job.pk WHERE job.pool_key = :pool_key",
    TaskCounters,
)
_PENDING = Statement(
    f"SELECT {_sum(f'{_READY} + {_RUNNING}')} FROM job JOIN job_counts ON job_pk = job.pk"
    " WHERE job.state = 'active' AND job.pool_key = :pool_key",
    int,
)
_NODE_KINDS = (
    "dedicated = 1",
    "dedicated = 0",
    "state = 'preempted'",
    "state IN ('idle', 'running') AND scheduling_state = 'enabled'",
    "state IN ('waitingforstarttask', 'starttaskfailed', 'idle', 'running', 'offline')",
)
_NODES = Statement(f"SELECT {', '.join(map(_nodes, _NODE_KINDS))} FROM node WHERE pool_pk = :pool_pk", NodeCounters)
_COLUMNS = columns(Sample)
_HISTORY = Statement(
    f"SELECT {_COLUMNS} FROM autoscale_sample WHERE pool_pk = :pool_pk AND at >= :since AND at < :before ORDER BY at", Sample
)
_SAMPLED = Statement("SELECT 1 FROM autoscale_sample WHERE pool_pk = :pool_pk AND at = :at", int)
_FIELDS = Sample.__struct_fields__
_PUT = Change(
    f"INSERT INTO autoscale_sample (pool_pk, {_COLUMNS}) VALUES (:pool_pk, {', '.join(f':{name}' for name in _FIELDS)})"
    f" ON CONFLICT (pool_pk, at) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FIELDS[1:])}"
)
_FORGET = Change("DELETE FROM autoscale_sample WHERE pool_pk = :pool_pk AND at < :before")
_RUNS = Statement("SELECT body FROM autoscale_run WHERE pool_pk = :pool_pk ORDER BY pk DESC LIMIT :n", bytes)
_FORGET_RUNS = Change(
    "DELETE FROM autoscale_run WHERE pool_pk = :pool_pk"
    " AND pk <= (SELECT pk FROM autoscale_run WHERE pool_pk = :pool_pk ORDER BY pk DESC LIMIT 1 OFFSET :n)"
)


def present(reader: Reader, pool: PoolView, at: int) -> Sample:
    """What a sample of a pool taken now would say, with `at` as its time."""
    tasks = reader.first(_TASKS, pool_key=pool.id.lower(), gangs=int(pool.takes_gangs))
    nodes = reader.first(_NODES, pool_pk=pool.pk)
    assert tasks is not None
    assert nodes is not None
    return Sample(at, task_slots_per_node=pool.slots_per_node, **msgspec.structs.asdict(tasks), **msgspec.structs.asdict(nodes))


def pending(reader: Reader, pool: PoolView) -> int:
    """Tasks of the pool's active jobs that run or could."""
    return reader.first(_PENDING, pool_key=pool.id.lower(), gangs=int(pool.takes_gangs)) or 0


def history(reader: Reader, pool_pk: int, since: int, before: int) -> list[Sample]:
    """Samples of a pool from a time on, the oldest first."""
    return reader.all(_HISTORY, pool_pk=pool_pk, since=since, before=before)


def sampled(reader: Reader, pool_pk: int, at: int) -> bool:
    """True when there is a sample of this time."""
    return reader.first(_SAMPLED, pool_pk=pool_pk, at=at) is not None


def put(tx: Tx, pool_pk: int, sample: Sample) -> None:
    """Keep a sample, in place of the one of its time."""
    tx.change(_PUT, pool_pk=pool_pk, **msgspec.structs.asdict(sample))


def forget(tx: Tx, pool_pk: int, before: int) -> None:
    """Remove samples from before a time."""
    tx.change(_FORGET, pool_pk=pool_pk, before=before)


def runs(reader: Reader, pool_pk: int, n: int) -> list[bytes]:
    """The last `n` evaluations of a pool, the newest first, as JSON."""
    return reader.all(_RUNS, pool_pk=pool_pk, n=n)


def add_run(tx: Tx, pool_pk: int, body: bytes, kept: int) -> None:
    """Keep an evaluation, and no more than `kept` of them."""
    tx.insert("autoscale_run", pool_pk=pool_pk, body=body)
    tx.change(_FORGET_RUNS, pool_pk=pool_pk, n=kept)
