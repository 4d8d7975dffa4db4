"""Which state follows which: one table per resource (contract section 2).

Nobody else decides on a `state`. A pair that is not in a table is a bug or a stale report, never a state.
The diagrams in docs/ are printed from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from batchyard.model.states import AllocationState, JobScheduleState, JobState, NodeState, PoolState, SpecialTaskState, TaskState, Word
from batchyard.model.words import SubtaskState

S = TypeVar("S", bound=Word)
H = TypeVar("H", bound=StrEnum)


class IllegalChange(Exception):
    """The thing that happened cannot happen in this state."""


class Table(Generic[S, H]):
    """The legal changes of one kind of resource."""

    def __init__(self, name: str, changes: Mapping[tuple[S, H], S]) -> None:
        self.name = name
        self.changes: Mapping[tuple[S, H], S] = MappingProxyType(dict(changes))

    def after(self, state: S, happened: H) -> S:
        """State that follows, or IllegalChange (a bug or a stale report)."""
        try:
            return self.changes[state, happened]
        except KeyError:
            raise IllegalChange(f"{self.name}: {happened} in state {state}") from None

    def allows(self, state: S, happened: H) -> bool:
        """True when `happened` has a place in `state`."""
        return (state, happened) in self.changes


class TaskHappened(StrEnum):
    """What can happen to a task."""

    ASSIGNED = "assigned"  # to a node whose job preparation task has yet to succeed
    STARTED = "started"  # on a node that needs no preparation
    PREPARED = "prepared"
    PREPARATION_FAILED = "preparation failed"
    ENDED = "ended"
    RETRY_DUE = "retry due"
    REQUEUED = "requeued"
    NODE_LOST = "node lost"
    TERMINATED = "terminated"
    REACTIVATED = "reactivated"


_A, _P, _R, _C = TaskState.ACTIVE, TaskState.PREPARING, TaskState.RUNNING, TaskState.COMPLETED

TASK = Table(
    "task",
    {
        (_A, TaskHappened.ASSIGNED): _P,
        (_A, TaskHappened.STARTED): _R,
        (_A, TaskHappened.TERMINATED): _C,
        (_P, TaskHappened.PREPARED): _R,
        (_P, TaskHappened.PREPARATION_FAILED): _A,
        (_P, TaskHappened.REQUEUED): _A,
        (_P, TaskHappened.NODE_LOST): _A,
        (_P, TaskHappened.TERMINATED): _C,
        (_P, TaskHappened.ENDED): _C,  # by another instance than the primary, as the next
        (_P, TaskHappened.RETRY_DUE): _A,
        (_R, TaskHappened.ENDED): _C,
        (_R, TaskHappened.RETRY_DUE): _A,
        (_R, TaskHappened.REQUEUED): _A,
        (_R, TaskHappened.NODE_LOST): _A,
        (_R, TaskHappened.TERMINATED): _C,
        (_R, TaskHappened.PREPARATION_FAILED): _A,  # on the node of another instance than the primary
        (_C, TaskHappened.REACTIVATED): _A,
    },
)


class SubtaskHappened(StrEnum):
    """What can happen to an instance of a multi-instance task."""

    PREPARED = "prepared"
    ENDED = "ended"  # by itself, or with its task


_SUB = SubtaskState

SUBTASK = Table(
    "subtask",
    {
        (_SUB.PREPARING, SubtaskHappened.PREPARED): _SUB.RUNNING,
        **{(state, SubtaskHappened.ENDED): _SUB.COMPLETED for state in (_SUB.PREPARING, _SUB.RUNNING)},
    },
)


class SpecialTaskHappened(StrEnum):
    """What can happen to a start, job preparation or job release task."""

    STARTED = "started"  # from its first run, whatever came of earlier ones
    ENDED = "ended"


SPECIAL_TASK = Table(
    "special task",
    {
        (SpecialTaskState.RUNNING, SpecialTaskHappened.ENDED): SpecialTaskState.COMPLETED,
        (SpecialTaskState.RUNNING, SpecialTaskHappened.STARTED): SpecialTaskState.RUNNING,
        (SpecialTaskState.COMPLETED, SpecialTaskHappened.STARTED): SpecialTaskState.RUNNING,
    },
)


class JobHappened(StrEnum):
    """What can happen to a job."""

    DISABLE_REQUESTED = "disable requested"
    DISABLED = "disabled"
    ENABLE_REQUESTED = "enable requested"
    ENABLED = "enabled"
    TERMINATE_REQUESTED = "terminate requested"
    ENDED = "ended"
    AUTO_POOL_FAILED = "auto pool failed"
    DELETE_REQUESTED = "delete requested"


_JOB_OPEN = (JobState.ACTIVE, JobState.DISABLING, JobState.DISABLED, JobState.ENABLING)

JOB = Table(
    "job",
    {
        **{
            (state, JobHappened.DISABLE_REQUESTED): JobState.DISABLING for state in (JobState.ACTIVE, JobState.DISABLING, JobState.DISABLED)
        },
        (JobState.DISABLING, JobHappened.DISABLED): JobState.DISABLED,
        (JobState.DISABLED, JobHappened.ENABLE_REQUESTED): JobState.ENABLING,
        (JobState.ENABLING, JobHappened.ENABLED): JobState.ACTIVE,
        **{(state, JobHappened.TERMINATE_REQUESTED): JobState.TERMINATING for state in _JOB_OPEN},
        (JobState.TERMINATING, JobHappened.ENDED): JobState.COMPLETED,
        (JobState.ACTIVE, JobHappened.AUTO_POOL_FAILED): JobState.COMPLETED,
        **{(state, JobHappened.DELETE_REQUESTED): JobState.DELETING for state in JobState if state is not JobState.DELETING},
    },
)


class JobScheduleHappened(StrEnum):
    """What can happen to a job schedule."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    EXHAUSTED = "exhausted"  # no job will come any more, and none is active
    TERMINATE_REQUESTED = "terminate requested"
    ENDED = "ended"
    DELETE_REQUESTED = "delete requested"


