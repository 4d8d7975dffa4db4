"""Changes of the state of job schedules."""

from __future__ import annotations

from typing import Any

from batchyard.rules.transitions import JOB_SCHEDULE, JobScheduleHappened
from batchyard.store import schedules as rows
from batchyard.store.schedules import ScheduleRow
from batchyard.store.tx import Tx


def change_schedule(
    tx: Tx, schedule: ScheduleRow, happened: JobScheduleHappened, now: int, *, cause: str | None = None, **columns: Any
) -> ScheduleRow:
    """Move a job schedule to the state that follows; the schedule as it is then. Raises IllegalChange, Conflict."""
    state = JOB_SCHEDULE.after(schedule.state, happened)
    columns |= {"state": state, "state_time": now, "previous_state": schedule.state, "previous_time": schedule.state_time}
    fresh = rows.set_state(tx, schedule, columns)
    tx.log(now, "job_schedule", schedule.pk, happened, old=schedule.state, new=state, cause=cause)
    return fresh
