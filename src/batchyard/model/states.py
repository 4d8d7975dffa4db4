"""States of every resource, spelt exactly as they go over the wire (contract A.8)."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """An enumeration that is read without regard to case and written exactly as spelt here."""

    @classmethod
    def _missing_(cls, value: object) -> Word | None:
        if isinstance(value, str):
            wanted = value.lower()
            return next((word for word in cls if word.value.lower() == wanted), None)
        return None


class PoolState(Word):
    """Life of a pool."""

    ACTIVE = "active"
    DELETING = "deleting"


class AllocationState(Word):
    """Whether the number of nodes is changing."""

    STEADY = "steady"
    RESIZING = "resizing"
    STOPPING = "stopping"


class NodeState(Word):
    """Life of a compute node."""

    IDLE = "idle"
    REBOOTING = "rebooting"
    REIMAGING = "reimaging"
    RUNNING = "running"
    UNUSABLE = "unusable"
    CREATING = "creating"
    STARTING = "starting"
    WAITING_FOR_START_TASK = "waitingforstarttask"
    START_TASK_FAILED = "starttaskfailed"
    UNKNOWN = "unknown"
    LEAVING_POOL = "leavingpool"
    OFFLINE = "offline"
    PREEMPTED = "preempted"
    UPGRADING_OS = "upgradingos"
    DEALLOCATED = "deallocated"
    DEALLOCATING = "deallocating"


class SchedulingState(Word):
    """Whether a node takes new tasks."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class JobState(Word):
    """Life of a job."""

    ACTIVE = "active"
    DISABLING = "disabling"
    DISABLED = "disabled"
    ENABLING = "enabling"
    TERMINATING = "terminating"
    COMPLETED = "completed"
    DELETING = "deleting"


class TaskState(Word):
    """Life of a task."""

    ACTIVE = "active"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"


class JobScheduleState(Word):
    """Life of a job schedule."""

    ACTIVE = "active"
    COMPLETED = "completed"
    DISABLED = "disabled"
    TERMINATING = "terminating"
    DELETING = "deleting"


class SpecialTaskState(Word):
    """Life of a start, job preparation or job release task."""

    RUNNING = "running"
    COMPLETED = "completed"


class TaskResult(Word):
    """How a completed task ended."""

    SUCCESS = "success"
    FAILURE = "failure"


class ErrorCategory(Word):
    """Who has to mend a failure."""

    USER_ERROR = "usererror"
    SERVER_ERROR = "servererror"
