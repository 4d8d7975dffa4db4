"""Rows as clients see them: the stored JSON with what the service knows spliced behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from batchyard.api import statistics
from batchyard.api.call import Call
from batchyard.api.wire import encode, splice
from batchyard.engine.tasks import directory, job_directory
from batchyard.model import times
from batchyard.model.account import NodeCounts, PoolNodeCounts
from batchyard.model.ids import NODE_AFFINITY_PREFIX
from batchyard.model.job import (
    JobExecutionInformation,
    JobPreparationAndReleaseTaskExecutionInformation,
    JobPreparationTaskExecutionInformation,
    JobReleaseTaskExecutionInformation,
    JobServed,
)
from batchyard.model.node import Node, NodeAgentInformation, VirtualMachineInfo
from batchyard.model.pool import PoolCreateContent, PoolResize, PoolServed, ResizeError
from batchyard.model.states import NodeState
from batchyard.model.sync import NodeFacts
from batchyard.model.task import (
    ComputeNodeInformation,
    TaskCounts,
    TaskCountsResult,
    TaskExecutionInformation,
    TaskFailureInformation,
    TaskServed,
    TaskSlotCounts,
    TaskStatistics,
)
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.nodes import NodeCount, NodeView
from batchyard.store.pools import PoolView
from batchyard.store.special_tasks import PREPARATION, RELEASE, SpecialTaskRow
from batchyard.store.tasks import TaskView

_encode = msgspec.json.Encoder().encode
_failure = msgspec.json.Decoder(TaskFailureInformation)
_resize_errors = msgspec.json.Decoder(list[ResizeError])
_facts = msgspec.json.Decoder(NodeFacts)
_pool_body = msgspec.json.Decoder(PoolCreateContent)


@lru_cache(maxsize=256)
def version(modified: int) -> tuple[str, str]:
    """Tag and time that all tasks of a collection have in common."""
    return times.etag(modified), times.iso(modified)


def _time(us: int | None) -> str | None:
    return None if us is None else times.iso(us)


def pool(row: PoolView, call: Call, core_time: int | None = None) -> bytes:
    """A pool; with its dedicated core time also its statistics.

    An empty list of resize errors would be read as a problem, so there is none (clients.md 0, #8).
    """
    size = PoolResize(
        target_dedicated_nodes=row.target_dedicated,
        target_low_priority_nodes=row.target_low_priority,
        resize_timeout=times.duration_text(row.resize_timeout),
    )
    served = PoolServed(
        url=call.url("pools", row.id),
        e_tag=times.etag(row.modified),
        last_modified=times.iso(row.modified),
        creation_time=times.iso(row.created),
        state=row.state,
        state_transition_time=times.iso(row.state_time),
        allocation_state=row.allocation_state,
        allocation_state_transition_time=times.iso(row.allocation_time),
        current_dedicated_nodes=row.current_dedicated,
        current_low_priority_nodes=row.current_low_priority,
        resize_errors=None if row.resize_errors is None else _resize_errors.decode(row.resize_errors),
        stats=None if core_time is None else statistics.of_pool(row, core_time, call),
    )
    return splice(row.body, encode(size), encode(served))


def node_counts(counts: Sequence[NodeCount]) -> bytes:
    """Nodes of one pool by kind and state; both kinds are always there (contract 9.3)."""
    by_kind = {kind: {row.state: row.count for row in counts if row.dedicated == kind} for kind in (1, 0)}
    dedicated, low_priority = (_node_counts(by_kind[kind]) for kind in (1, 0))
    return encode(PoolNodeCounts(pool_id=counts[0].pool_id, dedicated=dedicated, low_priority=low_priority))


def _node_counts(by_state: Mapping[NodeState | None, int]) -> NodeCounts:
    numbers = {state.name.lower(): by_state.get(state, 0) for state in NodeState}
    return NodeCounts(total=sum(numbers.values()), **numbers)


def node(row: NodeView, call: Call) -> bytes:
    """A compute node."""
    facts = None if row.facts is None else _facts.decode(row.facts)
    body = _pool_body.decode(row.pool_body)
    machine = body.virtual_machine_configuration
    agent = None
    if facts is not None:
        agent = NodeAgentInformation(version=facts.agent_version, last_update_time=times.iso(row.booted or row.allocated))
    return encode(
        Node(
            id=row.id,
            url=call.url("pools", row.pool_id, "nodes", row.id),
            state=row.state,
            scheduling_state=row.scheduling_state,
            state_transition_time=times.iso(row.state_time),
            last_boot_time=_time(row.booted),
            allocation_time=times.iso(row.allocated),
            ip_address=None if facts is None else facts.ip_address,
            affinity_id=NODE_AFFINITY_PREFIX + row.id,
            vm_size=body.vm_size,
            total_tasks_run=row.tasks_run,
            total_tasks_succeeded=row.tasks_succeeded,
            running_tasks_count=row.tasks_running,
            running_task_slots_count=row.slots_used,
            is_dedicated=bool(row.dedicated),
            node_agent_info=agent,
            virtual_machine_info=None if machine is None else VirtualMachineInfo(image_reference=machine.image_reference),
        )
    )


def job(row: JobRow, call: Call, counts: JobCounts | None = None) -> bytes:
    """A job; with its counters also its statistics."""
    served = JobServed(
        url=call.url("jobs", row.id),
        e_tag=times.etag(row.modified),
        last_modified=times.iso(row.modified),
        creation_time=times.iso(row.created),
        state=row.state,
        state_transition_time=times.iso(row.state_time),
        previous_state=row.previous_state,
        previous_state_transition_time=_time(row.previous_time),
        execution_info=JobExecutionInformation(
            start_time=times.iso(row.started), end_time=_time(row.ended), pool_id=_pool_id(row), terminate_reason=row.terminate_reason
        ),
        stats=None if counts is None else statistics.of_job(row, counts, call),
    )
    return splice(row.body, encode(served))


class _PoolOfJob(msgspec.Struct, rename="camel"):
    pool_id: str | None = None


class _JobPool(msgspec.Struct, rename="camel"):
    pool_info: _PoolOfJob


_job_pool = msgspec.json.Decoder(_JobPool)


def _pool_id(row: JobRow) -> str | None:
    return _job_pool.decode(row.body).pool_info.pool_id


def task(row: TaskView, job_id: str, call: Call) -> bytes:
    """A task."""
    [view] = tasks([row], job_id, call)
    return view


def tasks(rows: Iterable[TaskView], job_id: str, call: Call) -> list[bytes]:
    """Tasks of one job; what they have in common is made once, because a page has a thousand."""
    urls, stats = call.url("jobs", job_id, "tasks"), call.expands_stats()
    root, node_urls = job_directory(job_id), dict[tuple[str, str], str]()

    def where(row: TaskView) -> ComputeNodeInformation | None:
        """Node of a task; an ended task that never ran, or whose node is gone, shows an empty object (contract B.3)."""
        if row.node_id is None or row.pool_id is None:
            return None if row.ended is None else ComputeNodeInformation()
        url = node_urls.get((row.pool_id, row.node_id)) or call.url("pools", row.pool_id, "nodes", row.node_id)
        node_urls[row.pool_id, row.node_id] = url
        return _where(row, url, f"{root}/{row.id}")

    return [
        b"%b,%b" % (row.body[:-1], _encode(_task(row, url, where(row), statistics.of_task(row, url, call) if stats else None))[1:])
        for row in rows
        for url in (f"{urls}/{row.id}",)  # an id needs no quoting
    ]


def _task(row: TaskView, url: str, where: ComputeNodeInformation | None, stats: TaskStatistics | None) -> TaskServed:
    tag, modified = version(row.modified)
    return TaskServed(
        url=url,
        e_tag=tag,
        last_modified=modified,
        creation_time=modified if row.created == row.modified else times.iso(row.created),
        state=row.state,
        state_transition_time=modified if row.state_time == row.modified else times.iso(row.state_time),
        previous_state=row.previous_state,
        previous_state_transition_time=_time(row.previous_time),
        execution_info=TaskExecutionInformation(
            start_time=_time(row.started),
            end_time=_time(row.ended),
            exit_code=row.exit_code,
            failure_info=None if row.failure is None else _failure.decode(row.failure),
            retry_count=row.retries,
            last_retry_time=_time(row.last_retry),
            requeue_count=row.requeues,
            last_requeue_time=_time(row.last_requeue),
            result=row.result,
        ),
        node_info=where,
        stats=stats,
    )


def _where(row: TaskView, node_url: str, path: str) -> ComputeNodeInformation:
    return ComputeNodeInformation(
        affinity_id=f"{NODE_AFFINITY_PREFIX}{row.node_id}",
        node_url=node_url,
        pool_id=row.pool_id,
        node_id=row.node_id,
        task_root_directory=path,
        task_root_directory_url=f"{node_url}/files/{path}",
    )


def task_counts(counts: JobCounts) -> bytes:
    """Tasks and slots of a job by state."""
    return encode(
        TaskCountsResult(
            task_counts=TaskCounts(
                active=counts.active,
                running=counts.running,
                completed=counts.completed,
                succeeded=counts.succeeded,
                failed=counts.failed,
            ),
            task_slot_counts=TaskSlotCounts(
                active=counts.active_slots,
                running=counts.running_slots,
                completed=counts.completed_slots,
                succeeded=counts.succeeded_slots,
                failed=counts.failed_slots,
            ),
        )
    )


def special_tasks(runs: Sequence[SpecialTaskRow], job: JobRow, call: Call) -> bytes:
    """How preparation and release went on one node (contract 9.4)."""
    first = runs[0]
    node_url = call.url("pools", first.pool_id, "nodes", first.node_id)
    seen = JobPreparationAndReleaseTaskExecutionInformation(pool_id=first.pool_id, node_id=first.node_id, node_url=node_url)
    for row in runs:
        path = directory(job.id, (job.preparation_id if row.kind == PREPARATION else job.release_id) or "")
        release = JobReleaseTaskExecutionInformation(
            start_time=times.iso(row.started),
            end_time=_time(row.ended),
            state=row.state,
            task_root_directory=path,
            task_root_directory_url=f"{node_url}/files/{path}",
            exit_code=row.exit_code,
            failure_info=None if row.failure is None else _failure.decode(row.failure),
            result=row.result,
        )
        if row.kind == RELEASE:
            seen.job_release_task_execution_info = release
        else:
            seen.job_preparation_task_execution_info = JobPreparationTaskExecutionInformation(
                **msgspec.structs.asdict(release), retry_count=row.retries, last_retry_time=_time(row.last_retry)
            )
    return encode(seen)
