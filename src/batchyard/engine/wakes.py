"""Wake-ups: hints that there is work. Losing one costs a loop period, never a task."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

SCHEDULER = "pool:"
"""Prefix: tasks of the pool with this id key may start."""
DEMAND = "demand:"
"""Prefix: tasks of the pool with this id key ended or started, and its scheduler has seen to that."""
NODE = "node:"
"""Prefix: the node with this key has something to hear."""
CAPACITY = "capacity"
"""Some pool has not the nodes it should have."""
UPKEEP = "upkeep"
"""Some job is on its way to its end."""
SCHEDULES = "schedules"
"""Some job schedule has something to do."""


def pool(pool_key: str) -> str:
    """Topic of a pool's scheduler."""
    return SCHEDULER + pool_key


def demand(pool_key: str) -> str:
    """Topic of a pool's pending work."""
    return DEMAND + pool_key


def node(node_pk: int) -> str:
    """Topic of a node."""
    return f"{NODE}{node_pk}"


class Wakes:
    """Listeners by topic or by a topic's prefix, all in one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[str, set[asyncio.Event]] = {}
        self._inboxes: dict[str, tuple[set[str], asyncio.Event]] = {}
        self._once: dict[str, set[asyncio.Event]] = {}

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Loop that the listeners live in."""
        self._loop = loop

    def __call__(self, topics: Iterable[str]) -> None:
        """Wake from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, list(topics))

    def at_once(self, topic: str) -> None:
        """Wake those who listen now and none who begin afterwards; called in the loop itself."""
        self._wake([topic])

    def _wake(self, topics: list[str]) -> None:
        for topic in topics:
            for event in (*self._events.get(topic, ()), *self._once.pop(topic, ())):
                event.set()
            prefix, colon, rest = topic.partition(":")
            if colon and prefix + colon in self._inboxes:
                waiting, event = self._inboxes[prefix + colon]
                waiting.add(rest)
                event.set()

    @contextmanager
    def listen(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set at every wake of the topic while the block runs."""
        event = asyncio.Event()
        self._events.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            listeners = self._events[topic]
            listeners.discard(event)
            if not listeners:
                del self._events[topic]

    def event(self, topic: str) -> asyncio.Event:
        """An event that is set at every wake of the topic, for good."""
        event = asyncio.Event()
        self._events.setdefault(topic, set()).add(event)
        return event

    def follow(self, topics: Collection[str], event: asyncio.Event) -> None:
        """Set the event at the next wake of each topic, once; these topics take the place of what it followed before."""
        for others in self._once.values():
            others.discard(event)
        self._once = {topic: others for topic, others in self._once.items() if others}
        for topic in topics:
            self._once.setdefault(topic, set()).add(event)

    def inbox(self, prefix: str) -> tuple[set[str], asyncio.Event]:
        """What was woken below a prefix and the event that tells; whoever works takes names out of the set."""
        return self._inboxes.setdefault(prefix, (set(), asyncio.Event()))
