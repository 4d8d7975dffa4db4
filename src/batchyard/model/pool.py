"""Pools: what a client may say about one, and what the service knows of it."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from batchyard.model.certificate import CertificateReference
from batchyard.model.common import (
    ApplicationPackageReference,
    Change,
    ContainerSettings,
    Duration,
    EnvironmentSetting,
    MetadataItem,
    NameValuePair,
    ResourceFile,
    Secret,
    Shape,
    Timestamp,
    UserIdentity,
)
from batchyard.model.mounts import MountConfiguration
from batchyard.model.network import NetworkConfiguration
from batchyard.model.states import AllocationState, PoolState
from batchyard.model.virtual_machine import CloudServiceConfiguration, UpgradePolicy, VirtualMachineConfiguration
from batchyard.model.words import (
    ElevationLevel,
    JobDefaultOrder,
    LoginMode,
    NodeCommunicationMode,
    NodeDeallocationOption,
    NodeFillType,
    PoolIdentityType,
)


class StartTask(Shape):
    """Task that every node runs when it joins or restarts."""

    command_line: str
    container_settings: ContainerSettings | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    user_identity: UserIdentity | None = None
    max_task_retry_count: int | None = None
    """Runs beyond the first; -1 means without limit."""
    wait_for_success: bool | None = None


class TaskSchedulingPolicy(Shape):
    """How tasks are laid on the nodes of a pool."""

    node_fill_type: NodeFillType
    job_default_order: JobDefaultOrder | None = None
    """Since 15.x."""


class LinuxUserConfiguration(Shape):
    """Linux side of a user account."""

    uid: int | None = None
    gid: int | None = None
    ssh_private_key: Secret | None = None


class WindowsUserConfiguration(Shape):
    """Windows side of a user account."""

    login_mode: LoginMode | None = None


class UserAccount(Shape):
    """Named user that exists on every node."""

    name: str
    password: Secret | None = None
    """Required from the client (the engine checks), absent when served."""
    elevation_level: ElevationLevel | None = None
    linux_user_configuration: LinuxUserConfiguration | None = None
    windows_user_configuration: WindowsUserConfiguration | None = None


class PoolSpecification(Shape):
    """All of a pool but its id; alone it describes an auto pool."""

    vm_size: str
    display_name: str | None = None
    cloud_service_configuration: CloudServiceConfiguration | None = None
    """Up to 14.x."""
    virtual_machine_configuration: VirtualMachineConfiguration | None = None
    resize_timeout: Duration | None = None
    target_dedicated_nodes: int | None = None
    target_low_priority_nodes: int | None = None
    enable_auto_scale: bool | None = None
    auto_scale_formula: str | None = None
    auto_scale_evaluation_interval: Duration | None = None
    enable_inter_node_communication: bool | None = None
    network_configuration: NetworkConfiguration | None = None
    start_task: StartTask | None = None
    certificate_references: list[CertificateReference] | None = None
    """Up to 14.x."""
    application_package_references: list[ApplicationPackageReference] | None = None
    application_licenses: list[str] | None = None
    """Up to 14.x."""
    task_slots_per_node: int | None = None
    task_scheduling_policy: TaskSchedulingPolicy | None = None
    user_accounts: list[UserAccount] | None = None
    metadata: list[MetadataItem] | None = None
    mount_configuration: list[MountConfiguration] | None = None
    target_node_communication_mode: NodeCommunicationMode | None = None
    """Up to 14.x."""
    upgrade_policy: UpgradePolicy | None = None
    resource_tags: dict[str, str] | None = None
    """Up to 14.x."""


class PoolCreateContent(PoolSpecification, kw_only=True):
    """What a client may set when adding a pool."""

    id: str


class PoolPatch(Shape):
    """What a PATCH may change; from displayName on only while the pool has no nodes (contract 1.7)."""

    start_task: Change[StartTask] = UNSET
    certificate_references: Change[list[CertificateReference]] = UNSET
    """Up to 14.x."""
    application_package_references: Change[list[ApplicationPackageReference]] = UNSET
    metadata: Change[list[MetadataItem]] = UNSET
    target_node_communication_mode: Change[NodeCommunicationMode] = UNSET
    """Up to 14.x."""
    display_name: Change[str] = UNSET
    vm_size: Change[str] = UNSET
    virtual_machine_configuration: Change[VirtualMachineConfiguration] = UNSET
    task_slots_per_node: Change[int] = UNSET
    task_scheduling_policy: Change[TaskSchedulingPolicy] = UNSET
    network_configuration: Change[NetworkConfiguration] = UNSET
    user_accounts: Change[list[UserAccount]] = UNSET
    mount_configuration: Change[list[MountConfiguration]] = UNSET
    enable_inter_node_communication: Change[bool] = UNSET
    upgrade_policy: Change[UpgradePolicy] = UNSET


class PoolUpdateProperties(Shape):
    """Full replacement of the changeable properties: what is absent is removed."""

    start_task: StartTask | None = None
    certificate_references: list[CertificateReference] | None = None
    """Up to 14.x."""
    application_package_references: list[ApplicationPackageReference] | None = None
    metadata: list[MetadataItem] | None = None
    target_node_communication_mode: NodeCommunicationMode | None = None
    """Up to 14.x."""


class PoolEnableAutoScale(Shape):
    """Formula and interval to go on with; absent keeps the present one."""

    auto_scale_formula: str | None = None
    auto_scale_evaluation_interval: Duration | None = None


class PoolEvaluateAutoScale(Shape):
    """Formula to try out without changing the pool."""

    auto_scale_formula: str


class PoolResize(Shape):
    """New size of a pool."""

    target_dedicated_nodes: int | None = None
    target_low_priority_nodes: int | None = None
    resize_timeout: Duration | None = None
    node_deallocation_option: NodeDeallocationOption | None = None


class NodeRemove(Shape):
    """Nodes that shall leave the pool, 1 to 100 of them."""

    node_list: list[str]
    resize_timeout: Duration | None = None
    node_deallocation_option: NodeDeallocationOption | None = None


class ResizeError(Shape):
    """Why a pool did not reach its size."""

    code: str | None = None
    message: str | None = None
    values: list[NameValuePair] | None = None


class AutoScaleRunError(Shape):
    """Why a formula failed."""

    code: str | None = None
    message: str | None = None
    values: list[NameValuePair] | None = None


class AutoScaleRun(Shape):
    """What came of an evaluation of the formula."""

    timestamp: Timestamp
    results: str | None = None
    """Variables and their values, `$a=1;$b=2`."""
    error: AutoScaleRunError | None = None


class PoolUsageStatistics(Shape):
    """Core time that a pool used."""

    start_time: Timestamp
    last_update_time: Timestamp
    dedicated_core_time: Duration


class PoolResourceStatistics(Shape):
    """Load of a pool's nodes."""

    start_time: Timestamp
    last_update_time: Timestamp
    avg_cpu_percentage: float = msgspec.field(name="avgCPUPercentage")
    avg_memory_gib: float = msgspec.field(name="avgMemoryGiB")
    peak_memory_gib: float = msgspec.field(name="peakMemoryGiB")
    avg_disk_gib: float = msgspec.field(name="avgDiskGiB")
    peak_disk_gib: float = msgspec.field(name="peakDiskGiB")
    disk_read_iops: str = msgspec.field(name="diskReadIOps")
    """A 64-bit number, text on the wire."""
    disk_write_iops: str = msgspec.field(name="diskWriteIOps")
    """A 64-bit number, text on the wire."""
    disk_read_gib: float = msgspec.field(name="diskReadGiB")
    disk_write_gib: float = msgspec.field(name="diskWriteGiB")
    network_read_gib: float = msgspec.field(name="networkReadGiB")
    network_write_gib: float = msgspec.field(name="networkWriteGiB")


