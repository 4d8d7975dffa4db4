"""Jobs and their three special tasks: what a client may say, and what the service knows."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from batchyard.model.common import (
    ApplicationPackageReference,
    AuthenticationTokenSettings,
    Change,
    ContainerSettings,
    Duration,
    EnvironmentSetting,
    MetadataItem,
    NameValuePair,
    OutputFile,
    ResourceFile,
    Shape,
    Timestamp,
    UserIdentity,
)
from batchyard.model.pool import PoolSpecification
from batchyard.model.states import ErrorCategory, JobState, SpecialTaskState, TaskResult
from batchyard.model.task import TaskConstraints, TaskContainerExecutionInformation, TaskFailureInformation, TaskStatistics
from batchyard.model.words import DisableJobOption, OnAllTasksComplete, OnTaskFailure, PoolLifetimeOption


class JobConstraints(Shape):
    """Limits of a job."""

    max_wall_clock_time: Duration | None = None
    max_task_retry_count: int | None = None
    """Runs of a task beyond the first, where the task says nothing; -1 means without limit."""


class JobNetworkConfiguration(Shape):
    """Network that nodes join while they run the job."""

    subnet_id: str
    skip_withdraw_from_vnet: bool | None = msgspec.field(name="skipWithdrawFromVNet", default=None)
    """Since 15.x."""


class JobManagerTask(Shape):
    """Task that starts with the job and usually adds the others."""

    id: str
    command_line: str
    display_name: str | None = None
    container_settings: ContainerSettings | None = None
    resource_files: list[ResourceFile] | None = None
    output_files: list[OutputFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    constraints: TaskConstraints | None = None
    required_slots: int | None = None
    kill_job_on_completion: bool | None = None
    user_identity: UserIdentity | None = None
    run_exclusive: bool | None = None
    """True keeps all other tasks off its node."""
    application_package_references: list[ApplicationPackageReference] | None = None
    authentication_token_settings: AuthenticationTokenSettings | None = None
    """Up to 14.x."""
    allow_low_priority_node: bool | None = None


class JobPreparationTask(Shape):
    """Task that a node runs before its first task of the job."""

    command_line: str
    id: str | None = None
    container_settings: ContainerSettings | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    constraints: TaskConstraints | None = None
    wait_for_success: bool | None = None
    user_identity: UserIdentity | None = None
    rerun_on_node_reboot_after_success: bool | None = None


class JobReleaseTask(Shape):
    """Task that every prepared node runs when the job ends."""

    command_line: str
    id: str | None = None
    container_settings: ContainerSettings | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    max_wall_clock_time: Duration | None = None
    retention_time: Duration | None = None
    user_identity: UserIdentity | None = None


class AutoPoolSpecification(Shape):
    """Pool that is made for a job or schedule and goes with it."""

    pool_lifetime_option: PoolLifetimeOption
    auto_pool_id_prefix: str | None = None
    keep_alive: bool | None = None
    pool: PoolSpecification | None = None


class PoolInformation(Shape):
    """Where a job runs: an existing pool or one of its own, not both."""

    pool_id: str | None = None
    auto_pool_specification: AutoPoolSpecification | None = None


class JobSpecification(Shape):
    """All of a job but its id; alone it describes the jobs of a schedule."""

    pool_info: PoolInformation
    display_name: str | None = None
    priority: int | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: int | None = None
    """-1 means without limit."""
    uses_task_dependencies: bool | None = None
    constraints: JobConstraints | None = None
    job_manager_task: JobManagerTask | None = None
    job_preparation_task: JobPreparationTask | None = None
    job_release_task: JobReleaseTask | None = None
    common_environment_settings: list[EnvironmentSetting] | None = None
    on_all_tasks_complete: OnAllTasksComplete | None = None
    on_task_failure: OnTaskFailure | None = None
    network_configuration: JobNetworkConfiguration | None = None
    metadata: list[MetadataItem] | None = None


class JobCreateContent(JobSpecification, kw_only=True):
    """What a client may set when adding a job."""

    id: str


class JobPatch(Shape):
    """What a PATCH may change; a nested object is replaced whole."""

    priority: Change[int] = UNSET
    allow_task_preemption: Change[bool] = UNSET
    max_parallel_tasks: Change[int] = UNSET
    constraints: Change[JobConstraints] = UNSET
    pool_info: Change[PoolInformation] = UNSET
    on_all_tasks_complete: Change[OnAllTasksComplete] = UNSET
    metadata: Change[list[MetadataItem]] = UNSET
    network_configuration: Change[JobNetworkConfiguration] = UNSET
    """Since 15.x."""


class JobUpdate(Shape):
    """What a PUT may change; what is absent falls to its default."""

    pool_info: PoolInformation
    priority: int | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: int | None = None
    constraints: JobConstraints | None = None
    on_all_tasks_complete: OnAllTasksComplete | None = None
    metadata: list[MetadataItem] | None = None
    odata_metadata: str | None = msgspec.field(name="odata.metadata", default=None)
    """15.x sends it back as it read it; it says nothing."""


class JobDisable(Shape):
    """What happens to the running tasks of a job that is disabled."""

    disable_tasks: DisableJobOption


class JobTerminate(Shape):
    """Why a client ends a job."""

    terminate_reason: str | None = None


class JobSchedulingError(Shape):
    """Why a job could not be started."""

    category: ErrorCategory
    code: str | None = None
    message: str | None = None
    details: list[NameValuePair] | None = None


class JobExecutionInformation(Shape):
    """How a job went."""

    start_time: Timestamp
    end_time: Timestamp | None = None
    pool_id: str | None = None
    scheduling_error: JobSchedulingError | None = None
    terminate_reason: str | None = None


class JobStatistics(TaskStatistics, kw_only=True):
    """Resources that the tasks of a job used, and how they ended; the counts are 64-bit numbers, text on the wire."""

    num_succeeded_tasks: str
    num_failed_tasks: str
    num_task_retries: str


class JobServed(Shape, kw_only=True):
    """What the service knows of a job; served behind its JobCreateContent."""

    url: str
    e_tag: str
    last_modified: Timestamp
    creation_time: Timestamp
    state: JobState
    state_transition_time: Timestamp
    previous_state: JobState | None = None
    previous_state_transition_time: Timestamp | None = None
    execution_info: JobExecutionInformation | None = None
    stats: JobStatistics | None = None


class JobReleaseTaskExecutionInformation(Shape, kw_only=True):
    """How the release task went on one node."""

    start_time: Timestamp
    end_time: Timestamp | None = None
    state: SpecialTaskState
    task_root_directory: str | None = None
    """Relative to the node's root directory."""
    task_root_directory_url: str | None = None
    exit_code: int | None = None
    container_info: TaskContainerExecutionInformation | None = None
    failure_info: TaskFailureInformation | None = None
    result: TaskResult | None = None


class JobPreparationTaskExecutionInformation(JobReleaseTaskExecutionInformation, kw_only=True):
    """How the preparation task went on one node; unlike the release task it is retried."""

    retry_count: int
    last_retry_time: Timestamp | None = None


class JobPreparationAndReleaseTaskExecutionInformation(Shape):
    """How preparation and release went on one node."""

    pool_id: str | None = None
    node_id: str | None = None
    node_url: str | None = None
    job_preparation_task_execution_info: JobPreparationTaskExecutionInformation | None = None
    job_release_task_execution_info: JobReleaseTaskExecutionInformation | None = None
