"""Holding all tasks of a node to its memory and cores: one cgroup per node and controller.

The spawners stand in it, so that every task is born in it and nothing has to be moved. With cgroup v2 it is the
directory above those of the attempts; with v1 it is a directory of its own in each controller's hierarchy.
Root can leave its cgroups: an admin task is held only as long as it wants to be.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from batchyard.agent.process import cgroups, control
from batchyard.model.sync import NodeSetup

log = structlog.get_logger()

_PERIOD_US = 100_000
WHAT = {"memory": "memory", "cpu": "cores"}
"""Controllers, and what a node is held to by them."""


@dataclass(slots=True, frozen=True)
class Place:
    """Where one controller's limit is written."""

    controller: str
    version: int
    directory: str


@dataclass(slots=True)
class Limits:
    """What can be held (`places`) and to what; 0 is no limit."""

    places: Sequence[Place] = ()
    obstacles: list[str] = field(default_factory=list)
    """Sentences for what cannot be held."""
    memory_bytes: int = 0
    cores: int = 0

    @property
    def names(self) -> list[str]:
        """The controllers that work here."""
        return [place.controller for place in self.places]

    def learn(self, setup: NodeSetup, cores: int) -> None:
        """Hold the node to what it was set up with from now on; the machine's own `cores` need no limit."""
        self.memory_bytes = setup.memory_bytes
        self.cores = setup.cores if setup.cores < cores else 0
        self.apply()

    def apply(self) -> list[str]:
        """Make the groups and write the limits; directories that a spawner has to enter. May be repeated."""
        entered = []
        for place in self.places:
            wanted = self.memory_bytes if place.controller == "memory" else self.cores
            if not wanted and not os.path.isdir(place.directory):
                continue
            try:
                os.makedirs(place.directory, exist_ok=True)
                if place.controller == "memory":
                    _hold_memory(place, wanted)
                else:
                    _hold_cores(place, wanted)
            except OSError as error:
                log.warning("limit not set", controller=place.controller, wanted=wanted, reason=error.strerror)
            if place.version == 1 and wanted and os.path.isdir(place.directory):
                entered.append(place.directory)
        return entered

    def remove(self) -> None:
        """Remove the groups that nobody stands in."""
        for place in self.places:
            with contextlib.suppress(OSError):
                os.rmdir(place.directory)


def _hold_memory(place: Place, wanted: int) -> None:
    if place.version == 2:
        cgroups.write(place.directory + "/memory.max", b"%d" % wanted if wanted else b"max")
        with contextlib.suppress(OSError):  # without swap there is no such file
            cgroups.write(place.directory + "/memory.swap.max", b"0" if wanted else b"max")
        return
    value = b"%d" % wanted if wanted else b"-1"
    with contextlib.suppress(OSError):  # memory and swap together, never less than memory alone
        cgroups.write(place.directory + "/memory.memsw.limit_in_bytes", b"-1")
    cgroups.write(place.directory + "/memory.limit_in_bytes", value)
    with contextlib.suppress(OSError):
        cgroups.write(place.directory + "/memory.memsw.limit_in_bytes", value)


def _hold_cores(place: Place, wanted: int) -> None:
    if place.version == 2:
        cgroups.write(place.directory + "/cpu.max", b"%s %d" % (b"%d" % (wanted * _PERIOD_US) if wanted else b"max", _PERIOD_US))
        return
    cgroups.write(place.directory + "/cpu.cfs_period_us", b"%d" % _PERIOD_US)
    cgroups.write(place.directory + "/cpu.cfs_quota_us", b"%d" % (wanted * _PERIOD_US if wanted else -1))


def probe(tag: str, place: tuple[str, str, str]) -> tuple[Limits, tuple[str, str, str]]:
    """What the agent can hold tasks to, tried out, and the place that `control` has to use for it.

    `place` is where everything can be ended, `tag` names the groups of this node.
    """
    bases = [place[1]] if place[0] == cgroups.Cgroup2.name else []
    if bases:  # a cgroup with processes in it passes no controller on, but the hierarchy's root does
        bases += [base for mount in control.mounts(place[0]) if (base := f"{mount}/{cgroups.PREFIX}{tag}") != place[1]]
    tried = {base: found for base in bases if (found := _version_2(base)) and _can_end(base, place)}
    best = max(tried, key=lambda base: len(tried[base]), default=place[1])
    found = dict(tried.get(best, {}))
    for controller in set(WHAT) - found.keys():
        places = [Place(controller, 1, f"{home}/{cgroups.PREFIX}{tag}") for home in control.places(controller)]
        found |= {each.controller: each for each in places if _works(each)}
    obstacles = [
        f"Tasks are not held to the node's {what}: there is no {controller} cgroup that the agent may write to; "
        f"start it as root, or in a cgroup of its own that passes the {controller} controller on."
        for controller, what in WHAT.items()
        if controller not in found
    ]
    return Limits([found[controller] for controller in WHAT if controller in found], obstacles), (place[0], best, place[2])


def _version_2(base: str) -> dict[str, Place]:
    """The controllers that work in a directory above the attempts', because its parent passes them on."""
    parent = os.path.dirname(base)
    found = {}
    for controller in WHAT:
        with contextlib.suppress(OSError):
            if controller in cgroups.read(parent + "/cgroup.controllers").decode().split():
                if controller not in cgroups.read(parent + "/cgroup.subtree_control").decode().split():
                    cgroups.write(parent + "/cgroup.subtree_control", f"+{controller}".encode())
                place = Place(controller, 2, base)
                if _works(place):
                    found[controller] = place
    return found


def _can_end(base: str, place: tuple[str, str, str]) -> bool:
    return base == place[1] or control.works(cgroups.Cgroup2, base, place[2])


def _works(place: Place) -> bool:
    """Try it: make the group, write no limit, remove it; what an earlier life left there is dead or dying."""
    try:
        os.makedirs(place.directory, exist_ok=True)
        held = _hold_memory if place.controller == "memory" else _hold_cores
        held(place, 0)
        return os.access(place.directory + "/cgroup.procs", os.W_OK)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(place.directory)
