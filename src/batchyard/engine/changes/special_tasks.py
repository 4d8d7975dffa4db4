"""Changes of the state of start, job preparation and job release tasks."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import SPECIAL_TASK, SpecialTaskHappened
from batchyard.store import special_tasks as rows
from batchyard.store.special_tasks import SpecialTaskRow
from batchyard.store.tx import Tx


def change_special_task(
    tx: Tx, row: SpecialTaskRow, happened: SpecialTaskHappened, now: int, *, cause: str | None = None, **columns: Any
) -> SpecialTaskRow:
    """Move a special task to the state that follows; the task as it is then. Raises IllegalChange, Conflict."""
    state = SPECIAL_TASK.after(row.state, happened)
    fresh = rows.set_state(tx, row, columns | {"state": state})
    tx.log(now, row.kind, row.pk, happened, old=row.state, new=state, cause=cause)
    return fresh
