"""Whom a waiting task may push off a node (contract 3.1, 3.5): a job that allows it, or anyone of no higher priority for a job manager."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from batchyard.rules.placement import Room


class Victim(msgspec.Struct, frozen=True):
    """A task that runs and may have to wait again."""

    key: int
    node: int
    held: int
    priority: int
    started: int


def choose(needed: int, victims: Iterable[Victim], rooms: Sequence[Room]) -> list[Victim]:
    """The fewest victims of one node that make room for `needed` slots, the least important and youngest; none when impossible."""
    free = {room.node: room.free for room in rooms}
    best: list[Victim] = []
    by_node = sorted(victims, key=lambda victim: (victim.node, victim.priority, -victim.started))
    for node, here in groupby(by_node, key=lambda victim: victim.node):
        chosen: list[Victim] = []
        room = free.get(node, 0)
        for victim in here:
            if room >= needed:
                break
            chosen.append(victim)
            room += victim.held
        if room >= needed and chosen and (not best or _worth(chosen) < _worth(best)):
            best = chosen
    return best


def choose_nodes(needed: int, victims: Iterable[Victim], free: int) -> list[Victim]:
    """The least important and youngest victims, each named once, that together with `free` nodes leave `needed` nodes free.

    None when impossible. One that runs on several nodes stands there once for each of them.
    """
    nodes: dict[int, list[Victim]] = {}
    for victim in victims:
        nodes.setdefault(victim.key, []).append(victim)
    chosen: list[list[Victim]] = []
    for here in sorted(nodes.values(), key=lambda some: (some[0].priority, -some[0].started)):
        if free + sum(map(len, chosen)) >= needed:
            break
        chosen.append(here)
    left = free + sum(map(len, chosen)) - needed
    if left < 0:
        return []
    for here in reversed(chosen):  # the more important first: it may not be needed any more
        if len(here) <= left:
            left -= len(here)
            chosen.remove(here)
    return [here[0] for here in chosen]


def reach_nodes(victims: Iterable[Victim], free: int) -> list[tuple[int, int]]:
    """(priority, nodes), lowest first: how many nodes a job above that priority can have at most by pushing victims off."""
    most, found = free, []
    for priority, some in groupby(sorted(victims, key=lambda victim: victim.priority), key=lambda victim: victim.priority):
        most += sum(1 for _ in some)
        found.append((priority, most))
    return found


def reach(victims: Iterable[Victim], rooms: Iterable[Room]) -> list[tuple[int, int]]:
    """(priority, slots), lowest first: how much room on one node a job above that priority can have at most by pushing victims off."""
    free = {room.node: room.free for room in rooms}
    most, found = 0, []
    for priority, some in groupby(sorted(victims, key=lambda victim: victim.priority), key=lambda victim: victim.priority):
        for victim in some:
            free[victim.node] = free.get(victim.node, 0) + victim.held
            most = max(most, free[victim.node])
        found.append((priority, most))
    return found


def _worth(chosen: Sequence[Victim]) -> tuple[int, int]:
    return max(victim.priority for victim in chosen), len(chosen)
