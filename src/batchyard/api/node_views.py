"""Compute nodes as clients see them (contract A.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from batchyard.api.call import Call
from batchyard.api.wire import encode, splice
from batchyard.model import times
from batchyard.model.ids import NODE_AFFINITY_PREFIX
from batchyard.model.node import (
    ComputeNodeEndpointConfiguration,
    ComputeNodeError,
    InboundEndpoint,
    InstanceViewStatus,
    Node,
    NodeAgentInformation,
    NodeVMExtension,
    RemoteLoginSettings,
    StartTaskInformation,
    TaskInformation,
    VirtualMachineInfo,
    VMExtensionInstanceView,
)
from batchyard.model.pool import PoolCreateContent
from batchyard.model.sync import NodeFacts
from batchyard.model.task import TaskExecutionInformation, TaskFailureInformation
from batchyard.model.virtual_machine import VMExtension
from batchyard.model.words import InboundEndpointProtocol, StatusLevel
from batchyard.store.nodes import NodeView, RecentTask

SSH_PORT = 22
"""Own machines have no address translation: what a node listens on is what others reach."""
NOT_INSTALLED = "NotInstalled"
_facts = msgspec.json.Decoder(NodeFacts)
_errors = msgspec.json.Decoder(list[ComputeNodeError])
_failure = msgspec.json.Decoder(TaskFailureInformation)
_pool_body = msgspec.json.Decoder(PoolCreateContent)


def node(row: NodeView, recent: Sequence[RecentTask], call: Call) -> bytes:
    """A compute node; `recent` are its last tasks."""
    known = facts(row)
    body = _pool_body.decode(row.pool_body)
    machine = body.virtual_machine_configuration
    seen = Node(
        id=row.id,
        url=call.url("pools", row.pool_id, "nodes", row.id),
        state=row.state,
        scheduling_state=row.scheduling_state,
        state_transition_time=times.iso(row.state_time),
        last_boot_time=_time(row.booted),
        allocation_time=times.iso(row.allocated),
        affinity_id=NODE_AFFINITY_PREFIX + row.id,
        vm_size=body.vm_size,
        total_tasks_run=row.tasks_run,
        total_tasks_succeeded=row.tasks_succeeded,
        running_tasks_count=row.tasks_running,
        running_task_slots_count=row.slots_used,
        recent_tasks=[_recent(task, call) for task in recent] or None,
        start_task_info=_start_task_info(row),
        certificate_references=None,
        errors=None if row.errors is None else _errors.decode(row.errors),
        is_dedicated=bool(row.dedicated),
        virtual_machine_info=None if machine is None else VirtualMachineInfo(image_reference=machine.image_reference),
    )
    if known is not None:
        seen.ip_address = known.ip_address
        seen.node_agent_info = NodeAgentInformation(version=known.agent_version, last_update_time=times.iso(row.booted or row.allocated))
        seen.endpoint_configuration = ComputeNodeEndpointConfiguration(inbound_endpoints=list(_endpoints(body, known)))
    start = b"" if row.start_task is None else b'{"startTask":' + row.start_task + b"}"
    return splice(encode(seen), start)


def facts(row: NodeView) -> NodeFacts | None:
    """What the node's agent found out about its machine; None before it joined."""
    return None if row.facts is None else _facts.decode(row.facts)


def login(known: NodeFacts) -> RemoteLoginSettings:
    """Where SSH reaches the node."""
    return RemoteLoginSettings(remote_login_ip_address=known.ip_address, remote_login_port=SSH_PORT)


def extensions(row: NodeView) -> list[NodeVMExtension]:
    """The pool's extensions; they are kept and never installed, because the machine is its operator's."""
    machine = _pool_body.decode(row.pool_body).virtual_machine_configuration
    return [_extension(each) for each in (machine.extensions if machine else None) or ()]


def _extension(extension: VMExtension) -> NodeVMExtension:
    message = "Extensions are for machines of Azure; on this one whoever runs the machine installs what it needs"
    status = InstanceViewStatus(
        code=f"ProvisioningState/{NOT_INSTALLED}", level=StatusLevel.INFO, display_status=NOT_INSTALLED, message=message
    )
    shown = msgspec.structs.replace(extension, protected_settings=None)
    view = VMExtensionInstanceView(name=extension.name, statuses=[status])
    return NodeVMExtension(provisioning_state=NOT_INSTALLED, vm_extension=shown, instance_view=view)


def _endpoints(body: PoolCreateContent, known: NodeFacts) -> Iterator[InboundEndpoint]:
    ports = [("SSHRule.0", InboundEndpointProtocol.TCP, SSH_PORT)]
    network = body.network_configuration
    if network is not None and network.endpoint_configuration is not None:
        ports += [(pool.name, pool.protocol, pool.backend_port) for pool in network.endpoint_configuration.inbound_nat_pools]
    for name, protocol, port in ports:
        yield InboundEndpoint(
            name=name,
            protocol=protocol,
            public_ip_address=known.ip_address,
            public_fqdn=known.host_name,
            frontend_port=port,
            backend_port=port,
        )


def _start_task_info(row: NodeView) -> StartTaskInformation | None:
    if row.start_state is None or row.start_began is None:
        return None
    return StartTaskInformation(
        state=row.start_state,
        start_time=times.iso(row.start_began),
        end_time=_time(row.start_ended),
        exit_code=row.start_exit_code,
        failure_info=None if row.start_failure is None else _failure.decode(row.start_failure),
        retry_count=row.start_retries or 0,
        last_retry_time=_time(row.start_last_retry),
        result=row.start_result,
    )


def _recent(task: RecentTask, call: Call) -> TaskInformation:
    info = TaskExecutionInformation(
        start_time=_time(task.started),
        end_time=_time(task.ended),
        exit_code=task.exit_code,
        failure_info=None if task.failure is None else _failure.decode(task.failure),
        retry_count=task.retries,
        last_retry_time=_time(task.last_retry),
        requeue_count=task.requeues,
        last_requeue_time=_time(task.last_requeue),
        result=task.result,
    )
    url = call.url("jobs", task.job_id, "tasks", task.task_id)
    return TaskInformation(task_url=url, job_id=task.job_id, task_id=task.task_id, task_state=task.state, execution_info=info)


def _time(us: int | None) -> str | None:
    return None if us is None else times.iso(us)
