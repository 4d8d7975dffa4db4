"""The transition tables against section 2 of the behaviour contract, written down here a second time by hand."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from batchyard.model.states import AllocationState, JobScheduleState, JobState, NodeState, PoolState, SpecialTaskState, TaskState, Word
from batchyard.model.words import SubtaskState
from batchyard.rules import transitions
from batchyard.rules.transitions import (
    ALLOCATION,
    JOB,
    JOB_SCHEDULE,
    NODE,
    POOL,
    SPECIAL_TASK,
    SUBTASK,
    TABLES,
    TASK,
    AllocationHappened,
    IllegalChange,
    JobHappened,
    JobScheduleHappened,
    NodeHappened,
    PoolHappened,
    SpecialTaskHappened,
    SubtaskHappened,
    Table,
    TaskHappened,
)

# state: what happened > state that follows
EDGES = {
    "pool": "active: delete requested > deleting",
    "allocation": """
        steady: resize requested > resizing
        resizing: resize ended > steady, stop requested > stopping
        stopping: stop requested > stopping, stopped > steady
    """,
    "job": """
        active: disable requested > disabling, terminate requested > terminating, delete requested > deleting,
            auto pool failed > completed
        disabling: disable requested > disabling, disabled > disabled, terminate requested > terminating, delete requested > deleting
        disabled: disable requested > disabling, enable requested > enabling, terminate requested > terminating,
            delete requested > deleting
        enabling: enabled > active, terminate requested > terminating, delete requested > deleting
        terminating: ended > completed, delete requested > deleting
        completed: delete requested > deleting
    """,
    "job_schedule": """
        active: disabled > disabled, exhausted > completed, terminate requested > terminating, delete requested > deleting
        disabled: enabled > active, exhausted > completed, terminate requested > terminating, delete requested > deleting
        terminating: ended > completed, delete requested > deleting
        completed: delete requested > deleting
    """,
    "special task": """
        running: ended > completed, started > running
        completed: started > running
    """,
    "subtask": """
        preparing: prepared > running, ended > completed
        running: ended > completed
    """,
    "task": """
        active: assigned > preparing, started > running, terminated > completed
        preparing: prepared > running, preparation failed > active, requeued > active, node lost > active, terminated > completed,
            ended > completed, retry due > active
        running: ended > completed, retry due > active, requeued > active, node lost > active, terminated > completed,
            preparation failed > active
        completed: reactivated > active
    """,
    "node": """
        creating: launched > starting, joined > idle, start task started > waitingforstarttask, broken > unusable,
            preempted > preempted, remove requested > leavingpool
        starting: joined > idle, start task started > waitingforstarttask, silent > unknown,
            agent stopped > unknown, lost > starting, broken > unusable,
            preempted > preempted, remove requested > leavingpool
        waitingforstarttask: start task succeeded > idle, start task failed > starttaskfailed, silent > unknown,
            agent stopped > unknown, lost > starting,
            broken > unusable, preempted > preempted, remove requested > leavingpool
        starttaskfailed: silent > unknown,
            agent stopped > unknown, lost > starting, broken > unusable, preempted > preempted, reboot requested > rebooting,
            reimage requested > reimaging, deallocate requested > deallocating, remove requested > leavingpool
        idle: task started > running, went offline > offline, silent > unknown,
            agent stopped > unknown, lost > starting, broken > unusable,
            preempted > preempted, reboot requested > rebooting, reimage requested > reimaging, upgrade started > upgradingos,
            deallocate requested > deallocating, remove requested > leavingpool
        running: tasks ended > idle, went offline > offline, silent > unknown,
            agent stopped > unknown, lost > starting, broken > unusable,
            preempted > preempted, reboot requested > rebooting, reimage requested > reimaging,
            deallocate requested > deallocating, remove requested > leavingpool
        offline: scheduling enabled > idle, silent > unknown,
            agent stopped > unknown, lost > starting, broken > unusable, preempted > preempted,
            reboot requested > rebooting, reimage requested > reimaging, deallocate requested > deallocating,
            remove requested > leavingpool
        unknown: joined > idle, start task started > waitingforstarttask, lost > starting, broken > unusable, preempted > preempted,
            reboot requested > rebooting, reimage requested > reimaging, remove requested > leavingpool
        unusable: joined > idle, healed > idle, silent > unknown, agent stopped > unknown, preempted > preempted,
            start task started > waitingforstarttask, lost > starting, reboot requested > rebooting,
            reimage requested > reimaging, deallocate requested > deallocating, remove requested > leavingpool
        rebooting: restarted > starting, silent > unknown, preempted > preempted, remove requested > leavingpool
        reimaging: restarted > starting, silent > unknown, preempted > preempted, remove requested > leavingpool
        preempted: capacity returned > creating, remove requested > leavingpool
        upgradingos: restarted > starting, remove requested > leavingpool
        deallocating: deallocated > deallocated, remove requested > leavingpool
        deallocated: start requested > starting, remove requested > leavingpool
    """,
}
KINDS: list[tuple[Table[Any, Any], type[Word], type[StrEnum], Word]] = [
    (POOL, PoolState, PoolHappened, PoolState.ACTIVE),
    (ALLOCATION, AllocationState, AllocationHappened, AllocationState.RESIZING),
    (JOB, JobState, JobHappened, JobState.ACTIVE),
    (JOB_SCHEDULE, JobScheduleState, JobScheduleHappened, JobScheduleState.ACTIVE),
    (SPECIAL_TASK, SpecialTaskState, SpecialTaskHappened, SpecialTaskState.RUNNING),
    (SUBTASK, SubtaskState, SubtaskHappened, SubtaskState.PREPARING),
    (TASK, TaskState, TaskHappened, TaskState.ACTIVE),
    (NODE, NodeState, NodeHappened, NodeState.CREATING),
]
each_kind = pytest.mark.parametrize(("table", "states", "happenings", "first"), KINDS, ids=[kind[0].name for kind in KINDS])


def edges(text: str) -> dict[tuple[str, str], str]:
    """(state, what happened) to the state that follows."""
    found: dict[tuple[str, str], str] = {}
    state = ""
    for line in text.strip().splitlines():
        head, colon, rest = line.strip().rpartition(":")
        state = head or state if colon else state
        for edge in filter(None, map(str.strip, rest.split(","))):
            happened, _, after = edge.partition(" > ")
            found[state, happened] = after
    return found


@each_kind
def test_every_pair_is_what_the_contract_says(table: Table[Any, Any], states: type[Word], happenings: type[StrEnum], first: Word) -> None:
    legal = edges(EDGES[table.name])
    for state in states:
        for happened in happenings:
            after = legal.pop((state.value, happened.value), None)
            assert table.allows(state, happened) == (after is not None), (state, happened)
            if after is not None:
                assert table.after(state, happened) == after, (state, happened)
            else:
                with pytest.raises(IllegalChange, match=f"{table.name}: {happened} in state {state}"):
                    table.after(state, happened)
    assert legal == {}


@each_kind
def test_every_state_is_reached_from_the_first(table: Table[Any, Any], states: type[Word], happenings: type[StrEnum], first: Word) -> None:
    reached = {first}
    while True:
        more = {after for (state, _), after in table.changes.items() if state in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(states)


@each_kind
def test_everything_that_can_happen_has_a_place(table: Table[Any, Any], states: type[Word], happenings: type[StrEnum], first: Word) -> None:
    assert {happened for _, happened in table.changes} == set(happenings)


def test_all_tables_are_tested_and_cannot_be_written() -> None:
    assert {id(kind[0]) for kind in KINDS} == {id(table) for table in TABLES}
    assert {table.name for table in TABLES} == set(EDGES)
    with pytest.raises(TypeError):
        transitions.TASK.changes[TaskState.COMPLETED, TaskHappened.STARTED] = TaskState.RUNNING  # type: ignore[index]


def printer() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "diagrams.py"
    spec = importlib.util.spec_from_file_location("diagrams", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_in_the_docs_equal_the_tables() -> None:
    diagrams = printer()
    assert diagrams.STATES.read_text(encoding="utf-8") == diagrams.page(), "run scripts/diagrams.py --write"
