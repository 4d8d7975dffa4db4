"""Changes of the state of tasks, with the counters of their job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec

from batchyard.model.states import TaskResult, TaskState
from batchyard.rules.transitions import TASK, TaskHappened
from batchyard.store import tasks as task_rows
from batchyard.store.tasks import TaskRow
from batchyard.store.tx import Tx

_Changed = tuple[tuple[str, str, int], ...]
"""Counters of tasks and of their slots, and by how many tasks they change."""


class Start(msgspec.Struct, frozen=True):
    """A task that may start, the node that it is given to, and what happens to it by that."""

    pk: int
    job_pk: int
    node_pk: int
    slots: int
    held: int
    """Slots of the node that nobody else has meanwhile."""
    happened: TaskHappened


class TaskChange(msgspec.Struct, frozen=True):
    """What happens to a task, and what of it changes by that beside its state."""

    task: TaskRow
    happened: TaskHappened
    columns: Mapping[str, Any]
    cause: str | None = None
    used: Mapping[str, int] = MappingProxyType({})
    """What a run cost, in microseconds, which is added to what is known of the task and its job."""


def change_task(tx: Tx, task: TaskRow, happened: TaskHappened, now: int, *, cause: str | None = None, **columns: Any) -> TaskRow:
    """Move a task to the state that follows; the task as it is then. Raises IllegalChange, Conflict."""
    return change_tasks(tx, [TaskChange(task, happened, columns, cause)], now)[0]


def change_tasks(tx: Tx, changes: Sequence[TaskChange], now: int) -> list[TaskRow]:
    """Move tasks to the states that follow, of each the same columns, all in one statement; as they are then. Raises the same."""
    changed = task_rows.set_states(tx, [(change.task, _columns(change, now)) for change in changes])
    for change, fresh in zip(changes, changed, strict=True):
        task = change.task
        _count(tx, task, fresh.ready - task.ready, _changed(task.state, task.result, fresh.state, fresh.result), change.used)
        tx.log(now, "task", task.pk, change.happened, old=task.state, new=fresh.state, cause=change.cause)
    return changed


def _columns(change: TaskChange, now: int) -> dict[str, Any]:
    task, state = change.task, TASK.after(change.task.state, change.happened)
    columns = {
        **change.columns,
        "state": state.value,
        "ready": int(state is TaskState.ACTIVE and task.unmet == 0),
        "state_time": now,
        "previous_state": task.state,
        "previous_time": task.state_time,
    }
    for name, us in change.used.items():
        columns[name] = getattr(task, name) + us
    return columns


def start_tasks(tx: Tx, starts: Sequence[Start], now: int) -> None:
    """Begin a new numbered run of every task, all in one statement. Raises Conflict when one may not start any more."""
    rows: list[dict[str, Any]] = []
    for start in starts:
        state = TASK.after(TaskState.ACTIVE, start.happened)
        started = now if state is TaskState.RUNNING else None
        rows.append({"pk": start.pk, "node_pk": start.node_pk, "state": state.value, "held": start.held, "started": started, "now": now})
        tx.count(
            start.job_pk, ready=-1, active=-1, running=1, ready_slots=-start.slots, active_slots=-start.slots, running_slots=start.slots
        )
        tx.log(now, "task", start.pk, start.happened, old=TaskState.ACTIVE, new=state, cause=f"node {start.node_pk}")
    task_rows.start(tx, rows)


def count_out(tx: Tx, task: TaskRow) -> None:
    """A task goes: its job counts it no longer."""
    _count(tx, task, -task.ready, tuple((name, f"{name}_slots", -1) for name in _counted(task.state, task.result)))


def _count(tx: Tx, task: TaskRow, ready: int, changed: _Changed, used: Mapping[str, int] = MappingProxyType({})) -> None:
    deltas = {"ready": ready, "ready_slots": ready * task.slots, **used}
    for name, slots, by in changed:
        deltas[name], deltas[slots] = by, by * task.slots
    tx.count(task.job_pk, **deltas)


@cache
def _changed(state: TaskState, result: TaskResult | None, after: TaskState, with_result: TaskResult | None) -> _Changed:
    """Counters that differ between a task in the one state and in the other."""
    before, then = set(_counted(state, result)), set(_counted(after, with_result))
    return tuple((name, f"{name}_slots", 1 if name in then else -1) for name in sorted(before ^ then))


def _counted(state: TaskState, result: TaskResult | None) -> tuple[str, ...]:
    """Counters that a task in this state is one of."""
    if state == TaskState.ACTIVE:
        return ("active",)
    if state != TaskState.COMPLETED:
        return ("running",)
    if result is None:
        return ("completed",)
    return ("completed", "succeeded" if result == TaskResult.SUCCESS else "failed")
