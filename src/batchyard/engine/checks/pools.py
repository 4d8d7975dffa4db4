"""What a client may say of a pool, and what the service fills in (contract 2.1, 4.4, 4.9, 7.1, A.1, A.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from itertools import pairwise

import msgspec

from batchyard.engine.checks import containers, demands, packages
from batchyard.engine.checks.tasks import DEFAULT_IDENTITY
from batchyard.model import times
from batchyard.model.common import MetadataItem
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.network import InboundNATPool, NetworkConfiguration
from batchyard.model.pool import (
    PoolCreateContent,
    StartTask,
    TaskSchedulingPolicy,
    UserAccount,
    WindowsUserConfiguration,
)
from batchyard.model.virtual_machine import ImageReference, RollingUpgradePolicy, UpgradePolicy, VirtualMachineConfiguration
from batchyard.model.words import ElevationLevel, LoginMode, NodeFillType
from batchyard.rules import images
from batchyard.rules.amounts import amount_bytes
from batchyard.rules.offer import Offer

INPUT_CACHE = "batchyard.inputCache"
RESIZE_TIMEOUT = "PT15M"
START_TASK_CHARACTERS = 32_768
MOST_NODES = 100_000
_SHORTEST_RESIZE_US = 5 * 60 * 1_000_000
_REQUIRED = "The property is required"
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,19}", re.ASCII)
_CLOUD = "Cloud services are retired; give virtualMachineConfiguration"
_ALL = frozenset(PoolCreateContent.__struct_fields__)
_CERTIFICATES = "Certificates were retired by the service; bring them to the nodes as resource files"


def check(pool: PoolCreateContent, offer: Offer) -> None:
    """Refuse what the contract refuses and fill the defaults in."""
    _check(pool, _ALL, offer)


def _check(pool: PoolCreateContent, changed: Set[str], offer: Offer) -> None:
    demands.an_id("id", pool.id)
    check_targets(pool.target_dedicated_nodes, pool.target_low_priority_nodes)
    pool.resize_timeout = resize_timeout(pool.resize_timeout)
    pool.enable_auto_scale = bool(pool.enable_auto_scale)
    check_changed(pool, changed, offer)


def check_again(pool: PoolCreateContent, offer: Offer) -> None:
    """The same for a pool that was checked before its secrets were taken out of it, and kept: the account may offer something else now."""
    _check(pool, _ALL - {"user_accounts"}, offer)


def check_changed(pool: PoolCreateContent, changed: Set[str], offer: Offer) -> None:
    """The same for some properties of a pool; what was stored before is not looked at again, because it has no secrets any more."""
    demands.a_display_name(pool.display_name)
    demands.metadata(pool.metadata)
    input_cache_bytes(pool.metadata)
    demands.retired("cloudServiceConfiguration", pool.cloud_service_configuration, _CLOUD)
    demands.retired("certificateReferences", pool.certificate_references, _CERTIFICATES)
    demands.not_served(mountConfiguration=pool.mount_configuration or None)
    machine = pool.virtual_machine_configuration
    if machine is None:
        raise BatchError("MissingRequiredProperty", PropertyName="virtualMachineConfiguration", Reason=_REQUIRED)
    if "virtual_machine_configuration" in changed:
        _check_machine(machine, offer)
    if changed & {"vm_size", "task_slots_per_node"}:
        _check_size(pool, offer)
    pool.task_scheduling_policy = pool.task_scheduling_policy or TaskSchedulingPolicy(node_fill_type=NodeFillType.SPREAD)
    pool.enable_inter_node_communication = bool(pool.enable_inter_node_communication)
    packages.check(pool.application_package_references)
    if pool.start_task is not None and "start_task" in changed:
        _check_start_task(pool.start_task)
    if pool.start_task is not None and pool.start_task.container_settings is not None:
        containers.fits(pool.start_task.container_settings, pool, "startTask.containerSettings")
    if "user_accounts" in changed:
        _check_users(pool.user_accounts, windows=images.is_windows(machine))
    if pool.network_configuration is not None:
        _check_network(pool.network_configuration)
    if pool.upgrade_policy is not None:
        _check_upgrades(pool.upgrade_policy, machine)
    _leave_out_empty(pool)


def input_cache_bytes(metadata: Sequence[MetadataItem] | None) -> int:
    """Room that each node has for inputs that its tasks share, 0 where the pool wants no cache. Raises InvalidPropertyValue."""
    said = demands.own_metadata(metadata, INPUT_CACHE)
    if said is None:
        return 0
    try:
        return amount_bytes(said)
    except ValueError as error:
        raise invalid_property("metadata", said[:100], f"The value of {INPUT_CACHE} is {error}") from None


def _leave_out_empty(pool: PoolCreateContent) -> None:
    """Empty collections are not served (contract 1.4)."""
    for name in (
        "metadata",
        "application_package_references",
        "user_accounts",
        "certificate_references",
        "mount_configuration",
        "application_licenses",
        "resource_tags",
    ):
        if not getattr(pool, name):
            setattr(pool, name, None)


def _check_size(pool: PoolCreateContent, offer: Offer) -> None:
    size = offer.sizes.find(pool.vm_size)
    if size is None:
        raise invalid_property("vmSize", pool.vm_size[:100], "The specified vmSize is not one of the sizes that this account offers")
    pool.vm_size = pool.vm_size.lower()
    pool.task_slots_per_node = 1 if pool.task_slots_per_node is None else pool.task_slots_per_node
    demands.within("taskSlotsPerNode", pool.task_slots_per_node, 1, size.most_slots)


def resize_timeout(given: str | None) -> str:
    """The timeout as the service writes it, 15 minutes by default."""
    if given is None:
        return RESIZE_TIMEOUT
    us = demands.duration_us("resizeTimeout", given, minimum_us=_SHORTEST_RESIZE_US)
    if us is None:
        raise invalid_property("resizeTimeout", given, "The value must be finite")
    return times.duration_text(us)


def check_targets(dedicated: int | None, low_priority: int | None) -> None:
    """Both targets, where given, are numbers of nodes."""
    for name, target in (("targetDedicatedNodes", dedicated), ("targetLowPriorityNodes", low_priority)):
        if target is not None:
            demands.within(name, target, 0, MOST_NODES)


def _check_start_task(task: StartTask) -> None:
    containers.command_line(task.command_line, task.container_settings)
    demands.an_identity(task.user_identity)
    demands.resource_files(task.resource_files)
    demands.environment(task.environment_settings)
    containers.settings(task.container_settings)
    task.max_task_retry_count = task.max_task_retry_count or 0
    demands.a_retry_count(task.max_task_retry_count)
    task.wait_for_success = task.wait_for_success is not False
    task.user_identity = task.user_identity or DEFAULT_IDENTITY
    characters = len(msgspec.json.encode(task).decode())
    if characters > START_TASK_CHARACTERS:
        reason = f"A start task has at most {START_TASK_CHARACTERS} characters with its resource files and its environment, this one has"
        raise invalid_property("startTask", "", f"{reason} {characters}")


def _check_users(users: Sequence[UserAccount] | None, *, windows: bool) -> None:
    """Names that a Linux machine can have, each once, each with a password; the defaults of contract 4.4."""
    names = set[str]()
    for user in users or ():
        if _USER.fullmatch(user.name) is None:
            reason = "A name is 1 to 20 letters, digits, dots, hyphens and underscores and begins with a letter or an underscore"
            raise invalid_property("userAccounts.name", user.name[:100], reason)
        if user.name.lower() in names:
            raise invalid_property("userAccounts.name", user.name, "The names of user accounts must differ")
        names.add(user.name.lower())
        if not user.password:
            raise BatchError("MissingRequiredProperty", PropertyName="userAccounts.password", Reason=_REQUIRED)
        _check_user_platform(user, windows=windows)
        user.elevation_level = user.elevation_level or ElevationLevel.NON_ADMIN


def _check_user_platform(user: UserAccount, *, windows: bool) -> None:
    linux = user.linux_user_configuration
    if windows and linux is not None:
        raise invalid_property("userAccounts.linuxUserConfiguration", user.name, "The pool's image is a Windows image")
    if not windows and user.windows_user_configuration is not None:
        raise invalid_property("userAccounts.windowsUserConfiguration", user.name, "The pool's image is no Windows image")
    if windows:
        user.windows_user_configuration = user.windows_user_configuration or WindowsUserConfiguration()
        user.windows_user_configuration.login_mode = user.windows_user_configuration.login_mode or LoginMode.BATCH
    if linux is not None:
        if (linux.uid is None) != (linux.gid is None):
            raise invalid_property("userAccounts.linuxUserConfiguration", user.name, "uid and gid must be given together")
        for name, number in (("uid", linux.uid), ("gid", linux.gid)):
            if number is not None:
                demands.within(f"userAccounts.linuxUserConfiguration.{name}", number, 1, demands.LARGEST_INTEGER)


def _check_machine(machine: VirtualMachineConfiguration, offer: Offer) -> None:
    containers.configuration(machine.container_configuration)
    _check_image(machine.image_reference)
    if machine.node_agent_sku_id.lower() not in images.agents(offer.images):
        raise invalid_property("nodeAgentSKUId", machine.node_agent_sku_id[:100], "The specified node agent SKU is not known")
    windows = images.is_windows(machine)
    if machine.windows_configuration is not None and not windows:
        raise invalid_property("windowsConfiguration", "", "The property is for pools of a Windows image only")
    luns = [disk.lun for disk in machine.data_disks or ()]
    for disk in machine.data_disks or ():
        demands.within("dataDisks.lun", disk.lun, 0, 63)
        demands.within("dataDisks.diskSizeGB", disk.disk_size_gb, 1, demands.LARGEST_INTEGER)
    if len(set(luns)) != len(luns):
        raise invalid_property("dataDisks.lun", luns, "Every data disk needs a logical unit number of its own")
    for extension in machine.extensions or ():
        demands.shallow("extensions.settings", extension.settings)
        demands.shallow("extensions.protectedSettings", extension.protected_settings)
    names = [extension.name.lower() for extension in machine.extensions or ()]
    if len(set(names)) != len(names) or "" in names:
        raise invalid_property("extensions.name", ", ".join(names)[:100], "Every extension needs a name of its own")


def _check_image(image: ImageReference) -> None:
    """A marketplace name in its parts, or one of the three kinds of id."""
    ids = (image.virtual_machine_image_id, image.shared_gallery_image_id, image.community_gallery_image_id)
    named = (image.publisher, image.offer, image.sku)
    given = sum(one is not None for one in ids) + any(part is not None for part in (*named, image.version))
    if given != 1:
        reason = "Exactly one must be given: publisher, offer and sku; virtualMachineImageId; sharedGalleryImageId; communityGalleryImageId"
        raise invalid_property("imageReference", "", reason)
    if not any(ids):
        for name, part in zip(("publisher", "offer", "sku"), named, strict=True):
            if not part:
                raise BatchError("MissingRequiredProperty", PropertyName=f"imageReference.{name}", Reason=_REQUIRED)
        image.version = image.version or "latest"
    if image.exact_version is not None:
        raise BatchError("UnsupportedProperty", PropertyName="imageReference.exactVersion", Reason="The service sets the property")


def _check_network(network: NetworkConfiguration) -> None:
    """Ports and rules of contract 4.9."""
    pools = network.endpoint_configuration.inbound_nat_pools if network.endpoint_configuration else []
    if len(pools) > 5:
        raise invalid_property("inboundNATPools", len(pools), "A pool has at most 5 of them")
    if sum(len(pool.network_security_group_rules or ()) for pool in pools) > 25:
        raise invalid_property("networkSecurityGroupRules", "", "A pool has at most 25 of them in all")
    for name, of_one in (("name", lambda pool: pool.name.lower()), ("backendPort", lambda pool: (pool.backend_port, pool.protocol))):
        if len({of_one(pool) for pool in pools}) != len(pools):
            raise invalid_property(f"inboundNATPools.{name}", "", "The values must differ")
    for pool in pools:
        _check_ports(pool)
    spans = sorted((pool.frontend_port_range_start, pool.frontend_port_range_end) for pool in pools)
    if any(end >= start for (_, end), (start, _) in pairwise(spans)):
        raise invalid_property("inboundNATPools.frontendPortRangeStart", "", "The ranges of frontend ports must not overlap")


def _check_ports(pool: InboundNATPool) -> None:
    if not 1 <= len(pool.name) <= 77:
        raise invalid_property("inboundNATPools.name", pool.name[:100], "A name has 1 to 77 characters")
    demands.within("inboundNATPools.backendPort", pool.backend_port, 1, 65_535)
    if pool.backend_port in (29_876, 29_877):
        raise invalid_property("inboundNATPools.backendPort", pool.backend_port, "The service uses the port itself")
    start, end = pool.frontend_port_range_start, pool.frontend_port_range_end
    demands.within("inboundNATPools.frontendPortRangeStart", start, 1, 65_534)
    demands.within("inboundNATPools.frontendPortRangeEnd", end, 1, 65_534)
    if start <= 55_000 and end >= 50_000:
        raise invalid_property("inboundNATPools.frontendPortRangeStart", f"{start}-{end}", "Ports 50000 to 55000 are reserved")
    if end - start + 1 < 40:
        raise invalid_property("inboundNATPools.frontendPortRangeEnd", f"{start}-{end}", "The range must have at least 40 ports")
    priorities = [rule.priority for rule in pool.network_security_group_rules or ()]
    for priority in priorities:
        demands.within("networkSecurityGroupRules.priority", priority, 150, 4096)
    if len(set(priorities)) != len(priorities):
        raise invalid_property("networkSecurityGroupRules.priority", priorities, "The priorities must differ")


def _check_upgrades(policy: UpgradePolicy, machine: VirtualMachineConfiguration) -> None:
    for name, percent, least in _percentages(policy.rolling_upgrade_policy):
        if percent is not None:
            demands.within(f"rollingUpgradePolicy.{name}", percent, least, 100)
    automatic = policy.automatic_os_upgrade_policy is not None and policy.automatic_os_upgrade_policy.enable_automatic_os_upgrade
    windows = machine.windows_configuration
    if automatic and windows is not None and windows.enable_automatic_updates:
        reason = "It excludes automatic updates of Windows: set windowsConfiguration.enableAutomaticUpdates to false"
        raise invalid_property("automaticOSUpgradePolicy.enableAutomaticOSUpgrade", "true", reason)


def _percentages(policy: RollingUpgradePolicy | None) -> Iterator[tuple[str, int | None, int]]:
    if policy is not None:
        yield "maxBatchInstancePercent", policy.max_batch_instance_percent, 5
        yield "maxUnhealthyInstancePercent", policy.max_unhealthy_instance_percent, 5
        yield "maxUnhealthyUpgradedInstancePercent", policy.max_unhealthy_upgraded_instance_percent, 0
