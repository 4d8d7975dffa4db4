"""What keeps tasks apart on a node: cgroups, limits, users. The probes are the agent's own."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

from batchyard.cli.checks.finding import Finding, Place, note, ok, root


def cgroups(_: Place) -> Iterator[Finding]:
    """How everything that a task started is ended, as the agent will find it."""
    from batchyard.agent.process import control
    from batchyard.agent.process.cgroups import Cgroup2, Freezer

    name, base, _home = control.probe(f"doctor-{os.getpid()}")
    where = os.path.dirname(base)
    if name == Cgroup2.name:
        yield ok("cgroups", f"all that a task started is ended by cgroup v2 (in {where})")
    elif name == Freezer.name:
        yield ok("cgroups", f"all that a task started is ended by the cgroup v1 freezer (in {where})")
    else:
        yield note(
            "cgroups",
            "there is no cgroup to write to: a process that leaves its session and changes its environment may outlive its task",
            "Start the server as root, or by `systemd-run --user --scope -p Delegate=yes batchyard serve`.",
        )


def limits(_: Place) -> Iterator[Finding]:
    """Whether nodes can be held to the memory and the cores of their size, as the agent will find it."""
    from batchyard.agent.process import control
    from batchyard.agent.process import limits as held

    tag = f"doctor-{os.getpid()}"
    found = held.probe(tag, control.probe(tag))[0]
    for limit in found.places:
        where = os.path.dirname(limit.directory)
        yield ok("limits", f"a node can be held to its {held.WHAT[limit.controller]} ({limit.controller} cgroup in {where})")
    for sentence in found.obstacles:
        reason, mend = sentence.partition("; ")[::2]
        yield note("limits", reason, mend[:1].upper() + mend[1:])


def places(controller: str, mounts: str, own: str) -> Iterator[str]:
    """Where groups of a controller could be made, for texts like those of /proc/self/mounts and /proc/self/cgroup."""
    at = {names: path for _, names, path in (line.split(":", 2) for line in own.splitlines())}
    for line in mounts.splitlines():
        _, mount, kind, options = line.split(" ")[:4]
        if kind == "cgroup" and controller in options.split(","):
            below = next((path for names, path in at.items() if controller in names.split(",")), "")
        elif kind == "cgroup2":
            below = at.get("", "")
        else:
            continue
        for home in dict.fromkeys((mount + below.rstrip("/"), mount)):
            if os.path.isdir(home) and (kind == "cgroup" or controller in _read(f"{home}/cgroup.controllers").split()):
                yield home


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def held_to(controller: str, *names: str) -> str:
    """What this process's own group of a controller says in the first of these files that it has; empty without one."""
    for home in places(controller, _read("/proc/self/mounts"), _read("/proc/self/cgroup")):
        for name in names:
            if text := _read(f"{home}/{name}").strip():
                return text
    return ""


def users(place: Place) -> Iterator[Finding]:
    """Whether tasks run as users of their own: those of the range that the next node gets."""
    from batchyard.agent.accounts.accounts import marked
    from batchyard.agent.accounts.claims import free_range
    from batchyard.agent.places.users import BLOCK, BLOCKS_FROM, obstacle

    base = free_range()
    if reason := obstacle(str(place.existing), BLOCKS_FROM if base is None else base):
        found, _, mend = reason.partition(": ")
        yield note("users", reason if not mend else found, mend[:1].upper() + mend[1:])
        return
    if base is None:
        yield note(
            "users",
            "all users that tasks may run as are other nodes': another node would share them",
            f"Give this machine or container more users from {BLOCKS_FROM} on, or let nodes that are no longer needed go.",
        )
    else:
        yield ok("users", f"tasks run as users of their own, {BLOCK} for each node, from uid {base} on for the next one")
    logins = {account.name for account in marked()}  # which no task gets
    others = [(entry.pw_name, entry.pw_uid) for entry in pwd.getpwall() if entry.pw_name not in logins]
    yield from taken(BLOCKS_FROM, others, _read("/etc/subuid"))


def taken(first: int, accounts: list[tuple[str, int]], subordinate: str) -> Iterator[Finding]:
    """Accounts and subordinate ranges that lie where the users of tasks lie; uid 2^32 - 2 and the like are nobody's."""
    for name, uid in accounts:
        if first <= uid < 2**31:
            yield note(
                "users",
                f"the account {name} has uid {uid}, which a task may get: it could read the account's files",
                f"Give {name} a uid below {first}.",
            )
    for line in subordinate.splitlines():
        name, start, count = [*line.split(":"), "", ""][:3]
        if start.isdigit() and count.isdigit() and int(start) + int(count) > first and int(count):
            yield note(
                "users",
                f"the subordinate users {start} to {int(start) + int(count) - 1} of {name} (/etc/subuid) are uids that tasks may get",
                f"It matters only when {name} runs rootless containers here; then move its range below {first}.",
            )


def accounts(_: Place) -> Iterator[Finding]:
    """Whether users can be added to nodes, and made administrators."""
    from batchyard.agent.accounts.accounts import PATH, TOOLS

    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if not root():
        yield note(
            "node users", "users cannot be added to nodes, because only root makes accounts", "Start the server as root if they are needed."
        )
    elif missing:
        yield note(
            "node users", f"users cannot be added to nodes: {', '.join(missing)} not found", "Install the package passwd (shadow-utils)."
        )
    elif shutil.which("sudo", path=PATH) is None:
        yield note(
            "node users", "users can be added to nodes, but are no administrators: there is no sudo", "Install sudo if they are to be."
        )
    else:
        yield ok("node users", "users can be added to nodes, administrators with sudo")


def networks(_: Place) -> Iterator[Finding]:
    """Whether each node can have a network of its own, and the rest of the world from there."""
    from batchyard.providers.network import kernel

    if reason := kernel.obstacle():
        yield note("networks", f"nodes share this machine's address: {reason}", "It matters only for --network namespaces.")
    elif reason := kernel.outside():
        found, mend = reason.partition(": ")[::2]
        text = f"nodes can have networks of their own, from which they reach the server and not the rest of the world: {found}"
        yield note("networks", text, f"If they need it: {mend}")
    else:
        yield ok("networks", "nodes can have networks of their own, and reach the rest of the world from there")
