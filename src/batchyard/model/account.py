"""What belongs to the account as a whole: images, node counts, usage, applications."""

from __future__ import annotations

import msgspec

from batchyard.model.common import Shape, Timestamp
from batchyard.model.virtual_machine import ImageReference
from batchyard.model.words import ImageVerificationType, OSType


class SupportedImage(Shape, kw_only=True):
    """Image that pools may use, with the node agent that goes with it."""

    node_agent_sku_id: str = msgspec.field(name="nodeAgentSKUId")
    image_reference: ImageReference
    os_type: OSType
    capabilities: list[str] | None = None
    batch_support_end_of_life: Timestamp | None = None
    verification_type: ImageVerificationType


class NodeAgentSku(Shape, kw_only=True):
    """Node agent with the images that are verified to go with it; up to 2018-12, later a list of SupportedImage."""

    id: str
    verified_image_references: list[ImageReference]
    os_type: OSType


class NodeCounts(Shape, kw_only=True):
    """Nodes of one kind by state."""

    creating: int
    idle: int
    offline: int
    preempted: int
    rebooting: int
    reimaging: int
    running: int
    starting: int
    start_task_failed: int
    leaving_pool: int
    unknown: int
    unusable: int
    waiting_for_start_task: int
    upgrading_os: int = msgspec.field(name="upgradingOS")
    deallocated: int | None = None
    """Since 15.x."""
    deallocating: int | None = None
    """Since 15.x."""
    total: int


class PoolNodeCounts(Shape):
    """Nodes of one pool by kind and state."""

    pool_id: str
    dedicated: NodeCounts | None = None
    low_priority: NodeCounts | None = None


class PoolUsageMetrics(Shape):
    """Core hours of one pool in one interval."""

    pool_id: str
    start_time: Timestamp
    end_time: Timestamp
    vm_size: str
    total_core_hours: float


class Application(Shape):
    """Application of the account whose packages tasks may use."""

    id: str
    display_name: str
    versions: list[str]


class AccountLimits(Shape, kw_only=True):
    """Quotas of an account, or how much of each is taken, by the names of the service (contract 7.2); absent is without limit."""

    pool_quota: int | None = None
    active_job_and_job_schedule_quota: int | None = None
    dedicated_core_quota: int | None = None
    low_priority_core_quota: int | None = None


class OwnAccount(Shape, kw_only=True):
    """An account of this server, as it is shown to the operator and to itself."""

    name: str
    state: str
    account_endpoint: str
    storage_account: str
    created: Timestamp
    quotas: AccountLimits
    used: AccountLimits | None = None
    """What the account takes of its quotas, told to itself."""


class AccountKeys(Shape, kw_only=True):
    """Both keys of an account, and the one of the storage account that is linked to it."""

    primary: str
    secondary: str
    storage_key: str


class StorageEndpoints(Shape, kw_only=True):
    """Under which URLs the services of a storage account are reached; that of tables refuses."""

    blob: str
    dfs: str
    queue: str
    table: str


class OwnStorage(Shape, kw_only=True):
    """A storage account of this server, as it is shown to the operator and to the account that it is linked to."""

    name: str
    state: str
    account: str
    """In whose world it lies."""
    linked: bool
    """It is the one that nodes and packages of that account use."""
    created: Timestamp
    endpoints: StorageEndpoints


class StorageKeys(Shape, kw_only=True):
    """Both keys of a storage account."""

    primary: str
    secondary: str
