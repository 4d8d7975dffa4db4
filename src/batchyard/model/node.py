"""Compute nodes: what they are, what they ran, and what a client may ask of them."""

from __future__ import annotations

import msgspec

from batchyard.model.certificate import CertificateReference
from batchyard.model.common import ComputeNodeIdentityReference, NameValuePair, Secret, Shape, Timestamp
from batchyard.model.pool import StartTask
from batchyard.model.states import NodeState, SchedulingState, SpecialTaskState, TaskResult, TaskState
from batchyard.model.task import TaskContainerExecutionInformation, TaskExecutionInformation, TaskFailureInformation
from batchyard.model.virtual_machine import ImageReference, VMExtension
from batchyard.model.words import (
    InboundEndpointProtocol,
    NodeDeallocateOption,
    NodeDisableSchedulingOption,
    NodeRebootOption,
    NodeReimageOption,
    StatusLevel,
)


class TaskInformation(Shape):
    """Task that ran on the node lately."""

    task_state: TaskState
    task_url: str | None = None
    job_id: str | None = None
    task_id: str | None = None
    subtask_id: int | None = None
    execution_info: TaskExecutionInformation | None = None


class StartTaskInformation(Shape, kw_only=True):
    """How the start task went on the node."""

    state: SpecialTaskState
    start_time: Timestamp
    end_time: Timestamp | None = None
    exit_code: int | None = None
    container_info: TaskContainerExecutionInformation | None = None
    failure_info: TaskFailureInformation | None = None
    retry_count: int
    last_retry_time: Timestamp | None = None
    result: TaskResult | None = None


class ComputeNodeError(Shape):
    """What is wrong with the node."""

    code: str | None = None
    message: str | None = None
    error_details: list[NameValuePair] | None = None


class InboundEndpoint(Shape, kw_only=True):
    """Port of the node with the address that reaches it."""

    name: str
    protocol: InboundEndpointProtocol
    public_ip_address: str | None = msgspec.field(name="publicIPAddress", default=None)
    public_fqdn: str | None = msgspec.field(name="publicFQDN", default=None)
    frontend_port: int
    backend_port: int


class ComputeNodeEndpointConfiguration(Shape):
    """Ports of the node that are open."""

    inbound_endpoints: list[InboundEndpoint]


class NodeAgentInformation(Shape):
    """Agent that runs on the node."""

    version: str
    last_update_time: Timestamp


class VirtualMachineInfo(Shape):
    """Machine below the node."""

    image_reference: ImageReference | None = None
    scale_set_vm_resource_id: str | None = None
    """Only in accounts whose machines belong to the user's subscription."""


class Node(Shape, kw_only=True):
    """A compute node as it is served."""

    id: str
    url: str
    state: NodeState
    scheduling_state: SchedulingState | None = None
    state_transition_time: Timestamp
    last_boot_time: Timestamp | None = None
    """Absent until the first boot."""
    allocation_time: Timestamp | None = None
    ip_address: str | None = None
    ipv6_address: str | None = None
    """Since 15.x."""
    affinity_id: str | None = None
    vm_size: str | None = None
    total_tasks_run: int | None = None
    """Job managers count, the other special tasks do not; so in the three below."""
    running_tasks_count: int | None = None
    running_task_slots_count: int | None = None
    total_tasks_succeeded: int | None = None
    recent_tasks: list[TaskInformation] | None = None
    start_task: StartTask | None = None
    start_task_info: StartTaskInformation | None = None
    certificate_references: list[CertificateReference] | None = None
    """Up to 14.x."""
    errors: list[ComputeNodeError] | None = None
    is_dedicated: bool | None = None
    endpoint_configuration: ComputeNodeEndpointConfiguration | None = None
    node_agent_info: NodeAgentInformation | None = None
    virtual_machine_info: VirtualMachineInfo | None = None


class NodeReboot(Shape):
    """How to reboot a node."""

    node_reboot_option: NodeRebootOption | None = None


class NodeReimage(Shape):
    """How to set a node up afresh."""

    node_reimage_option: NodeReimageOption | None = None


class NodeDeallocate(Shape):
    """How to stop the machine of a node (15.x)."""

    node_deallocate_option: NodeDeallocateOption | None = None


class NodeDisableScheduling(Shape):
    """How to keep new tasks off a node."""

    node_disable_scheduling_option: NodeDisableSchedulingOption | None = None


class NodeUserCreate(Shape):
    """User that a client adds to a node for logging in."""

    name: str
    is_admin: bool | None = None
    expiry_time: Timestamp | None = None
    password: Secret | None = None
    ssh_public_key: str | None = None


class NodeUserUpdate(Shape):
    """New login of a node's user; what is absent is removed."""

    password: Secret | None = None
    expiry_time: Timestamp | None = None
    ssh_public_key: str | None = None


class RemoteLoginSettings(Shape):
    """Address for SSH or remote desktop."""

    remote_login_ip_address: str = msgspec.field(name="remoteLoginIPAddress")
    remote_login_port: int
    ipv6_remote_login_ip_address: str | None = msgspec.field(name="ipv6RemoteLoginIPAddress", default=None)
    """Since 15.x."""
    ipv6_remote_login_port: int | None = None
    """Since 15.x."""


class UploadBatchServiceLogs(Shape):
    """Which of the agent's logs to upload where."""

    container_url: Secret
    """Holds a SAS when there is no identity."""
    start_time: Timestamp
    end_time: Timestamp | None = None
    identity_reference: ComputeNodeIdentityReference | None = None


class UploadBatchServiceLogsResult(Shape):
    """Logs that are being uploaded."""

    virtual_directory_name: str
    number_of_files_uploaded: int


class InstanceViewStatus(Shape):
    """Status line of an extension."""

    code: str | None = None
    display_status: str | None = None
    level: StatusLevel | None = None
    message: str | None = None
    time: Timestamp | None = None


class VMExtensionInstanceView(Shape):
    """What an extension reports."""

    name: str | None = None
    statuses: list[InstanceViewStatus] | None = None
    sub_statuses: list[InstanceViewStatus] | None = None


class NodeVMExtension(Shape):
    """Extension on a node with its status."""

    provisioning_state: str | None = None
    vm_extension: VMExtension | None = None
    instance_view: VMExtensionInstanceView | None = None
