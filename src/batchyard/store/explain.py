"""What explanations look up beyond what placement reads; every answer is bounded."""

from __future__ import annotations

import msgspec

from batchyard.model.states import NodeState
from batchyard.rules.facts import InTheWay, LaunchFailure, NamedNode, NodeGroup
from batchyard.store.reader import Reader, Statement, columns
from batchyard.store.tasks import TaskRow


class WaitingJob(msgspec.Struct):
    """An active job of a pool with tasks that are not completed and do not run."""

    pk: int
    id: str
    priority: int
    max_parallel: int
    prepares: int
    running: int
    ready: int
    active: int


class OpenRange(msgspec.Struct):
    """A range of which a task waits for `remaining` numbers."""

    low: int
    high: int
    remaining: int


def _group(state: str, enabled: int, dedicated: int, count: int, largest: int, slots: int, used: int, since: int) -> NodeGroup:
    return NodeGroup(NodeState(state), bool(enabled), bool(dedicated), count, largest, slots, used, since)


def _named(id_: str, state: str, disabled: int, action: str | None, last_seen: int | None) -> NamedNode:
    return NamedNode(id_, NodeState(state), bool(disabled), action, last_seen)


def _name_and_count(name: str, count: int) -> tuple[str, int]:
    return name, count


def _exit_code_and_failure(exit_code: int | None, failure: bytes | None) -> tuple[int | None, bytes | None]:
    return exit_code, failure


_NODE_GROUPS = Statement(
    "SELECT state, scheduling_state = 'enabled' AND action IS NULL, dedicated, count(*), max(slots), sum(slots), sum(slots_used),"
    " min(state_time) FROM node"
    " WHERE pool_pk = :pool_pk GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    _group,
)
_NAMED = Statement(
    "SELECT id, state, scheduling_state <> 'enabled', action, last_seen FROM node WHERE pool_pk = :pool_pk AND state <> 'leavingpool'"
    " AND (state NOT IN ('idle', 'running') OR scheduling_state <> 'enabled' OR action IS NOT NULL OR last_seen < :before)"
    " ORDER BY last_seen, pk LIMIT :n",
    _named,
)
_OTHERS = Statement(
    "SELECT pool.id, count(*) FROM node JOIN pool ON pool.pk = node.pool_pk WHERE node.pool_pk <> :pool_pk"
    " GROUP BY pool.pk, pool.id ORDER BY 2 DESC, 1 LIMIT :n",
    _name_and_count,
)
_RUNNING_LONGEST = Statement(
    "SELECT job.id, task.id, node.id, task.started FROM node JOIN task ON task.node_pk = node.pk AND task.state IN ('preparing', 'running')"
    " JOIN job ON job.pk = task.job_pk WHERE node.pool_pk = :pool_pk ORDER BY task.started, task.pk LIMIT :n",
    InTheWay,
)
_LAUNCH_FAILURE = Statement(
    "SELECT id, launches, launch_error FROM node"
    " WHERE pool_pk = :pool_pk AND launches > 0 AND launch_error IS NOT NULL AND state <> 'leavingpool' LIMIT 1",
    LaunchFailure,
)
_WAITING_JOBS = Statement(
    "SELECT job.pk, job.id, job.priority, job.max_parallel, job.preparation_id IS NOT NULL, job_counts.running, job_counts.ready,"
    " job_counts.active FROM job JOIN job_counts ON job_counts.job_pk = job.pk"
    " WHERE job.state = 'active' AND job.pool_key = :pool_key AND job_counts.active > 0 ORDER BY job.priority DESC, job.pk LIMIT :n",
    WaitingJob,
)
_PARENTS = Statement("SELECT parent FROM dependency WHERE child = :child ORDER BY parent LIMIT :n", str)
# What is appended takes the type of the column away, without which the index on an expression is not used.
_BLOCKERS = Statement(
    "SELECT edge.parent FROM (SELECT job_pk, parent FROM dependency WHERE child = :child LIMIT :most) AS edge"
    " JOIN task ON task.job_pk = edge.job_pk AND lower(task.id) = edge.parent || '' WHERE task.state = 'completed' LIMIT :n",
    str,
)
_RANGES = Statement("SELECT low, high, remaining FROM dependency_range WHERE child = :child ORDER BY low LIMIT :n", OpenRange)
_BY_NUMBER = Statement(
    f"SELECT {columns(TaskRow)} FROM task WHERE job_pk = :job_pk AND number = :number"
    " ORDER BY satisfied DESC, state = 'completed', pk LIMIT 1",
    TaskRow,
)
_CHILDREN = Statement("SELECT child FROM dependency WHERE job_pk = :job_pk LIMIT :n", int)
_RANGE_CHILDREN = Statement("SELECT child FROM dependency_range WHERE job_pk = :job_pk LIMIT :n", int)
_CLOSED_WORKING = Statement(
    "SELECT count(*) FROM special_task JOIN node ON node.pk = special_task.node_pk WHERE special_task.job_pk = :job_pk"
    " AND kind = 'preparation' AND special_task.state = 'completed' AND result = 'failure' AND node.pool_pk = :pool_pk"
    " AND node.state IN ('idle', 'running') AND node.scheduling_state = 'enabled'",
    int,
)
_PREPARATION_FAILURE = Statement(
    "SELECT exit_code, failure FROM special_task WHERE job_pk = :job_pk AND kind = 'preparation' AND state = 'completed'"
    " AND result = 'failure' LIMIT 1",
    _exit_code_and_failure,
)

