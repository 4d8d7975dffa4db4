"""Addresses of this machine, as the kernel would choose them; nothing is sent to find them out."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

_ANYWHERE = "2001:db8::1"
"""An address that no machine has: the way to it is the way to the rest of the world."""


def towards(server: str) -> str:
    """Own address on the way to a server's URL."""
    parts = urlsplit(server)
    try:
        return _own(parts.hostname or "", parts.port or 80)
    except OSError:
        return "127.0.0.1"


def ipv6(server: str) -> str:
    """Own IPv6 address on the way to a server's URL, or else to anywhere; empty when this machine has none."""
    parts = urlsplit(server)
    for host in (parts.hostname or "", _ANYWHERE):
        try:
            found = ipaddress.ip_address(_own(host, parts.port or 80, socket.AF_INET6).partition("%")[0])
        except (OSError, ValueError):
            continue
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None and not found.is_link_local:
            return str(found)
    return ""


def _own(host: str, port: int, wanted: int = socket.AF_UNSPEC) -> str:
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, wanted, socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
