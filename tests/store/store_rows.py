"""A few rows to fill a store with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchyard.store import jobs, pools, tasks
from batchyard.store.reader import Reader, Statement
from batchyard.store.tx import Tx

NOW = 1_700_000_000_000_000


def add_job(tx: Tx, /, job_id: str, **more: Any) -> int:
    values: dict[str, Any] = {
        "state": "active",
        "state_time": NOW,
        "created": NOW,
        "modified": NOW,
        "started": NOW,
        "pool_key": "pool",
        "priority": 0,
        "max_parallel": -1,
        "max_retries": 0,
        "uses_dependencies": 1,
        "ends_when_complete": 0,
        "acts_on_failure": 0,
        "body": b"{}",
    }
    return jobs.add(tx, id=job_id, **values | more)


def add_pool(tx: Tx, pool_id: str, **more: Any) -> int:
    values: dict[str, Any] = {
        "state": "active",
        "state_time": NOW,
        "allocation_state": "steady",
        "allocation_time": NOW,
        "created": NOW,
        "modified": NOW,
        "target_dedicated": 0,
        "target_low_priority": 0,
        "slots_per_node": 1,
        "pack": 0,
        "resize_timeout": 0,
        "body": b"{}",
    }
    return pools.add(tx, id=pool_id, **values | more)


def add_tasks(tx: Tx, job_pk: int, *names: str, slots: int = 1) -> int:
    """Add ready tasks, counted and logged; key of the first."""
    first = tx.reserve("task", len(names))
    flags = {"wants_token": 0, "manager": 0, "exclusive": 0, "dedicated_only": 0}
    rows = [
        tasks.NewTask(
            pk, job_pk, name, None, 1, 0, slots, 0, None, NOW, None, affinity=None, instances=0, modified=NOW, state_time=NOW, **flags
        )
        for pk, name in enumerate(names, first)
    ]
    tasks.add(tx, rows, [(row.pk, b"{}") for row in rows])
    tx.count(job_pk, active=len(names), ready=len(names), active_slots=slots * len(names))
    tx.log(NOW, "task", first, "added", until=first + len(names) - 1, new="active")
    return first


def numbers(reader: Reader, /, sql: str, **params: Any) -> list[int]:
    """First column of the answer."""
    first: Callable[..., int] = lambda *values: int(values[0])  # noqa: E731
    return reader.all(Statement(sql, first), **params)
