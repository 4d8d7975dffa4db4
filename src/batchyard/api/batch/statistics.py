"""`$expand=stats`: what pools, jobs and tasks used (contract 5.4); live figures, where the service rolls up every half hour."""

from __future__ import annotations

from batchyard.api.wire.call import Call
from batchyard.model import times
from batchyard.model.job import JobStatistics
from batchyard.model.jobschedule import JobScheduleStatistics
from batchyard.model.pool import PoolStatistics, PoolUsageStatistics
from batchyard.model.task import TaskStatistics
from batchyard.store.jobs import JobCounts, JobRow
from batchyard.store.pools import PoolView
from batchyard.store.schedules import ScheduleCounts, ScheduleRow
from batchyard.store.tasks import TaskView

_NONE = "PT0S"


def of_pool(row: PoolView, core_us: int, call: Call) -> PoolStatistics:
    """Core time of a pool's dedicated nodes over its life; the load of its nodes is not measured, so nothing is said of it."""
    start, now = times.iso(row.created), times.iso(call.now)
    used = PoolUsageStatistics(start_time=start, last_update_time=now, dedicated_core_time=times.duration_text(core_us))
    return PoolStatistics(url=call.url("pools", row.id), start_time=start, last_update_time=now, usage_stats=used)


def of_job(row: JobRow, counts: JobCounts, call: Call) -> JobStatistics:
    """Sums over a job's tasks; input and output are not measured, wait time is not kept for jobs."""
    return JobStatistics(
        url=call.url("jobs", row.id),
        start_time=times.iso(row.started),
        last_update_time=times.iso(call.now),
        user_cpu_time=times.duration_text(counts.user_us),
        kernel_cpu_time=times.duration_text(counts.kernel_us),
        wall_clock_time=times.duration_text(counts.wall_us),
        read_iops="0",
        write_iops="0",
        read_io_gib=0.0,
        write_io_gib=0.0,
        wait_time=_NONE,
        num_succeeded_tasks=str(counts.succeeded),
        num_failed_tasks=str(counts.failed),
        num_task_retries=str(counts.retries),
    )


def of_schedule(row: ScheduleRow, counts: ScheduleCounts, call: Call) -> JobScheduleStatistics:
    """Sums over the jobs of a schedule that are still there."""
    return JobScheduleStatistics(
        url=call.url("jobschedules", row.id),
        start_time=times.iso(row.created),
        last_update_time=times.iso(call.now),
        user_cpu_time=times.duration_text(counts.user_us),
        kernel_cpu_time=times.duration_text(counts.kernel_us),
        wall_clock_time=times.duration_text(counts.wall_us),
        read_iops="0",
        write_iops="0",
        read_io_gib=0.0,
        write_io_gib=0.0,
        wait_time=_NONE,
        num_succeeded_tasks=str(counts.succeeded),
        num_failed_tasks=str(counts.failed),
        num_task_retries=str(counts.retries),
    )


def of_task(row: TaskView, url: str, call: Call) -> TaskStatistics:
    """What all runs of a task used; it waited from its addition to the start of its newest run."""
    return TaskStatistics(
        url=url,
        start_time=times.iso(row.created),
        last_update_time=times.iso(call.now),
        user_cpu_time=times.duration_text(row.user_us),
        kernel_cpu_time=times.duration_text(row.kernel_us),
        wall_clock_time=times.duration_text(row.wall_us),
        read_iops="0",
        write_iops="0",
        read_io_gib=0.0,
        write_io_gib=0.0,
        wait_time=times.duration_text(max((row.started or call.now) - row.created, 0)),
    )
