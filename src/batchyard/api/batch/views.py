"""Rows as clients see them: the stored JSON with what the service knows spliced behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from batchyard.api.batch import statistics
from batchyard.api.wire.call import Call
from batchyard.api.wire.wire import encode, splice
from batchyard.model import times
from batchyard.model.account import NodeCounts, PoolNodeCounts
from batchyard.model.job import (
    JobExecutionInformation,
    JobPreparationAndReleaseTaskExecutionInformation,
    JobPreparationTaskExecutionInformation,
    JobReleaseTaskExecutionInformation,
    JobSchedulingError,
    JobServed,
)
from batchyard.model.jobschedule import JobScheduleExecutionInformation, JobScheduleServed, RecentJob
from batchyard.model.pool import AutoScaleRun, PoolEnableAutoScale, PoolResize, PoolServed, ResizeError
from batchyard.model.redact import shown
from batchyard.model.states import NodeState
from batchyard.model.sync import NodeFacts
from batchyard.model.task import (
    TaskCounts,
    TaskCountsResult,
    TaskFailureInformation,
    TaskSlotCounts,
)
from batchyard.rules.places import task_directory
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.nodes import NodeCount
from batchyard.store.pools import PoolView
from batchyard.store.schedules import ScheduleCounts, ScheduleRow
from batchyard.store.special_tasks import PREPARATION, RELEASE, SpecialTaskRow

_failure = msgspec.json.Decoder(TaskFailureInformation)
_resize_errors = msgspec.json.Decoder(list[ResizeError])
_auto_scale_run = msgspec.json.Decoder(AutoScaleRun)
_facts = msgspec.json.Decoder(NodeFacts)


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
    scaling = PoolEnableAutoScale(
        auto_scale_formula=row.autoscale_formula,
        auto_scale_evaluation_interval=None if row.autoscale_interval is None else times.duration_text(row.autoscale_interval),
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
        auto_scale_run=None if row.autoscale_run is None else _auto_scale_run.decode(row.autoscale_run),
        stats=None if core_time is None else statistics.of_pool(row, core_time, call),
    )
    return splice(shown(row.body), encode(size), encode(scaling), encode(served))


def node_counts(counts: Sequence[NodeCount]) -> bytes:
    """Nodes of one pool by kind and state; both kinds are always there (contract 9.3)."""
    by_kind = {kind: {row.state: row.count for row in counts if row.dedicated == kind} for kind in (1, 0)}
    dedicated, low_priority = (_node_counts(by_kind[kind]) for kind in (1, 0))
    return encode(PoolNodeCounts(pool_id=counts[0].pool_id, dedicated=dedicated, low_priority=low_priority))


def _node_counts(by_state: Mapping[NodeState | None, int]) -> NodeCounts:
    numbers = {state.name.lower(): by_state.get(state, 0) for state in NodeState}
    return NodeCounts(total=sum(numbers.values()), **numbers)


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
            start_time=times.iso(row.started),
            end_time=_time(row.ended),
            pool_id=row.auto_pool or _pool_id(row),
            scheduling_error=None if row.scheduling_error is None else _scheduling_error.decode(row.scheduling_error),
            terminate_reason=row.terminate_reason,
        ),
        stats=None if counts is None else statistics.of_job(row, counts, call),
    )
    return splice(shown(row.body), encode(served))


class _PoolOfJob(msgspec.Struct, rename="camel"):
    pool_id: str | None = None


class _JobPool(msgspec.Struct, rename="camel"):
    pool_info: _PoolOfJob


_job_pool = msgspec.json.Decoder(_JobPool)
_scheduling_error = msgspec.json.Decoder(JobSchedulingError)


def _pool_id(row: JobRow) -> str | None:
    return _job_pool.decode(row.body).pool_info.pool_id


def schedule(row: ScheduleRow, call: Call, counts: ScheduleCounts | None = None) -> bytes:
    """A job schedule; with sums over its jobs also its statistics."""
    recent = None if row.recent is None else RecentJob(id=row.recent, url=call.url("jobs", row.recent))
    coming = row.due if row.due is not None and (row.stops is None or row.due < row.stops) and row.ended is None else None
    served = JobScheduleServed(
        url=call.url("jobschedules", row.id),
        e_tag=times.etag(row.modified),
        last_modified=times.iso(row.modified),
        creation_time=times.iso(row.created),
        state=row.state,
        state_transition_time=times.iso(row.state_time),
        previous_state=row.previous_state,
        previous_state_transition_time=_time(row.previous_time),
        execution_info=JobScheduleExecutionInformation(next_run_time=_time(coming), recent_job=recent, end_time=_time(row.ended)),
        stats=None if counts is None else statistics.of_schedule(row, counts, call),
    )
    return splice(shown(row.body), encode(served))


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
        path = task_directory(job.id, (job.preparation_id if row.kind == PREPARATION else job.release_id) or "")
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