_S = JobScheduleState
_SCHEDULE_OPEN = (_S.ACTIVE, _S.DISABLED)

JOB_SCHEDULE = Table(
    "job_schedule",
    {
        (_S.ACTIVE, JobScheduleHappened.DISABLED): _S.DISABLED,
        (_S.DISABLED, JobScheduleHappened.ENABLED): _S.ACTIVE,
        **{(state, JobScheduleHappened.EXHAUSTED): _S.COMPLETED for state in _SCHEDULE_OPEN},
        **{(state, JobScheduleHappened.TERMINATE_REQUESTED): _S.TERMINATING for state in _SCHEDULE_OPEN},
        (_S.TERMINATING, JobScheduleHappened.ENDED): _S.COMPLETED,
        **{(state, JobScheduleHappened.DELETE_REQUESTED): _S.DELETING for state in _S if state is not _S.DELETING},
    },
)


class PoolHappened(StrEnum):
    """What can happen to a pool."""

    DELETE_REQUESTED = "delete requested"


POOL = Table("pool", {(PoolState.ACTIVE, PoolHappened.DELETE_REQUESTED): PoolState.DELETING})


class AllocationHappened(StrEnum):
    """What can happen to the size of a pool."""

    RESIZE_REQUESTED = "resize requested"
    RESIZE_ENDED = "resize ended"
    STOP_REQUESTED = "stop requested"
    STOPPED = "stopped"


ALLOCATION = Table(
    "allocation",
    {
        (AllocationState.STEADY, AllocationHappened.RESIZE_REQUESTED): AllocationState.RESIZING,
        (AllocationState.RESIZING, AllocationHappened.RESIZE_ENDED): AllocationState.STEADY,
        (AllocationState.RESIZING, AllocationHappened.STOP_REQUESTED): AllocationState.STOPPING,
        (AllocationState.STOPPING, AllocationHappened.STOP_REQUESTED): AllocationState.STOPPING,
        (AllocationState.STOPPING, AllocationHappened.STOPPED): AllocationState.STEADY,
    },
)


class NodeHappened(StrEnum):
    """What can happen to a compute node."""

    LAUNCHED = "launched"  # the provider has a machine
    JOINED = "joined"  # its agent spoke and there is no start task to wait for
    START_TASK_STARTED = "start task started"  # its agent spoke and the start task has to succeed first
    START_TASK_SUCCEEDED = "start task succeeded"
    START_TASK_FAILED = "start task failed"
    TASK_STARTED = "task started"
    TASKS_ENDED = "tasks ended"  # the last one
    WENT_OFFLINE = "went offline"  # scheduling disabled and nothing left to run
    SCHEDULING_ENABLED = "scheduling enabled"
    SILENT = "silent"
    AGENT_STOPPED = "agent stopped"  # it said so; another one may come
    LOST = "lost"  # the agent is gone, the machine may be started again
    BROKEN = "broken"
    HEALED = "healed"
    REBOOT_REQUESTED = "reboot requested"
    REIMAGE_REQUESTED = "reimage requested"
    RESTARTED = "restarted"
    PREEMPTED = "preempted"
    CAPACITY_RETURNED = "capacity returned"
    UPGRADE_STARTED = "upgrade started"
    REMOVE_REQUESTED = "remove requested"
    DEALLOCATE_REQUESTED = "deallocate requested"
    DEALLOCATED = "deallocated"
    START_REQUESTED = "start requested"


