"""The machines of a pool: image, disks, extensions, security, upgrades of the operating system."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from batchyard.model.common import SECRET, ContainerRegistry, Duration, Shape
from batchyard.model.words import (
    CachingType,
    ContainerType,
    DiffDiskPlacement,
    DiskEncryptionTarget,
    HostEndpointSettingsMode,
    NodePlacementPolicyType,
    SecurityEncryptionType,
    SecurityType,
    StorageAccountType,
    UpgradeMode,
)


class ImageReference(Shape):
    """Image of a machine: a marketplace name in four parts, or one of the three ids."""

    publisher: str | None = None
    offer: str | None = None
    sku: str | None = None
    version: str | None = None
    virtual_machine_image_id: str | None = None
    exact_version: str | None = None
    """Set by the service: what `latest` stood for."""
    shared_gallery_image_id: str | None = None
    """Since 15.x."""
    community_gallery_image_id: str | None = None
    """Since 15.x."""


class WindowsConfiguration(Shape):
    """Windows settings of a machine."""

    enable_automatic_updates: bool | None = None


class DiskEncryptionSetParameters(Shape):
    """Set of keys that encrypts a disk (15.x)."""

    id: str | None = None


class VMDiskSecurityProfile(Shape):
    """Encryption of a confidential machine's disk (15.x)."""

    security_encryption_type: SecurityEncryptionType | None = None


class ManagedDisk(Shape):
    """Storage behind a disk."""

    disk_encryption_set: DiskEncryptionSetParameters | None = None
    """Since 15.x."""
    storage_account_type: StorageAccountType | None = None
    security_profile: VMDiskSecurityProfile | None = None
    """Since 15.x."""


class DataDisk(Shape):
    """Further disk of a machine."""

    lun: int
    disk_size_gb: int = msgspec.field(name="diskSizeGB")
    caching: CachingType | None = None
    managed_disk: ManagedDisk | None = None
    """Since 15.x."""
    storage_account_type: StorageAccountType | None = None
    """Up to 14.x; moved into managedDisk."""


class DiffDiskSettings(Shape):
    """Place of an ephemeral system disk."""

    placement: DiffDiskPlacement | None = None


class OSDisk(Shape):
    """System disk of a machine."""

    ephemeral_os_disk_settings: DiffDiskSettings | None = msgspec.field(name="ephemeralOSDiskSettings", default=None)
    caching: CachingType | None = None
    disk_size_gb: int | None = msgspec.field(name="diskSizeGB", default=None)
    managed_disk: ManagedDisk | None = None
    write_accelerator_enabled: bool | None = None


class ContainerConfiguration(Shape):
    """Container runtime of a machine with the images it has from the start."""

    type: ContainerType
    container_image_names: list[str] | None = None
    container_registries: list[ContainerRegistry] | None = None


class PoolIdentityReference(Shape):
    """One of the pool's identities (15.x)."""

    resource_id: str | None = None


class DiskCustomerManagedKey(Shape):
    """Key of the client's own that encrypts disks (15.x)."""

    identity_reference: PoolIdentityReference | None = None
    key_url: str | None = None
    rotation_to_latest_key_version_enabled: bool | None = None


class DiskEncryptionConfiguration(Shape):
    """Which disks are encrypted, and by which key."""

    targets: list[DiskEncryptionTarget] | None = None
    customer_managed_key: DiskCustomerManagedKey | None = None
    """Since 15.x."""


class NodePlacementConfiguration(Shape):
    """How nodes are spread over zones."""

    policy: NodePlacementPolicyType | None = None


class VMExtension(Shape):
    """Program that is installed into a machine before the node agent starts."""

    name: str
    publisher: str
    type: str
    type_handler_version: str | None = None
    auto_upgrade_minor_version: bool | None = None
    enable_automatic_upgrade: bool | None = None
    settings: dict[str, Any] | None = None
    """Text only in 15.x, any JSON in 14.x."""
    protected_settings: Annotated[dict[str, Any], SECRET] | None = None
    provision_after_extensions: list[str] | None = None


class UefiSettings(Shape):
    """Start protection of a machine."""

    secure_boot_enabled: bool | None = None
    v_tpm_enabled: bool | None = None


class HostEndpointSettings(Shape):
    """Who on a machine may reach an endpoint of its host (15.x)."""

    in_vm_access_control_profile_reference_id: str | None = msgspec.field(name="inVMAccessControlProfileReferenceId", default=None)
    mode: HostEndpointSettingsMode | None = None


class ProxyAgentSettings(Shape):
    """Guard before the host's endpoints (15.x)."""

    enabled: bool | None = None
    imds: HostEndpointSettings | None = None
    wire_server: HostEndpointSettings | None = None


class SecurityProfile(Shape):
    """Protection of a machine."""

    encryption_at_host: bool | None = None
    proxy_agent_settings: ProxyAgentSettings | None = None
    """Since 15.x."""
    security_type: SecurityType | None = None
    uefi_settings: UefiSettings | None = None


class ServiceArtifactReference(Shape):
    """Artifact that fixes the image version of a whole scale set."""

    id: str


class VirtualMachineConfiguration(Shape):
    """Everything about the machines of a pool but their size and number."""

    image_reference: ImageReference
    node_agent_sku_id: str = msgspec.field(name="nodeAgentSKUId")
    windows_configuration: WindowsConfiguration | None = None
    data_disks: list[DataDisk] | None = None
    license_type: str | None = None
    container_configuration: ContainerConfiguration | None = None
    disk_encryption_configuration: DiskEncryptionConfiguration | None = None
    node_placement_configuration: NodePlacementConfiguration | None = None
    extensions: list[VMExtension] | None = None
    os_disk: OSDisk | None = None
    security_profile: SecurityProfile | None = None
    service_artifact_reference: ServiceArtifactReference | None = None


class CloudServiceConfiguration(Shape):
    """Machines of the retired cloud services (14.x)."""

    os_family: str
    os_version: str | None = None


class AutomaticOSUpgradePolicy(Shape):
    """How the operating system follows new images."""

    disable_automatic_rollback: bool | None = None
    enable_automatic_os_upgrade: bool | None = msgspec.field(name="enableAutomaticOSUpgrade", default=None)
    use_rolling_upgrade_policy: bool | None = None
    os_rolling_upgrade_deferral: bool | None = None


class RollingUpgradePolicy(Shape):
    """How many machines are upgraded at a time."""

    enable_cross_zone_upgrade: bool | None = None
    max_batch_instance_percent: int | None = None
    max_unhealthy_instance_percent: int | None = None
    max_unhealthy_upgraded_instance_percent: int | None = None
    pause_time_between_batches: Duration | None = None
    prioritize_unhealthy_instances: bool | None = None
    rollback_failed_instances_on_policy_breach: bool | None = None


class UpgradePolicy(Shape):
    """How the machines of a pool are upgraded."""

    mode: UpgradeMode
    automatic_os_upgrade_policy: AutomaticOSUpgradePolicy | None = msgspec.field(name="automaticOSUpgradePolicy", default=None)
    rolling_upgrade_policy: RollingUpgradePolicy | None = None
