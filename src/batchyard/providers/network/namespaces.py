"""Each local node in a network namespace of its own: an address, a host name, a port at its pool's bridge (`--network namespaces`).

Which node has which number, and with it which address, stands in `network.json` of the state directory; what the kernel holds follows
from that and is made anew with every start of an agent. Written down first and made second, removed first and crossed out second: a
kill in between leaves nothing that the next start does not find.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import structlog

from batchyard.providers.network import kernel
from batchyard.providers.network.kernel import Link

log = structlog.get_logger()

BOOK = "network.json"
_HOSTS, _SEEN_AT = "network-hosts", "node"
_FEWEST_BITS = 8
_RESERVED = 4
"""Numbers of a network that no node gets: its own, this machine's, that of trials, and the last."""


class _Resident(msgspec.Struct):
    """A node."""

    pool: str
    """Tells its pool from all others, also from those of other accounts."""
    bridge: int
    joined: bool
    host_name: str


class _Book(msgspec.Struct):
    network: str = ""
    nodes: dict[str, _Resident] = {}
    """By the node's directory."""
    numbers: dict[str, int] = {}
    """Of the nodes."""


class Namespaces:
    """The network of one server's local nodes. Raises Unusable when it cannot be; `most` nodes shall have room in it."""

    def __init__(self, directory: Path, addresses: IPv4Network, most: int) -> None:
        if reason := kernel.obstacle():
            raise kernel.Unusable(reason)
        self._directory, self._tag = directory, tag(directory)
        self._lock = threading.Lock()
        self._book = _read(directory)
        self._settle(addresses, most)
        kernel.sweep(self._tag, self._links())
        kernel.begin(self._tag, self.network, self.gateway)
        self.closed_in = kernel.outside()
        """Why nodes do not reach the rest of the world; None when they do."""
        if self.closed_in is None:
            kernel.translate(self._tag, self.network)
        else:
            log.warning("nodes reach this server and what their pool says, and nothing else", reason=self.closed_in)

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(self._book.network)

    @property
    def gateway(self) -> IPv4Address:
        """This machine's address in it."""
        return self.network[1]

    def _settle(self, addresses: IPv4Network, most: int) -> None:
        """Keep the network of the last life if it will do still, or choose another; nodes that are gone have no place in it."""
        bits = max(_FEWEST_BITS, (most + _RESERVED).bit_length())
        former = IPv4Network(self._book.network) if self._book.network else None
        others = kernel.taken(self._tag)
        fits = former is not None and former.subnet_of(addresses) and 32 - former.prefixlen >= bits
        if former is None or not fits or any(former.overlaps(other) for other in others):
            self._book = _Book(str(choose(addresses, 32 - bits, others, int(self._tag, 16))))
        for home in [home for home in self._book.nodes if not Path(home).is_dir()]:
            del self._book.nodes[home], self._book.numbers[home]
        self._save()

    def join(self, home: Path, pool: str, joined: bool) -> list[str]:
        """Give a node its place, and what it had anew; the words in front of its agent's command. Raises Unusable, OSError."""
        with self._lock:
            resident = self._resident(str(home), f"{home.parent}\0{pool}", joined)
            link, hosts = self._link(str(home)), self._hosts(resident.bridge)
            kernel.attach(link, self.network, self.gateway)
            if self.closed_in is None:
                kernel.let_within(self._tag, link.bridge_name)
            self._write_hosts(resident.bridge)
        self.seen_at.mkdir(mode=0o711, exist_ok=True)
        return kernel.entry(link, resident.host_name, str(hosts), str(home / "root"), str(self.seen_at))

    @property
    def seen_at(self) -> Path:
        """Where every node sees its own root, so that a path means the same on all of them; empty for everybody else."""
        return self._directory.resolve() / _SEEN_AT

    def address(self, home: Path) -> str:
        """The address of a node; empty when it has no place."""
        with self._lock:
            return str(self._link(str(home)).address) if str(home) in self._book.nodes else ""

    def leave(self, home: Path) -> None:
        """Take a node's place away, if it has one; its agent has ended. Raises OSError."""
        with self._lock:
            if str(home) not in self._book.nodes:
                return
            link = self._link(str(home))
            last = not any(each.bridge == link.bridge for name, each in self._book.nodes.items() if name != str(home))
            kernel.detach([link], [link.bridge] if last else [])
            del self._book.nodes[str(home)], self._book.numbers[str(home)]
            self._save()
            if last:
                self._hosts(link.bridge).unlink(missing_ok=True)
            else:
                self._write_hosts(link.bridge)

    def close(self) -> None:
        """Leave nothing in the kernel; nodes keep their addresses for the next life."""
        with self._lock:
            kernel.sweep(self._tag, ())

    def _resident(self, home: str, pool: str, joined: bool) -> _Resident:
        """The node's entry, made or brought up to date."""
        book = self._book
        if home not in book.nodes:
            number = _free(book.numbers.values())
            if number + _RESERVED > self.network.num_addresses:
                raise kernel.Unusable(f"all addresses of {self.network} are taken; choose a larger --network-range")
            shared = next((each.bridge for each in book.nodes.values() if each.pool == pool), None)
            bridge = _free(each.bridge for each in book.nodes.values()) if shared is None else shared
            book.numbers[home] = number
            book.nodes[home] = _Resident(pool, bridge, joined, host_name(Path(home).name, number))
        book.nodes[home].joined = joined
        self._save()
        return book.nodes[home]

    def _link(self, home: str) -> Link:
        resident, number = self._book.nodes[home], self._book.numbers[home]
        return Link(self._tag, number, resident.bridge, self.network[1 + number], resident.joined)

    def _links(self) -> list[Link]:
        return [self._link(home) for home in self._book.nodes]

    def _hosts(self, bridge: int) -> Path:
        """The list of hosts of a pool's nodes."""
        return self._directory / _HOSTS / str(bridge)

    def _write_hosts(self, bridge: int) -> None:
        """In place, because the nodes have this very file at /etc/hosts."""
        path = self._hosts(bridge)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        lines = []
        for home, each in self._book.nodes.items():
            if each.bridge == bridge:
                lines.append(f"{self._link(home).address} {each.host_name}\n")
        with contextlib.suppress(OSError):
            lines.append(Path("/etc/hosts").read_text())
        new = "".join(lines).encode()
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.write(new)
            file.truncate()
        path.chmod(0o644)

    def _save(self) -> None:
        new = self._directory / f"{BOOK}.new"
        new.write_bytes(msgspec.json.encode(self._book))
        new.replace(self._directory / BOOK)


