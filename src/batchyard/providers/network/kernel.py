"""What is asked of the kernel: bridges, namespaces, the pairs of interfaces between them, and the way to the rest of the world.

Everything has a name that begins with `by` and a tag of six letters, so that one server's is never taken for another's. Interfaces have
at most 15 letters: the bridge that holds the address of this machine (`by1a2b3c`), that of a pool (`by1a2b3cp1`), this machine's end of
a node's interface (`by1a2b3cn7`), whose other end is `eth0` in the namespace `by1a2b3c-7`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

TOOLS = ("ip", "nsenter", "unshare", "mount", "sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMED = Path("/run/netns")
_PATIENCE_S = 30.0
_FORWARDS = Path("/proc/sys/net/ipv4/ip_forward")
_RESOLVER = "/run/systemd/resolve/resolv.conf"
"""The servers that a resolver of this machine asks, which itself listens where no namespace reaches it."""
_TRIAL = """
ip link add bridge type bridge
ip link add one type veth peer name other
ip link set one master bridge
ip link set one type bridge_slave isolated on
"""
_ENTER = """
echo "$1" > /proc/sys/kernel/hostname
mount --bind "$2" /etc/hosts
mount --bind "$3" "$4"
if [ -d /dev/shm ]; then mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm; fi
if [ -e "$5" ]; then mount --bind "$5" /etc/resolv.conf; fi
shift 5
exec "$@"
"""


class Unusable(OSError):
    """The kernel, or a program that speaks to it, does not do what is needed; the message says what and why."""


class Link(NamedTuple):
    """The interface of a node."""

    tag: str
    number: int
    """Of the node."""
    bridge: int
    """Of its pool."""
    address: IPv4Address
    joined: bool
    """Other nodes of the bridge that are joined too may be reached."""

    @property
    def namespace(self) -> str:
        return f"by{self.tag}-{self.number}"

    @property
    def interface(self) -> str:
        """This machine's end."""
        return f"by{self.tag}n{self.number}"

    @property
    def bridge_name(self) -> str:
        return f"by{self.tag}p{self.bridge}"


def obstacle() -> str | None:
    """Why nodes cannot have networks of their own here, None when they can; tried out in a namespace of which nothing is left."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        return f"{', '.join(missing)} not found: install iproute2 and util-linux"
    try:
        _run(["unshare", "--net", "--uts", "--ipc", "--mount", "sh", "-ec", _TRIAL])
    except Unusable as error:
        return f"the kernel does not let it ({error})"
    return None


def outside() -> str | None:
    """Why nodes in namespaces cannot reach the rest of the world from here; None when they can."""
    if shutil.which("nft", path=_PATH) is None:
        return "there is no nft to translate addresses with: install nftables"
    if not forwards():
        return "this machine does not forward packets: sysctl -w net.ipv4.ip_forward=1"
    return None


def forwards() -> bool:
    """True when the machine forwards packets."""
    try:
        return _FORWARDS.read_text().strip() == "1"
    except OSError:
        return False


def begin(tag: str, network: IPv4Network, gateway: IPv4Address) -> None:
    """Give this machine its address in the network, and try whether nodes can have theirs. Raises Unusable."""
    base = f"by{tag}"
    if base not in set(interfaces(tag)):
        _ip(f"link add {base} address {_hardware(tag, 2, 0)} type bridge")
    _ip(f"addr replace {gateway}/32 dev {base}", f"link set {base} up")
    trial = Link(tag, 0, 0, network[-2], joined=False)
    try:
        attach(trial, network, gateway)
        _run([*entry(trial, "trial", "/etc/hosts", "/tmp", "/tmp"), "true"])
    finally:
        detach([trial], [trial.bridge])


def translate(tag: str, network: IPv4Network) -> None:
    """Let nodes reach the rest of the world under this machine's address, and nobody from there, or of another pool, them. Raises Unusable.

    Where the kernel shows packets within a bridge to the firewall too, it says the bridge both for where they come from and where they go.
    """
    table, bridges = f"by{tag}", [name for name in interfaces(tag) if name.startswith(f"by{tag}p")]
    _run(
        ["nft", "-f", "-"],
        f"table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n"
        "set within { type ifname . ifname; }\n"
        f"chain out {{ type nat hook postrouting priority srcnat; ip saddr {network} ip daddr != {network} masquerade; }}\n"
        "chain through { type filter hook forward priority filter; iifname . oifname @within accept;"
        f" ip daddr {network} ct state established,related accept; ip daddr {network} drop; }}\n}}\n",
    )
    for bridge in bridges:
        let_within(tag, bridge)


def let_within(tag: str, bridge: str) -> None:
    """Let packets pass that stay within a bridge; which of its ports may reach each other the bridge says. Raises Unusable."""
    _run(["nft", "-f", "-"], f'add element ip by{tag} within {{ "{bridge}" . "{bridge}" }}\n')


def attach(link: Link, network: IPv4Network, gateway: IPv4Address) -> None:
    """Make a node's namespace with its interface; what there was of it before is replaced. Raises Unusable."""
    detach([link], [])
    bridge, inner = link.bridge_name, _hardware(link.tag, 6, link.number)
    if bridge not in set(interfaces(link.tag)):
        _ip(f"link add {bridge} address {_hardware(link.tag, 2, link.bridge)} type bridge")
    _ip(
        f"addr replace {gateway}/32 dev {bridge}",
        f"link set {bridge} up",
        f"netns add {link.namespace}",
        f"link add {link.interface} type veth peer name eth0 address {inner} netns {link.namespace}",
        f"link set {link.interface} master {bridge}",
        f"link set {link.interface} type bridge_slave isolated {'off' if link.joined else 'on'}",
        f"link set {link.interface} up",
        f"route replace {link.address}/32 dev {bridge} src {gateway}",
    )
    _ip(
        "link set lo up",
        f"addr add {link.address}/{network.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {gateway}",
        within=link.namespace,
    )


