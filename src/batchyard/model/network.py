"""The network of a pool: subnet, public addresses, ports that are opened to the outside."""

from __future__ import annotations

import msgspec

from batchyard.model.common import Shape
from batchyard.model.words import (
    DynamicVNetAssignmentScope,
    InboundEndpointProtocol,
    IPAddressProvisioningType,
    IPFamily,
    NetworkSecurityGroupRuleAccess,
)


class NetworkSecurityGroupRule(Shape):
    """Who may reach an open port; the smallest priority number decides."""

    priority: int
    access: NetworkSecurityGroupRuleAccess
    source_address_prefix: str
    """Address, range, tag, or `*` for everyone."""
    source_port_ranges: list[str] | None = None


class InboundNATPool(Shape):
    """Port of every node, reached through a port of its own from a range."""

    name: str
    protocol: InboundEndpointProtocol
    backend_port: int
    frontend_port_range_start: int
    frontend_port_range_end: int
    network_security_group_rules: list[NetworkSecurityGroupRule] | None = None


class PoolEndpointConfiguration(Shape):
    """Ports that a pool opens."""

    inbound_nat_pools: list[InboundNATPool] = msgspec.field(name="inboundNATPools")


class IPTag(Shape):
    """Label of a public address (15.x)."""

    ip_tag_type: str | None = None
    tag: str | None = None


class PublicIPAddressConfiguration(Shape):
    """Public addresses of a pool."""

    provision: IPAddressProvisioningType | None = None
    ip_families: list[IPFamily] | None = None
    """Since 15.x."""
    ip_address_ids: list[str] | None = None
    ip_tags: list[IPTag] | None = None
    """Since 15.x."""


class NetworkConfiguration(Shape):
    """Network of a pool."""

    subnet_id: str | None = None
    dynamic_vnet_assignment_scope: DynamicVNetAssignmentScope | None = msgspec.field(name="dynamicVNetAssignmentScope", default=None)
    endpoint_configuration: PoolEndpointConfiguration | None = None
    public_ip_address_configuration: PublicIPAddressConfiguration | None = msgspec.field(name="publicIPAddressConfiguration", default=None)
    enable_accelerated_networking: bool | None = None
