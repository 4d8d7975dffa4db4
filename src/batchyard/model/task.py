"""Tasks: what a client may say about one, and what the service knows of it."""

from __future__ import annotations

import msgspec

from batchyard.model.common import (
    ApplicationPackageReference,
    AuthenticationTokenSettings,
    BatchErrorBody,
    ContainerSettings,
    Duration,
    EnvironmentSetting,
    NameValuePair,
    OutputFile,
    ResourceFile,
    Shape,
    Timestamp,
    UserIdentity,
)
from batchyard.model.states import ErrorCategory, TaskResult, TaskState
from batchyard.model.words import DependencyAction, JobAction, SubtaskState, TaskAddStatus


class TaskConstraints(Shape):
    """Limits of a task."""

    max_wall_clock_time: Duration | None = None
    retention_time: Duration | None = None
    """How long the task's directory stays on the node after its end."""
    max_task_retry_count: int | None = None
    """Runs beyond the first; -1 means without limit."""


class ExitOptions(Shape):
    """Consequences of one kind of end."""

    job_action: JobAction | None = None
    dependency_action: DependencyAction | None = None


class ExitCodeMapping(Shape):
    """Consequences of one exit code."""

    code: int
    exit_options: ExitOptions


class ExitCodeRangeMapping(Shape):
    """Consequences of a range of exit codes, both ends included."""

    start: int
    end: int
    exit_options: ExitOptions


class ExitConditions(Shape):
    """Consequences of the ways in which a task may end."""

    exit_codes: list[ExitCodeMapping] | None = None
    exit_code_ranges: list[ExitCodeRangeMapping] | None = None
    pre_processing_error: ExitOptions | None = None
    file_upload_error: ExitOptions | None = None
    default: ExitOptions | None = None


class AffinityInformation(Shape):
    """Node that a task would like best."""

    affinity_id: str


class MultiInstanceSettings(Shape):
    """How a task runs on several nodes at once."""

    coordination_command_line: str
    number_of_instances: int | None = None
    common_resource_files: list[ResourceFile] | None = None


class TaskIdRange(Shape):
    """Tasks whose ids are numbers between two ends, both included."""

    start: int
    end: int


class TaskDependencies(Shape):
    """Tasks that must be done first."""

    task_ids: list[str] | None = None
    task_id_ranges: list[TaskIdRange] | None = None


class TaskCreateContent(Shape):
    """What a client may set when adding a task."""

    id: str
    command_line: str
    display_name: str | None = None
    exit_conditions: ExitConditions | None = None
    container_settings: ContainerSettings | None = None
    resource_files: list[ResourceFile] | None = None
    output_files: list[OutputFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    affinity_info: AffinityInformation | None = None
    constraints: TaskConstraints | None = None
    required_slots: int | None = None
    user_identity: UserIdentity | None = None
    multi_instance_settings: MultiInstanceSettings | None = None
    depends_on: TaskDependencies | None = None
    application_package_references: list[ApplicationPackageReference] | None = None
    authentication_token_settings: AuthenticationTokenSettings | None = None
    """Up to 14.x."""


class TaskUpdate(Shape):
    """What a PUT may change; absent constraints fall back to the job's."""

    constraints: TaskConstraints | None = None
    odata_metadata: str | None = msgspec.field(name="odata.metadata", default=None)
    """15.x sends it back as it read it; it says nothing."""


class TaskAddCollection(Shape):
    """Up to 100 tasks to add at once; each stays raw, because a wrong one is refused alone (contract 9.1)."""

    value: list[msgspec.Raw]


class TaskAddResult(Shape):
    """How the addition of one task went."""

    status: TaskAddStatus
    task_id: str
    e_tag: str | None = None
    last_modified: Timestamp | None = None
    location: str | None = None
    error: BatchErrorBody | None = None


class TaskAddCollectionResult(Shape):
    """One result per task that was sent."""

    value: list[TaskAddResult] | None = None


class TaskFailureInformation(Shape):
    """Why a task failed."""

    category: ErrorCategory
    code: str | None = None
    message: str | None = None
    details: list[NameValuePair] | None = None


class TaskContainerExecutionInformation(Shape):
    """Container that the task ran in."""

    container_id: str | None = None
    state: str | None = None
    """As the container runtime words it."""
    error: str | None = None


class TaskExecutionInformation(Shape, kw_only=True):
    """How the runs of a task went; times and exit code are those of the newest run."""

    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    exit_code: int | None = None
    container_info: TaskContainerExecutionInformation | None = None
    failure_info: TaskFailureInformation | None = None
    retry_count: int
    last_retry_time: Timestamp | None = None
    requeue_count: int
    last_requeue_time: Timestamp | None = None
    result: TaskResult | None = None


class ComputeNodeInformation(Shape):
    """Node that a task ran on."""

    affinity_id: str | None = None
    node_url: str | None = None
    pool_id: str | None = None
    node_id: str | None = None
    task_root_directory: str | None = None
    """Relative to the node's root directory."""
    task_root_directory_url: str | None = None


class TaskStatistics(Shape):
    """Resources that a task used."""

    url: str
    start_time: Timestamp
    last_update_time: Timestamp
    user_cpu_time: Duration = msgspec.field(name="userCPUTime")
    kernel_cpu_time: Duration = msgspec.field(name="kernelCPUTime")
    wall_clock_time: Duration
    read_iops: str = msgspec.field(name="readIOps")
    """A 64-bit number, text on the wire."""
    write_iops: str = msgspec.field(name="writeIOps")
    """A 64-bit number, text on the wire."""
    read_io_gib: float = msgspec.field(name="readIOGiB")
    write_io_gib: float = msgspec.field(name="writeIOGiB")
    wait_time: Duration


class TaskServed(Shape, kw_only=True):
    """What the service knows of a task; served behind its TaskCreateContent."""

    url: str
    e_tag: str
    last_modified: Timestamp
    creation_time: Timestamp
    state: TaskState
    state_transition_time: Timestamp
    previous_state: TaskState | None = None
    previous_state_transition_time: Timestamp | None = None
    execution_info: TaskExecutionInformation | None = None
    node_info: ComputeNodeInformation | None = None
    stats: TaskStatistics | None = None


class Subtask(Shape):
    """One instance of a multi-instance task beyond the primary."""

    id: int | None = None
    node_info: ComputeNodeInformation | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    exit_code: int | None = None
    container_info: TaskContainerExecutionInformation | None = None
    failure_info: TaskFailureInformation | None = None
    state: SubtaskState | None = None
    state_transition_time: Timestamp | None = None
    previous_state: SubtaskState | None = None
    previous_state_transition_time: Timestamp | None = None
    result: TaskResult | None = None


class SubtaskList(Shape):
    """All subtasks of a task; 14.x never pages them."""

    value: list[Subtask] | None = None


class TaskCounts(Shape):
    """Tasks of a job by state; `running` includes preparing ones."""

    active: int
    running: int
    completed: int
    succeeded: int
    failed: int


class TaskSlotCounts(TaskCounts):
    """The same, each task counted with its required slots."""


class TaskCountsResult(Shape):
    """Both counts of a job."""

    task_counts: TaskCounts
    task_slot_counts: TaskSlotCounts
