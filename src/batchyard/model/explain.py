"""Answers to "why is it not running?", as the explain reads serve them; no SDK knows these shapes."""

from __future__ import annotations

from batchyard.model.common import Shape, Timestamp
from batchyard.model.states import Word


class Code(Word):
    """Why something runs or does not run; a word that never changes its meaning."""

    RUNNING = "Running"
    PREPARING = "Preparing"
    COMPLETED = "Completed"
    FAILED = "Failed"
    READY = "Ready"
    JOB_DISABLED = "JobDisabled"
    JOB_DISABLING = "JobDisabling"
    JOB_ENABLING = "JobEnabling"
    JOB_TERMINATING = "JobTerminating"
    JOB_COMPLETED = "JobCompleted"
    JOB_DELETING = "JobDeleting"
    AUTO_POOL_FAILED = "AutoPoolFailed"
    NO_TASKS = "NoTasks"
    ALL_TASKS_COMPLETED = "AllTasksCompleted"
    BLOCKED_BY_FAILURE = "BlockedByFailure"
    DEPENDENCY_CYCLE = "DependencyCycle"
    WAITS_FOR_MISSING_TASK = "WaitsForMissingTask"
    WAITS_FOR_TASK = "WaitsForTask"
    WAITS_FOR_RANGE = "WaitsForRange"
    MAX_PARALLEL_TASKS = "MaxParallelTasks"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_DELETING = "PoolDeleting"
    POOL_EMPTY = "PoolEmpty"
    POOL_RESIZING = "PoolResizing"
    ALLOCATION_FAILED = "AllocationFailed"
    LAUNCH_FAILS = "LaunchFails"
    NODES_STARTING = "NodesStarting"
    START_TASK_FAILED = "StartTaskFailed"
    NODES_PREEMPTED = "NodesPreempted"
    NODES_DEALLOCATED = "NodesDeallocated"
    NODES_UNUSABLE = "NodesUnusable"
    NODE_SILENT = "NodeSilent"
    NODE_LEAVES = "NodeLeaves"
    NODE_WORKS = "NodeWorks"
    SCHEDULING_DISABLED = "SchedulingDisabled"
    TOO_BIG = "TooBig"
    PREPARATION_FAILED = "PreparationFailed"
    WANTS_DEDICATED_NODE = "WantsDedicatedNode"
    WANTS_EMPTY_NODE = "WantsEmptyNode"
    NOT_ENOUGH_FREE = "NotEnoughFree"
    NODES_BUSY = "NodesBusy"
    HIGHER_PRIORITY = "HigherPriority"
    NODE_HELD = "NodeHeld"
    HELD_FOR_OTHERS = "HeldForOthers"
    WANTS_INTER_NODE_COMMUNICATION = "WantsInterNodeCommunication"
    TOO_FEW_NODES = "TooFewNodes"
    NODES_AT_ONCE = "NodesAtOnce"
    KEPT_FOR_OTHERS = "KeptForOthers"
    BEHIND_OTHERS = "BehindOthers"
    IDLE_WHILE_TASKS_WAIT = "IdleWhileTasksWait"
    NOTHING_WAITS = "NothingWaits"
    POOL_WORKS = "PoolWorks"
    SCHEDULE_WAITS = "ScheduleWaits"
    NEVER_DUE = "NeverDue"
    PREVIOUS_JOB_ACTIVE = "PreviousJobActive"
    ACTIVE_JOB_QUOTA = "ActiveJobQuota"
    DUE_TIME_MISSED = "DueTimeMissed"
    SCHEDULE_DISABLED = "ScheduleDisabled"
    SCHEDULE_TERMINATING = "ScheduleTerminating"
    SCHEDULE_COMPLETED = "ScheduleCompleted"
    SCHEDULE_DELETING = "ScheduleDeleting"


class Reason(Shape):
    """One link of the chain, and what can be done about it."""

    code: Code
    sentence: str
    action: str
    job_id: str | None = None
    task_id: str | None = None
    """The task that is waited for, not the one that waits."""
    node_id: str | None = None
    job_schedule_id: str | None = None
    since: Timestamp | None = None
    look: str | None = None
    """A command line that shows more: what was written, or how it stands."""
    command: str | None = None
    """A command line that mends it, once the action has been taken to heart; `COMMAND` stands for what only the user knows."""
    because: list[Reason] | None = None
    """The links that follow."""


class ReasonGroup(Shape):
    """Tasks that share the code of their first reason."""

    code: Code
    tasks: int
    """How many of those that were looked at."""
    job_id: str
    example: str
    """Id of the first of them."""
    reason: Reason
    """That of the example."""


class Explanation(Shape):
    """Why a task, a job, a job schedule, a pool or a node is as it is; the deciding reason first."""

    kind: str
    id: str
    state: str
    reasons: list[Reason]
    job_id: str | None = None
    pool_id: str | None = None
    groups: list[ReasonGroup] | None = None
    looked_at: int | None = None
    """Tasks that the groups count; the first ready and the first blocked ones, never all."""
    waiting: int | None = None
    """Tasks that are active."""
    running: int | None = None
