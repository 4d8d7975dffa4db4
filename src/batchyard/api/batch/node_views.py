"""Compute nodes as clients see them (contract A.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from batchyard.api.wire.call import Call, Machine
from batchyard.api.wire.wire import encode, splice
from batchyard.model import times
from batchyard.model.ids import NODE_AFFINITY_PREFIX
from batchyard.model.network import InboundNATPool
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
from batchyard.model.redact import shown
from batchyard.model.sync import NodeFacts
from batchyard.model.task import TaskExecutionInformation, TaskFailureInformation
from batchyard.model.virtual_machine import VMExtension
from batchyard.model.words import InboundEndpointProtocol, IPFamily, StatusLevel
from batchyard.store import pools as pool_rows
from batchyard.store.nodes import NodeView, RecentTask

SSH_PORT = 22
"""Own machines have no address translation: what a node listens on is what others reach."""
NOT_INSTALLED = "NotInstalled"
OWN = VMExtension(
    name="batchNodeExtension",
    publisher="Microsoft.Azure.Extensions",
    type="CustomScript",
    type_handler_version="2.0",
    auto_upgrade_minor_version=True,
)
"""What the service lists beside the extensions of a pool (contract 9.6)."""
_facts = msgspec.json.Decoder(NodeFacts)
_errors = msgspec.json.Decoder(list[ComputeNodeError])
_failure = msgspec.json.Decoder(TaskFailureInformation)


def node(row: NodeView, recent: Sequence[RecentTask], call: Call) -> bytes:
    """A compute node; `recent` are its last tasks."""
    known = facts(row)
    body = pool_rows.content(row.pool_body)
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
        seen.node_agent_info = NodeAgentInformation(version=known.agent_version, last_update_time=times.iso(row.booted or row.allocated))
    if known is not None or row.handle is not None:
        where = place(row, call)
        seen.ip_address = None if where is None else where.ip_address
        seen.ipv6_address = _ipv6(body, where)
        seen.endpoint_configuration = ComputeNodeEndpointConfiguration(inbound_endpoints=list(_endpoints(body, row.number, where)))
    start = b"" if row.start_task is None else b'{"startTask":' + shown(row.start_task) + b"}"
    return splice(encode(seen), start)


def facts(row: NodeView) -> NodeFacts | None:
    """What the node's agent found out about its machine; None before it joined."""
    return None if row.facts is None else _facts.decode(row.facts)


def place(row: NodeView, call: Call) -> Machine | None:
    """Where the node is: as its agent said, or as is known of its provider; None before it has a machine."""
    known = facts(row)
    if known is not None:
        return Machine(known.ip_address, known.host_name, known.ipv6_address)
    return None if row.handle is None else call.services.machines.get(row.provider)


def _ipv6(body: PoolCreateContent, machine: Machine | None) -> str | None:
    """The node's IPv6 address, if its pool asks for one and the machine has one."""
    network = body.network_configuration
    public = None if network is None else network.public_ip_address_configuration
    asked = public is not None and IPFamily.IPV6 in (public.ip_families or ())
    return machine.ipv6_address or None if asked and machine is not None else None


def login(row: NodeView, machine: Machine) -> RemoteLoginSettings:
    """Where SSH reaches the node."""
    ipv6 = _ipv6(pool_rows.content(row.pool_body), machine)
    return RemoteLoginSettings(
        remote_login_ip_address=machine.ip_address,
        remote_login_port=SSH_PORT,
        ipv6_remote_login_ip_address=ipv6,
        ipv6_remote_login_port=None if ipv6 is None else SSH_PORT,
    )


def extensions(row: NodeView) -> list[NodeVMExtension]:
    """The pool's extensions, which are kept and never installed, because the machine is its operator's; then the service's own."""
    machine = pool_rows.content(row.pool_body).virtual_machine_configuration
    given = [_extension(each) for each in (machine.extensions if machine else None) or ()]
    if not given or any(each.vm_extension is not None and each.vm_extension.name.lower() == OWN.name.lower() for each in given):
        return given
    return [*given, _own_extension(joined=row.facts is not None)]


def _own_extension(*, joined: bool) -> NodeVMExtension:
    """The node's agent, in the shape in which the service lists the one that brings its agent."""
    word, said = ("succeeded", "Provisioning succeeded") if joined else ("creating", "Provisioning")
    status = InstanceViewStatus(code=f"ProvisioningState/{word}", level=StatusLevel.INFO, display_status=said)
    view = VMExtensionInstanceView(name=OWN.name, statuses=[status])
    return NodeVMExtension(provisioning_state=word.title(), vm_extension=OWN, instance_view=view)


def _extension(extension: VMExtension) -> NodeVMExtension:
    message = "Extensions are for machines of Azure; on this one whoever runs the machine installs what it needs"
    status = InstanceViewStatus(
        code=f"ProvisioningState/{NOT_INSTALLED}", level=StatusLevel.INFO, display_status=NOT_INSTALLED, message=message
    )
    shown = msgspec.structs.replace(extension, protected_settings=None)
    view = VMExtensionInstanceView(name=extension.name, statuses=[status])
    return NodeVMExtension(provisioning_state=NOT_INSTALLED, vm_extension=shown, instance_view=view)


def _endpoints(body: PoolCreateContent, number: int, machine: Machine | None) -> Iterator[InboundEndpoint]:
    """The pool's endpoints on its node of that number, then SSH, in the service's shape."""
    network = body.network_configuration
    given = network.endpoint_configuration.inbound_nat_pools if network is not None and network.endpoint_configuration is not None else ()
    ports = [(pool.name, pool.protocol, _frontend_port(pool, number), pool.backend_port) for pool in given]
    for name, protocol, frontend, backend in (*ports, ("SSHRule", InboundEndpointProtocol.TCP, SSH_PORT, SSH_PORT)):
        yield InboundEndpoint(
            name=f"{name}.{number}",
            protocol=protocol,
            public_ip_address=None if machine is None else machine.ip_address,
            public_fqdn=None if machine is None else machine.host_name,
            frontend_port=frontend,
            backend_port=backend,
        )


def _frontend_port(pool: InboundNATPool, number: int) -> int:
    """Port of the range for the node of that number; a pool with more nodes than ports begins anew."""
    return pool.frontend_port_range_start + number % (pool.frontend_port_range_end - pool.frontend_port_range_start + 1)


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
    return TaskInformation(
        task_url=url, job_id=task.job_id, task_id=task.task_id, subtask_id=task.number, task_state=task.state, execution_info=info
    )


def _time(us: int | None) -> str | None:
    return None if us is None else times.iso(us)