class PoolStatistics(Shape):
    """Use and load of a pool over its life."""

    url: str
    start_time: Timestamp
    last_update_time: Timestamp
    usage_stats: PoolUsageStatistics | None = None
    resource_stats: PoolResourceStatistics | None = None


class UserAssignedIdentity(Shape):
    """One identity of a pool."""

    resource_id: str
    client_id: str | None = None
    principal_id: str | None = None


class PoolIdentity(Shape):
    """Identities of a pool; set by the management plane only."""

    type: PoolIdentityType
    user_assigned_identities: list[UserAssignedIdentity] | None = None


class PoolServed(Shape, kw_only=True):
    """What the service knows of a pool; served behind its PoolCreateContent."""

    url: str
    e_tag: str
    last_modified: Timestamp
    creation_time: Timestamp
    state: PoolState
    state_transition_time: Timestamp
    allocation_state: AllocationState | None = None
    allocation_state_transition_time: Timestamp | None = None
    current_dedicated_nodes: int
    current_low_priority_nodes: int
    resize_errors: list[ResizeError] | None = None
    auto_scale_run: AutoScaleRun | None = None
    stats: PoolStatistics | None = None
    identity: PoolIdentity | None = None
    current_node_communication_mode: NodeCommunicationMode | None = None
    """Up to 14.x."""
