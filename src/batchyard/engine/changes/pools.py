"""Changes of the state of pools and of the state of their size, which has a table of its own."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import ALLOCATION, POOL, AllocationHappened, PoolHappened
from batchyard.store import pools as pool_rows
from batchyard.store.pools import PoolRow, PoolView
from batchyard.store.tx import Tx


def change_pool(tx: Tx, pool: PoolRow, happened: PoolHappened, now: int, **columns: Any) -> PoolView:
    """Move a pool to the state that follows; the pool as it is then. Raises IllegalChange, Conflict."""
    state = POOL.after(pool.state, happened)
    fresh = pool_rows.set_state(tx, pool, columns | {"state": state, "state_time": now})
    tx.log(now, "pool", pool.pk, happened, old=pool.state, new=state)
    return fresh


def change_size(tx: Tx, pool: PoolRow, happened: AllocationHappened, now: int, *, cause: str | None = None, **columns: Any) -> PoolView:
    """Move the size of a pool to the state that follows; the pool as it is then. Raises IllegalChange, Conflict."""
    state = ALLOCATION.after(pool.allocation_state, happened)
    fresh = pool_rows.set_state(tx, pool, columns | {"allocation_state": state, "allocation_time": now})
    tx.log(now, "pool", pool.pk, happened, old=pool.allocation_state, new=state, cause=cause)
    return fresh
