"""Changes of the state of instances of multi-instance tasks."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import SUBTASK, SubtaskHappened
from batchyard.store import instances as rows
from batchyard.store.instances import InstanceRow
from batchyard.store.tx import Tx


def change_instance(tx: Tx, row: InstanceRow, happened: SubtaskHappened, now: int, **columns: Any) -> InstanceRow:
    """Move an instance to the state that follows; the instance as it is then. Raises IllegalChange, Conflict."""
    state = SUBTASK.after(row.state, happened)
    previous = {"previous_state": row.state, "previous_time": row.state_time}
    fresh = rows.set_state(tx, row, columns | previous | {"state": state, "state_time": now})
    tx.log(now, "subtask", row.pk, happened, old=row.state, new=state, cause=f"node {row.node_pk}")
    return fresh
