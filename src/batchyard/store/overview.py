"""What an account does, pool by pool, from counters that are kept anyway."""

from __future__ import annotations

import msgspec

from batchyard.store.reader import Reader, Statement


class PoolWork(msgspec.Struct):
    """Tasks of the jobs of one pool that are not over; `pool_key` is its id in lower case."""

    pool_key: str
    open_jobs: int
    ready: int
    """Tasks that wait for nothing but a node."""
    active: int
    running: int


class PoolNodes(msgspec.Struct):
    """Nodes of a pool in one state."""

    pool_key: str
    state: str
    nodes: int
    slots: int
    slots_used: int


_WORK = Statement(
    # By the states that are not over, because of those that are there may be very many.
    "SELECT job.pool_key, sum(open), sum(job_counts.ready), sum(active), sum(running) FROM pool"
    " JOIN job ON job.pool_key = lower(pool.id) AND job.state IN ('active', 'disabling', 'disabled', 'enabling', 'terminating')"
    " JOIN job_counts ON job_pk = job.pk GROUP BY job.pool_key ORDER BY job.pool_key",
    PoolWork,
)
_NODES = Statement(
    "SELECT lower(pool.id), node.state, count(*), sum(slots), sum(slots_used) FROM node JOIN pool ON pool.pk = node.pool_pk"
    " GROUP BY lower(pool.id), node.state ORDER BY lower(pool.id), node.state",
    PoolNodes,
)


def account(reader: Reader) -> tuple[list[PoolWork], list[PoolNodes]]:
    """All pools that have jobs, and all that have nodes."""
    return reader.all(_WORK), reader.all(_NODES)
