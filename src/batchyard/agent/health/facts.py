"""What the agent finds out about its machine at start: size, address, and what it can isolate."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from dataclasses import dataclass

import structlog

from batchyard import __version__
from batchyard.agent.accounts.claims import Claim
from batchyard.agent.health import addresses
from batchyard.agent.places import identity, users
from batchyard.agent.places.layout import Layout
from batchyard.agent.process import control
from batchyard.agent.process import limits as limits_
from batchyard.agent.process.limits import Limits
from batchyard.model.sync import NodeFacts

log = structlog.get_logger()

_ENGINES = ("podman",)
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(slots=True, frozen=True)
class Found:
    """Facts for the server, and the place of the cgroups for the spawners."""

    facts: NodeFacts
    place: tuple[str, str, str]
    limits: Limits
    root: str
    """Tells the root directory from every other one."""
    uid_base: int
    """First of the node's user numbers."""


def find(layout: Layout, server: str, claim: Claim, only: str = "") -> Found:
    """Probe the machine, end what an earlier agent on this root left behind, and log what was found."""
    place = control.probe(layout.tag, only)
    if place[0] == control.Session.name:
        control.hunt([f"AZ_BATCH_NODE_ROOT_DIR={layout.root}"])
    missing = []
    if place[0] == control.Session.name:
        missing.append(
            "A process that leaves its session and changes its environment may outlive its task: "
            "there is no cgroup that the agent may write to."
        )
    limits, place = limits_.probe(layout.tag, place)
    missing += limits.obstacles
    obstacle = users.obstacle(layout.root, claim.base)
    reasons = [obstacle] if obstacle is not None else [claim.obstacle, users.unprotected_names()]
    missing += [what for what in reasons if what is not None]
    facts = NodeFacts(
        agent_version=__version__,
        host_name=socket.gethostname(),
        ip_address=addresses.towards(server),
        ipv6_address=addresses.ipv6(server),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        process_control=place[0],
        switches_users=obstacle is None,
        not_isolated=missing,
        disk_bytes=_disk_bytes(layout.root),
        system=_system(),
        limits=limits.names,
        engines=[name for name in _ENGINES if shutil.which(name, path=_PATH)],
    )
    log.info("agent started", root=layout.root, process_control=place[0], switches_users=obstacle is None, cores=facts.cores)
    for sentence in missing:
        log.warning("not isolated", what=sentence)
    return Found(facts, place, limits, identity.of_root(layout), claim.base)


def _disk_bytes(path: str) -> int:
    """Size of the file system that holds a path."""
    seen = os.statvfs(path)
    return seen.f_blocks * seen.f_frsize


def _system() -> str:
    """Name and version of the operating system, as it calls itself."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
