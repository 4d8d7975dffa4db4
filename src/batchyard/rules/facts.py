"""The snapshot that explanations are made of: what placement looks at, and what tasks wait for. Times are microseconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from batchyard.model.states import JobScheduleState, JobState, NodeState, TaskState
from batchyard.rules.placement import Room
from batchyard.rules.schedules import Missed


class Wait(msgspec.Struct, frozen=True):
    """Something that a task still waits for: a named task, or numbers of a range."""

    task: str | None = None
    """Key (id in lower case) of the task."""
    low: int = 0
    high: int = 0
    left: int = 0
    """Numbers of the range that are not satisfied."""
    missing: tuple[tuple[int, str | None], ...] = ()
    """The first of these, each with the key of the task that has the number."""


class TaskFacts(msgspec.Struct, kw_only=True):
    """A task; one that is completed without being satisfied blocks what depends on it."""

    pk: int
    id: str
    state: TaskState
    since: int
    ready: bool = False
    slots: int = 1
    exclusive: bool = False
    dedicated_only: bool = False
    node_id: str | None = None
    exit_code: int | None = None
    succeeded: bool = False
    satisfied: bool = False
    failure: str | None = None
    """Code and message of the failure, when an exit code alone does not tell."""
    waits: Sequence[Wait] = ()
    instances: int = 0
    """Of a multi-instance task."""
    held_since: int | None = None
    """Since when nodes are kept free for it, with pauses."""
    ahead: int = 0
    """Ready tasks of the job that come before it, at most `MOST_AHEAD`."""


MOST_AHEAD = 1000
"""Tasks ahead are counted up to here."""
MOST_JOBS = 200
"""Jobs of a pool whose queues are looked at."""


class JobFacts(msgspec.Struct, kw_only=True):
    """A job with its counters; `limit` is maxParallelTasks, None for none."""

    pk: int
    id: str
    state: JobState
    since: int
    pool_id: str
    priority: int = 0
    limit: int | None = None
    ready: int = 0
    active: int = 0
    running: int = 0
    completed: int = 0
    ended_by: str | None = None
    pool_failure: str | None = None
    """Why the pool that it should have had could not be made."""
    closed: frozenset[int] = frozenset()
    """Nodes on which the preparation task failed for good."""
    closed_working: int = 0
    """How many of these take tasks now."""
    preparation_failure: str | None = None
    preparation_id: str | None = None


class ScheduleFacts(msgspec.Struct, kw_only=True):
    """A job schedule, and the job of it that is active."""

    id: str
    state: JobScheduleState
    since: int
    due: int | None
    """When the next job is due, or was if it still may be made."""
    closes: int | None
    """When that is lost."""
    now: int
    job_id: str | None = None
    job_state: JobState | None = None
    job_since: int = 0
    full: bool = False
    """The quota of active jobs and schedules is reached."""
    retry_s: int = 0
    missed: int | None = None
    missed_why: Missed | None = None


class NodeGroup(msgspec.Struct, frozen=True):
    """Nodes of a pool that are alike."""

    state: NodeState
    enabled: bool
    dedicated: bool
    count: int
    largest: int
    """Slots of the largest node."""
    slots: int
    """Slots of all of them."""
    used: int
    since: int
    """When the first of them came to its state."""

    @property
    def working(self) -> bool:
        """True when placement gives them tasks."""
        return self.enabled and self.state in (NodeState.IDLE, NodeState.RUNNING)


class NamedNode(msgspec.Struct, frozen=True):
    """A node that takes no tasks, or was silent for longer than an agent is by itself."""

    id: str
    state: NodeState
    disabled: bool = False
    """Its scheduling is."""
    action: str | None = None
    """What is to become of it when its tasks are done with."""
    last_seen: int | None = None
    """When its agent spoke last; None when nobody speaks for it."""


class LaunchFailure(msgspec.Struct, frozen=True):
    """A node that its provider could not start."""

    node_id: str
    times: int
    message: str


class Rival(msgspec.Struct, frozen=True):
    """A job of the pool with ready tasks and at least the same priority."""

    job_id: str
    priority: int
    ready: int


class Held(msgspec.Struct, frozen=True):
    """A node that is held for a task."""

    node_id: str
    task_pk: int
    task_id: str
    job_id: str
    needs: int
    """Slots of the task there."""
    free: int
    nodes: int = 0
    """How many the task needs at once, if it is a multi-instance task."""


class InTheWay(msgspec.Struct, frozen=True):
    """A task that runs on a node."""

    job_id: str
    task_id: str
    node_id: str
    since: int | None


class NextRound(msgspec.Struct, frozen=True):
    """What placement does next."""

    rooms: Sequence[Room] = ()
    """The nodes with room before it begins."""
    placed: frozenset[int] = frozenset()
    """Keys of the tasks that it starts."""
    own: int = 0
    """How many of these are of the job that is asked about."""
    left: Sequence[Room] = ()
    """The room behind the last start that was looked at, if there are more."""
    held: Mapping[int, Held] = {}
    """Nodes that are held for a task, by key."""


class PoolFacts(msgspec.Struct, kw_only=True):
    """A pool with its nodes, and what placement does there next."""

    id: str
    since: int
    deleting: bool = False
    resizing: bool = False
    target: int = 0
    dedicated: int = 0
    """How many of these are dedicated."""
    formula: bool = False
    """A formula decides its size."""
    slots_per_node: int = 1
    takes_gangs: bool = False
    """Multi-instance tasks run there."""
    running: Sequence[InTheWay] = ()
    """Where they do, the tasks that have run for longest."""
    failure: str | None = None
    """Why the last resize did not reach its target."""
    groups: Sequence[NodeGroup] = ()
    named: Sequence[NamedNode] = ()
    """The first nodes that take no tasks, and those that are silent."""
    now: int = 0
    others: Sequence[tuple[str, int]] = ()
    """Other pools with the most nodes, and how many each has."""
    next: NextRound = NextRound()
    rivals: Sequence[Rival] = ()
    """Those other than the job that is asked about."""
    launch_failure: LaunchFailure | None = None
    start_task_failure: str | None = None
    """How the start task failed on one of the nodes."""
    node_problem: str | None = None
    """What is wrong with one of the unusable nodes."""


class Snapshot(msgspec.Struct, frozen=True):
    """A job, its pool if there is one, and tasks by key: those asked about and, transitively, those that they wait for."""

    job: JobFacts
    pool: PoolFacts | None
    tasks: Mapping[str, TaskFacts]
