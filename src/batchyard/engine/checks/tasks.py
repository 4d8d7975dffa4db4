"""What a client may say of a task, and what the service fills in (contract 3.2, 3.3, 3.7, 3.8, A.3)."""

from __future__ import annotations

from batchyard.engine.checks import containers, demands, packages
from batchyard.model import times
from batchyard.model.common import AuthenticationTokenSettings, AutoUserSpecification, UserIdentity
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.task import ExitConditions, MultiInstanceSettings, TaskConstraints, TaskCreateContent, TaskDependencies
from batchyard.model.words import AutoUserScope, ElevationLevel
from batchyard.store.jobs import JobRow

RETENTION = "P7D"
DEPENDENCY_CHARACTERS = 64_000
DEPENDENCY_RANGES = 1_000
MOST_INSTANCES = 10_000
"""More nodes no pool has; an order names the addresses of all of them."""

DEFAULT_IDENTITY = UserIdentity(auto_user=AutoUserSpecification(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.NON_ADMIN))


def check(task: TaskCreateContent, job: JobRow, slots_per_node: int | None) -> None:
    """Refuse what the contract refuses (3.2, 3.3, 3.7, 3.8, A.3) and fill the defaults in."""
    demands.an_id("id", task.id)
    demands.a_display_name(task.display_name)
    containers.command_line(task.command_line, task.container_settings)
    demands.an_identity(task.user_identity)
    demands.resource_files(task.resource_files)
    demands.output_files(task.output_files)
    demands.environment(task.environment_settings)
    containers.settings(task.container_settings)
    if task.multi_instance_settings is not None:
        demands.not_served(containerSettings=task.container_settings)
    packages.check(task.application_package_references)
    task.application_package_references = task.application_package_references or None
    token_settings(task.authentication_token_settings)
    for code, special_id in (("TaskIdSameAsJobPreparationTask", job.preparation_id), ("TaskIdSameAsJobReleaseTask", job.release_id)):
        if special_id is not None and special_id.lower() == task.id.lower():
            raise BatchError(code)
    if task.multi_instance_settings is not None:
        _check_instances(task, task.multi_instance_settings)
    elif task.required_slots is not None:
        demands.within("requiredSlots", task.required_slots, 1, slots_per_node or 256)
    if task.depends_on is not None and (task.depends_on.task_ids or task.depends_on.task_id_ranges):
        _check_dependencies(task.depends_on, job)
    if task.exit_conditions is not None:
        _check_conditions(task.exit_conditions, job)
    task.constraints = constraints(task.constraints, job.max_retries)
    task.required_slots = task.required_slots or 1
    task.user_identity = task.user_identity or DEFAULT_IDENTITY


def _check_instances(task: TaskCreateContent, settings: MultiInstanceSettings) -> None:
    """What several instances ask for; whether the pool can run them is no question: elsewhere they wait (contract 3.10)."""
    if not settings.coordination_command_line.strip():
        raise invalid_property("coordinationCommandLine", settings.coordination_command_line, "The command line must not be empty")
    if settings.number_of_instances is not None:
        demands.within("numberOfInstances", settings.number_of_instances, 1, MOST_INSTANCES)
    settings.number_of_instances = settings.number_of_instances or 1
    demands.resource_files(settings.common_resource_files)
    if task.required_slots not in (None, 1):
        raise invalid_property("requiredSlots", task.required_slots, "An instance of a multi-instance task takes one slot")


def token_settings(given: AuthenticationTokenSettings | None) -> None:
    """The only access there is, is to the task's own job."""
    if given is not None and not given.access:
        raise invalid_property("authenticationTokenSettings", "", "access must name job")


def constraints(given: TaskConstraints | None, job_retries: int) -> TaskConstraints:
    """Constraints with the service's defaults; the job's retry count is copied, later changes of it do not follow."""
    given = given or _NO_CONSTRAINTS
    retries = given.max_task_retry_count
    if retries is not None:
        demands.a_retry_count(retries)
    return TaskConstraints(
        max_wall_clock_time=demands.canonical("maxWallClockTime", given.max_wall_clock_time, times.INFINITE),
        retention_time=demands.canonical("retentionTime", given.retention_time, RETENTION),
        max_task_retry_count=job_retries if retries is None else retries,
    )


_NO_DEPENDENCIES = "The job does not use task dependencies: usesTaskDependencies was not true when it was added"
_NO_CONSTRAINTS = TaskConstraints()


def _check_dependencies(depends_on: TaskDependencies, job: JobRow) -> None:
    if not job.uses_dependencies:
        raise BatchError("UnsupportedProperty", PropertyName="dependsOn", Reason=_NO_DEPENDENCIES)
    names = depends_on.task_ids or ()
    if sum(map(len, names)) > DEPENDENCY_CHARACTERS:
        raise BatchError("TaskDependencyListTooLong")
    for name in names:
        demands.an_id("taskIds", name)
    spans = depends_on.task_id_ranges or ()
    if len(spans) > DEPENDENCY_RANGES:
        raise BatchError("TaskDependencyRangesTooLong")
    for span in spans:
        if not -(2**31) <= span.start <= span.end < 2**31:
            raise invalid_property(
                "taskIdRanges", f"{span.start}-{span.end}", "start and end are 32-bit integers and start is not above end"
            )


def _check_conditions(conditions: ExitConditions, job: JobRow) -> None:
    """An action that the job cannot take is refused (contract 3.8)."""
    for code in conditions.exit_codes or ():
        demands.a_number("code", code.code)
    for span in conditions.exit_code_ranges or ():
        demands.a_number("start", span.start)
        demands.a_number("end", span.end)
    mappings = [*(conditions.exit_codes or ()), *(conditions.exit_code_ranges or ())]
    stages = (conditions.pre_processing_error, conditions.file_upload_error, conditions.default)
    for option in (*(mapping.exit_options for mapping in mappings), *stages):
        if option is None:
            continue
        if option.job_action is not None and not job.acts_on_failure:
            raise invalid_property("jobAction", option.job_action, "The job's onTaskFailure is noaction")
        if option.dependency_action is not None and not job.uses_dependencies:
            raise invalid_property("dependencyAction", option.dependency_action, "The job does not use task dependencies")
