"""What a client may say of a job, and what the service fills in (contract 3.1, 3.5, 3.6, A.2, A.4)."""

from __future__ import annotations

from batchyard.engine.checks import auto_pools, containers, demands, packages
from batchyard.engine.checks import tasks as task_checks
from batchyard.engine.checks.auto_pools import PLAIN, Demand
from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.job import JobConstraints, JobCreateContent, JobManagerTask, JobPreparationTask, JobReleaseTask, JobSpecification
from batchyard.model.words import OnAllTasksComplete, OnTaskFailure

PRIORITIES = (-1000, 1000)
PREPARATION_ID = "jobpreparation"
RELEASE_ID = "jobrelease"
LONGEST_RELEASE_US = 15 * 60 * 1_000_000
_LONGEST_RELEASE = "PT15M"


def check(job: JobCreateContent, demand: Demand = PLAIN) -> None:
    """Refuse what the contract refuses and fill the defaults in."""
    demands.an_id("id", job.id)
    check_specification(job, demand)


def check_specification(job: JobSpecification, demand: Demand) -> None:
    """The same for all of a job but its id."""
    demands.a_display_name(job.display_name)
    demands.environment(job.common_environment_settings)
    if job.pool_info.auto_pool_specification is not None:
        auto_pools.check(job.pool_info.auto_pool_specification, demand)
    job.uses_task_dependencies = bool(job.uses_task_dependencies)
    job.on_task_failure = job.on_task_failure or OnTaskFailure.NO_ACTION
    check_changeable(job)
    retries = job.constraints.max_task_retry_count or 0 if job.constraints else 0
    if job.job_manager_task is not None:
        _check_manager(job.job_manager_task, retries)
    if job.job_preparation_task is not None:
        _check_preparation(job.job_preparation_task, retries)
    if job.job_release_task is not None:
        if job.job_preparation_task is None:
            raise invalid_property("jobReleaseTask", "", "A job release task needs a job preparation task")
        _check_release(job.job_release_task)
    _check_distinct(job)


def check_changeable(job: JobSpecification) -> None:
    """The part of the checks and defaults that PATCH and PUT repeat."""
    demands.metadata(job.metadata)
    if (job.pool_info.pool_id is None) == (job.pool_info.auto_pool_specification is None):
        raise invalid_property("poolInfo", "", "Exactly one of poolId and autoPoolSpecification must be given")
    if job.pool_info.pool_id is not None:
        demands.an_id("poolId", job.pool_info.pool_id)
    job.priority = job.priority or 0
    demands.within("priority", job.priority, *PRIORITIES)
    job.max_parallel_tasks = -1 if job.max_parallel_tasks is None else job.max_parallel_tasks
    if job.max_parallel_tasks == 0:
        raise invalid_property("maxParallelTasks", job.max_parallel_tasks, "The value must be -1 or greater than 0")
    demands.within("maxParallelTasks", job.max_parallel_tasks, -1, demands.LARGEST_INTEGER)
    job.allow_task_preemption = bool(job.allow_task_preemption)
    given = job.constraints or JobConstraints()
    retries = given.max_task_retry_count or 0
    demands.a_retry_count(retries)
    wall_clock = demands.canonical("maxWallClockTime", given.max_wall_clock_time, times.INFINITE)
    job.constraints = JobConstraints(max_wall_clock_time=wall_clock, max_task_retry_count=retries)
    job.on_all_tasks_complete = job.on_all_tasks_complete or OnAllTasksComplete.NO_ACTION


def _check_common(task: JobManagerTask | JobPreparationTask | JobReleaseTask, kind: str) -> None:
    """What the three special tasks share."""
    demands.an_id(f"{kind}.id", task.id or "")
    containers.command_line(task.command_line, task.container_settings)
    demands.an_identity(task.user_identity)
    demands.resource_files(task.resource_files)
    demands.environment(task.environment_settings)
    containers.settings(task.container_settings)
    task.user_identity = task.user_identity or task_checks.DEFAULT_IDENTITY


def _check_manager(manager: JobManagerTask, retries: int) -> None:
    _check_common(manager, "jobManagerTask")
    demands.a_display_name(manager.display_name)
    demands.output_files(manager.output_files)
    packages.check(manager.application_package_references)
    manager.application_package_references = manager.application_package_references or None
    task_checks.token_settings(manager.authentication_token_settings)
    manager.constraints = task_checks.constraints(manager.constraints, retries)
    manager.kill_job_on_completion = manager.kill_job_on_completion is not False
    manager.run_exclusive = manager.run_exclusive is not False
    manager.allow_low_priority_node = manager.allow_low_priority_node is not False
    manager.required_slots = 1 if manager.required_slots is None else manager.required_slots
    demands.within("requiredSlots", manager.required_slots, 1, 256)


def _check_preparation(task: JobPreparationTask, retries: int) -> None:
    task.id = task.id or PREPARATION_ID
    _check_common(task, "jobPreparationTask")
    task.constraints = task_checks.constraints(task.constraints, retries)
    task.wait_for_success = task.wait_for_success is not False
    task.rerun_on_node_reboot_after_success = task.rerun_on_node_reboot_after_success is not False


def _check_release(task: JobReleaseTask) -> None:
    task.id = task.id or RELEASE_ID
    _check_common(task, "jobReleaseTask")
    wall_clock = demands.duration_us("maxWallClockTime", task.max_wall_clock_time or _LONGEST_RELEASE)
    if wall_clock is None or wall_clock > LONGEST_RELEASE_US:
        raise invalid_property("maxWallClockTime", task.max_wall_clock_time, f"A release task may run {_LONGEST_RELEASE} at most")
    task.max_wall_clock_time = times.duration_text(wall_clock)
    task.retention_time = demands.canonical("retentionTime", task.retention_time, task_checks.RETENTION)


def _check_distinct(job: JobSpecification) -> None:
    """The ids of the special tasks differ, because their directories do."""
    special = (job.job_manager_task, job.job_preparation_task, job.job_release_task)
    names = [task.id.lower() for task in special if task is not None and task.id is not None]
    if len(set(names)) != len(names):
        raise BatchError("InvalidPropertyValue", PropertyName="id", Reason="Job manager, preparation and release task need different ids")