def forget(directory: Path) -> None:
    """Remove what a server that was killed left in the kernel, where the next one has no networks."""
    if (directory / BOOK).exists() and kernel.obstacle() is None:
        kernel.sweep(tag(directory), ())
        (directory / BOOK).unlink()


def choose(addresses: IPv4Network, length: int, others: Sequence[IPv4Network], start: int) -> IPv4Network:
    """A network of a length within `addresses` that overlaps no other, looked for from a place on that `start` says. Raises Unusable."""
    if length < addresses.prefixlen:
        raise kernel.Unusable(f"{addresses} has no room for so many nodes; choose a larger --network-range")
    count = 1 << (length - addresses.prefixlen)
    size = 1 << (32 - length)
    for step in range(count):
        found = IPv4Network((int(addresses.network_address) + (start + step) % count * size, length))
        if not any(found.overlaps(other) for other in others):
            return found
    raise kernel.Unusable(f"every part of {addresses} is some other network of this machine; choose another --network-range")


def host_name(node_id: str, number: int) -> str:
    """A name of a node for people and for programs, with no more letters than a host name may have; the number makes it the only one."""
    start = re.sub(r"[^a-z0-9]+", "-", node_id.lower()).strip("-")[:18].rstrip("-")
    return f"{start or 'node'}-{number}"


def _free(numbers: Iterable[int]) -> int:
    taken = set(numbers)
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def tag(directory: Path) -> str:
    """What tells the names of all that the kernel has of a state directory from other names."""
    return hashlib.sha256(str(directory.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:6]


def _read(directory: Path) -> _Book:
    try:
        return msgspec.json.decode((directory / BOOK).read_bytes(), type=_Book)
    except (OSError, msgspec.DecodeError):
        return _Book()