_N, _X = NodeState, NodeHappened
_WORKING = (_N.IDLE, _N.RUNNING)
_REACHABLE = (_N.STARTING, _N.WAITING_FOR_START_TASK, _N.START_TASK_FAILED, _N.IDLE, _N.RUNNING, _N.OFFLINE)
_RESTARTABLE = (*_WORKING, _N.OFFLINE, _N.START_TASK_FAILED, _N.UNUSABLE)
_GONE_OR_GOING = (_N.LEAVING_POOL,)

NODE = Table(
    "node",
    {
        (_N.CREATING, _X.LAUNCHED): _N.STARTING,
        (_N.CREATING, _X.JOINED): _N.IDLE,
        (_N.CREATING, _X.START_TASK_STARTED): _N.WAITING_FOR_START_TASK,
        (_N.STARTING, _X.JOINED): _N.IDLE,
        (_N.STARTING, _X.START_TASK_STARTED): _N.WAITING_FOR_START_TASK,
        (_N.WAITING_FOR_START_TASK, _X.START_TASK_SUCCEEDED): _N.IDLE,
        (_N.WAITING_FOR_START_TASK, _X.START_TASK_FAILED): _N.START_TASK_FAILED,
        (_N.IDLE, _X.TASK_STARTED): _N.RUNNING,
        (_N.RUNNING, _X.TASKS_ENDED): _N.IDLE,
        **{(state, _X.WENT_OFFLINE): _N.OFFLINE for state in _WORKING},
        (_N.OFFLINE, _X.SCHEDULING_ENABLED): _N.IDLE,
        **{(state, _X.SILENT): _N.UNKNOWN for state in (*_REACHABLE, _N.UNUSABLE, _N.REBOOTING, _N.REIMAGING)},
        **{(state, _X.AGENT_STOPPED): _N.UNKNOWN for state in (*_REACHABLE, _N.UNUSABLE)},
        **{(state, _X.LOST): _N.STARTING for state in (*_REACHABLE, _N.UNKNOWN, _N.UNUSABLE)},
        **{(state, _X.BROKEN): _N.UNUSABLE for state in (*_REACHABLE, _N.CREATING, _N.UNKNOWN)},
        (_N.UNKNOWN, _X.JOINED): _N.IDLE,
        (_N.UNUSABLE, _X.JOINED): _N.IDLE,
        (_N.UNUSABLE, _X.HEALED): _N.IDLE,
        (_N.UNKNOWN, _X.START_TASK_STARTED): _N.WAITING_FOR_START_TASK,
        (_N.UNUSABLE, _X.START_TASK_STARTED): _N.WAITING_FOR_START_TASK,
        **{(state, _X.REBOOT_REQUESTED): _N.REBOOTING for state in (*_RESTARTABLE, _N.UNKNOWN)},
        **{(state, _X.REIMAGE_REQUESTED): _N.REIMAGING for state in (*_RESTARTABLE, _N.UNKNOWN)},
        (_N.REBOOTING, _X.RESTARTED): _N.STARTING,
        (_N.REIMAGING, _X.RESTARTED): _N.STARTING,
        **{
            (state, _X.PREEMPTED): _N.PREEMPTED for state in (*_REACHABLE, _N.CREATING, _N.UNKNOWN, _N.UNUSABLE, _N.REBOOTING, _N.REIMAGING)
        },
        (_N.PREEMPTED, _X.CAPACITY_RETURNED): _N.CREATING,
        (_N.IDLE, _X.UPGRADE_STARTED): _N.UPGRADING_OS,
        (_N.UPGRADING_OS, _X.RESTARTED): _N.STARTING,
        **{(state, _X.DEALLOCATE_REQUESTED): _N.DEALLOCATING for state in _RESTARTABLE},
        (_N.DEALLOCATING, _X.DEALLOCATED): _N.DEALLOCATED,
        (_N.DEALLOCATED, _X.START_REQUESTED): _N.STARTING,
        **{(state, _X.REMOVE_REQUESTED): _N.LEAVING_POOL for state in _N if state not in _GONE_OR_GOING},
    },
)

TABLES = (POOL, ALLOCATION, NODE, JOB_SCHEDULE, JOB, TASK, SUBTASK, SPECIAL_TASK)
