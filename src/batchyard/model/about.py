"""What the server knows of a node beyond the service's shapes, as a read beside the Azure operations serves it."""

from __future__ import annotations

from batchyard.model.common import Shape, Timestamp
from batchyard.model.states import NodeState


class NodeEvent(Shape):
    """Something that happened to the node; `old` and `new` are states."""

    time: Timestamp
    happened: str
    old: str | None = None
    new: str | None = None
    cause: str | None = None


class AboutNode(Shape, kw_only=True):
    """A node's machine, how far its tasks are isolated, why it was not launched, and its last events."""

    id: str
    pool_id: str
    state: NodeState
    provider: str
    last_seen: Timestamp | None = None
    launches: int
    """Launches since the node joined last."""
    launch_error: str | None = None
    action: str | None = None
    """What happens to it once its tasks have left it: reboot, reimage, deallocate, remove, preempt."""
    cores: int
    """Cores that its tasks may use; 0 for all."""
    memory_bytes: int
    """Memory that its tasks may use; 0 for all."""
    host_name: str | None = None
    system: str | None = None
    machine_cores: int | None = None
    machine_memory_bytes: int | None = None
    disk_bytes: int | None = None
    process_control: str | None = None
    switches_users: bool | None = None
    limits: list[str] | None = None
    not_isolated: list[str] | None = None
    """Sentences for the operator."""
    events: list[NodeEvent]
