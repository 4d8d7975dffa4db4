"""The servers that share a registry, as one of them sees the others: who lives, where, and how many nodes each has room for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping

import structlog

from batchyard.engine.loops import LEASE_S
from batchyard.store import servers
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.servers import Beat, ServerRow
from batchyard.store.tx import Tx

log = structlog.get_logger()

_LATELY = 5
"""Times of a lease after which the machine of a server that says nothing is given up."""


class Peers:
    """This server among all; one that is `alone` shares its registry with nobody, and writes nothing to say that it lives.

    `free` says for how many more nodes this machine has room; `displaced` is called when another process took this one's place.
    """

    def __init__(
        self,
        registry: Database,
        server: str = "",
        url: str = "",
        seconds: float = LEASE_S,
        *,
        free: Callable[[], int] = lambda: 0,
        displaced: Callable[[], None] = lambda: None,
        alone: bool = True,
    ) -> None:
        self.id, self.url, self.alone = server or secrets.token_hex(8), url, alone
        self.seconds, self.life_us = seconds, int(seconds * 1e6)
        self._registry, self._free, self._displaced = registry, free, displaced
        self._life = secrets.token_hex(8)
        self.others: tuple[ServerRow, ...] = ()
        """Those that live, without this one."""
        self.there = frozenset({self.id})
        """Those that lived a moment ago, with this one."""
        self.missed = 0
        """How often this server was taken for gone."""
        self.changed = asyncio.Event()

    async def begin(self) -> None:
        """Say that this server is there. Raises StoreUnavailable."""
        await self._registry.run(servers.begin, self.id, self._life, self.url, self._free(), alone=self.alone)
        if not self.alone:
            await self.beat()

    async def beat(self) -> None:
        """Say that this server lives, and see who else does."""
        try:
            beat, lately, found = await self._registry.run(self._beat)
        except StoreUnavailable:
            return  # which all others tell; what is known of them stands
        self.missed += beat.missed
        if not beat.there:
            log.error("another process has taken the place of this server: its state directory is a copy", server=self.id)
            self._displaced()
        if {row.id for row in found} != {row.id for row in self.others}:
            log.info("servers", others=[row.url for row in found])
            self.changed.set()
        self.others, self.there = found, lately | {self.id}

    def _beat(self, tx: Tx) -> tuple[Beat, frozenset[str], tuple[ServerRow, ...]]:
        beat = servers.beat(tx, self.id, self._life, self._free(), self.life_us)
        now, rows = tx.moment(), servers.every(tx)
        lately = frozenset(row.id for row in rows if row.seen > now - _LATELY * self.life_us)
        return beat, lately, tuple(row for row in rows if row.id != self.id and row.seen > now - self.life_us)

    async def leave(self) -> None:
        """Say that this server ends. Raises StoreUnavailable."""
        await self._registry.run(servers.leave, self.id, self._life)

    def rooms(self) -> Mapping[str, int]:
        """For how many more nodes the machine of each server has room."""
        return {row.id: row.free for row in self.others} | {self.id: self._free()}