_START_TASK_FAILURE = Statement(
    "SELECT exit_code, failure FROM node JOIN special_task ON special_task.job_pk = 0 AND kind = 'start' AND node_pk = node.pk"
    " WHERE node.pool_pk = :pool_pk AND node.state = 'starttaskfailed' LIMIT 1",
    _exit_code_and_failure,
)
_NODE_ERRORS = Statement("SELECT errors FROM node WHERE pool_pk = :pool_pk AND state = 'unusable' AND errors IS NOT NULL LIMIT 1", bytes)

_MOST_EDGES = 10_000


def node_groups(reader: Reader, pool_pk: int) -> list[NodeGroup]:
    """Nodes of a pool, counted by what placement distinguishes."""
    return reader.all(_NODE_GROUPS, pool_pk=pool_pk)


def named_nodes(reader: Reader, pool_pk: int, before: int, n: int) -> list[NamedNode]:
    """Nodes of a pool that take no tasks, or whose agents have said nothing since `before`: those first that spoke longest ago."""
    return reader.all(_NAMED, pool_pk=pool_pk, before=before, n=n)


def other_pools(reader: Reader, pool_pk: int, n: int) -> list[tuple[str, int]]:
    """The pools beside this one that have the most nodes, and how many."""
    return reader.all(_OTHERS, pool_pk=pool_pk, n=n)


def running_longest(reader: Reader, pool_pk: int, n: int) -> list[InTheWay]:
    """The `n` tasks that have run for longest on a pool's nodes."""
    return reader.all(_RUNNING_LONGEST, pool_pk=pool_pk, n=n)


def launch_failure(reader: Reader, pool_pk: int) -> LaunchFailure | None:
    """A node of the pool that could not be launched so far."""
    return reader.first(_LAUNCH_FAILURE, pool_pk=pool_pk)


def waiting_jobs(reader: Reader, pool_key: str, n: int) -> list[WaitingJob]:
    """The first `n` active jobs of a pool in which tasks wait, highest priority first."""
    return reader.all(_WAITING_JOBS, pool_key=pool_key, n=n)


def parents(reader: Reader, child: int, n: int) -> list[str]:
    """The first `n` ids and numbers that a task still waits for, completed ones that block it before them."""
    blockers = reader.all(_BLOCKERS, child=child, most=_MOST_EDGES, n=3)
    return list(dict.fromkeys([*blockers, *reader.all(_PARENTS, child=child, n=n)]))


def ranges(reader: Reader, child: int, n: int) -> list[OpenRange]:
    """Wide ranges that a task still waits for."""
    return reader.all(_RANGES, child=child, n=n)


def by_number(reader: Reader, job_pk: int, number: int) -> TaskRow | None:
    """The task of a job that satisfies a number, or is the nearest to it."""
    return reader.first(_BY_NUMBER, job_pk=job_pk, number=number)


def blocked(reader: Reader, job_pk: int, n: int) -> list[int]:
    """Keys of tasks of a job that wait for others, from the first `n` dependencies of each kind."""
    found = reader.all(_CHILDREN, job_pk=job_pk, n=n) + reader.all(_RANGE_CHILDREN, job_pk=job_pk, n=n)
    return sorted(set(found))


def closed_working(reader: Reader, job_pk: int, pool_pk: int) -> int:
    """Nodes that take tasks, on which the preparation task of a job failed for good."""
    return reader.first(_CLOSED_WORKING, job_pk=job_pk, pool_pk=pool_pk) or 0


def start_task_failure(reader: Reader, pool_pk: int) -> tuple[int | None, bytes | None] | None:
    """Exit code and failure of a start task that made a node of the pool unfit."""
    return reader.first(_START_TASK_FAILURE, pool_pk=pool_pk)


def node_errors(reader: Reader, pool_pk: int) -> bytes | None:
    """The errors of one unusable node of a pool, as JSON."""
    return reader.first(_NODE_ERRORS, pool_pk=pool_pk)


def preparation_failure(reader: Reader, job_pk: int) -> tuple[int | None, bytes | None] | None:
    """Exit code and failure of one preparation task of a job that failed."""
    return reader.first(_PREPARATION_FAILURE, job_pk=job_pk)
