"""The network of this machine's nodes, where each has a namespace of its own: made at start, and how the server is reached from it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from ipaddress import IPv4Network
from typing import Any

from batchyard.api.wire.protocol import BoundedHttp
from batchyard.config import Config
from batchyard.providers.network import namespaces
from batchyard.providers.network.kernel import Unusable
from batchyard.providers.network.namespaces import Namespaces
from batchyard.server.refusals import Refused


def begin(config: Config) -> Namespaces | None:
    """The network of the nodes, None where they share this machine's address; what an earlier server left is gone then. Raises Refused."""
    if not config.namespaces:
        with contextlib.suppress(OSError):
            namespaces.forget(config.directory)
        return None
    if config.external_nodes:
        raise Refused("--network namespaces is for agents on this machine, and --provider external starts none")
    try:
        return Namespaces(config.directory, IPv4Network(config.network_range), config.max_nodes)
    except Unusable as error:
        raise Refused(f"nodes cannot have networks of their own here: {error}; or say --network host") from None


def covers(bound: str) -> bool:
    """True when a listener at an address hears all of this machine's."""
    return ipaddress.ip_address(bound).is_unspecified


def only_from(network: IPv4Network, gateway: str) -> type[BoundedHttp]:
    """Connections, where those to the address in the nodes' network have to come from there.

    A neighbour of the machine could send packets to that address too, and is answered nothing: it counts as loopback does.
    """

    class FromNodes(BoundedHttp):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            here, there = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            super().connection_made(transport)
            if _host(here) == gateway and ipaddress.ip_address(_host(there)) not in network:
                transport.abort()

    return FromNodes


def _host(address: Any) -> str:
    return str(address[0]).removeprefix("::ffff:")


def listen(gateway: str, port: int) -> socket.socket:
    """A listener for the nodes. Raises Refused."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((gateway, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise Refused(f"nodes cannot reach the server at {gateway} port {port} ({error.strerror})") from None
    return listener
