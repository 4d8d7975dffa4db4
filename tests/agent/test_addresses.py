"""Own addresses as the kernel chooses them."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from batchyard.agent.health import addresses


def has_ipv6() -> bool:
    """True when this machine can listen on its IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_towards_a_server() -> None:
    assert addresses.towards("http://127.0.0.1:8777") == "127.0.0.1"
    assert addresses.towards("http://no-such-host.invalid:8777") == "127.0.0.1"
    assert addresses.towards("https://localhost") in ("127.0.0.1", "::1")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_towards_a_server_of_that_kind() -> None:
    assert addresses.ipv6("http://[::1]:8777") == "::1"
    assert addresses.towards("http://[::1]:8777") == "::1"


@pytest.mark.parametrize("server", ["http://127.0.0.1:8777", "http://no-such-host.invalid", "http://[::ffff:127.0.0.1]:1"])
def test_ipv6_otherwise_is_one_that_others_can_use_or_none(server: str) -> None:
    found = addresses.ipv6(server)
    if found:
        address = ipaddress.ip_address(found)
        assert address.version == 6
        assert not address.is_link_local
        assert not address.is_loopback