def detach(links: Sequence[Link], bridges: Sequence[int]) -> None:
    """Remove namespaces with their interfaces, and bridges; what is not there is gone already."""
    for link in links:
        _ip(
            f"route del {link.address}/32 dev {link.bridge_name}", f"link del {link.interface}", f"netns del {link.namespace}", strict=False
        )
        _ip(*(f"link del by{link.tag}p{bridge}" for bridge in bridges), strict=False)


def sweep(tag: str, keep: Sequence[Link]) -> None:
    """Remove all of a tag but what belongs to these nodes, and the bridge of this machine's address when there are none."""
    kept = {name for link in keep for name in (link.interface, link.bridge_name)} | ({f"by{tag}"} if keep else set())
    _ip(*(f"link del {name}" for name in interfaces(tag) if name not in kept), strict=False)
    spaces = {link.namespace for link in keep}
    _ip(*(f"netns del {name}" for name in namespaces(tag) if name not in spaces), strict=False)
    if not keep and shutil.which("nft", path=_PATH):
        table = f"by{tag}"
        _run(["nft", "-f", "-"], f"table ip {table}\ndelete table ip {table}\n", strict=False)


def interfaces(tag: str) -> Iterator[str]:
    """Names of this machine's interfaces of a tag."""
    return (entry.name for entry in Path("/sys/class/net").iterdir() if entry.name.startswith(f"by{tag}"))


def namespaces(tag: str) -> list[str]:
    """Names of the namespaces of a tag."""
    return [entry.name for entry in _NAMED.iterdir() if entry.name.startswith(f"by{tag}-")] if _NAMED.exists() else []


def taken(tag: str) -> list[IPv4Network]:
    """Networks that this machine knows the way to, but for those of the tag."""
    routes: list[dict[str, Any]] = json.loads(_run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    own = [route["dst"] for route in routes if route["dst"] != "default" and not route.get("dev", "").startswith(f"by{tag}")]
    return [IPv4Network(each, strict=False) for each in own]


def entry(link: Link, host_name: str, hosts: str, root: str, seen_at: str) -> list[str]:
    """The words in front of a command that runs it in a node's network, with a host name, a list of hosts and, at `seen_at`, its root.

    Other mounts of this machine come and go there too, and so do its control groups: /sys stays as it is. Shared memory is the node's own:
    programs of two nodes would take themselves for neighbours, and try to use it together, which their users may not.
    """
    space = ["nsenter", f"--net={_NAMED / link.namespace}", "unshare", "--uts", "--ipc", "--mount", "--propagation", "slave"]
    return [*space, "sh", "-ec", _ENTER, "sh", host_name, hosts, root, seen_at, _RESOLVER]


def _hardware(tag: str, first: int, number: int) -> str:
    """A hardware address that is the same in every life, so that neighbours need not find out."""
    return ":".join(f"{part:02x}" for part in (first, *bytes.fromhex(tag), *number.to_bytes(2, "big")))


def _ip(*commands: str, within: str = "", strict: bool = True) -> None:
    if commands:
        place = ["-n", within] if within else []
        _run(["ip", *([] if strict else ["-force"]), *place, "-batch", "-"], "\n".join(commands) + "\n", strict=strict)


def _run(command: list[str], text: str = "", *, strict: bool = True) -> str:
    """Output of a program. Raises Unusable."""
    environment = {"PATH": _PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_PATIENCE_S, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{command[0]}: {error}") from None
    if strict and done.returncode:
        raise Unusable(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
