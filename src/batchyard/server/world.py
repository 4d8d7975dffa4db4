"""A world: what one account needs to be served, and the loops that work on it (decision D17)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from batchyard.agent.health import addresses
from batchyard.api.app import Api
from batchyard.api.wire.accounts import Accounts, Known
from batchyard.api.wire.auth import Account
from batchyard.api.wire.call import Machine, Services
from batchyard.api.wire.relay import Relay
from batchyard.blobs.edge.foreign import Foreign, Own
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.config import Config
from batchyard.disk import space
from batchyard.engine.clock import Clock
from batchyard.engine.loops import Lease, Loops
from batchyard.engine.nodes.linked_storage import LinkedStorage
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.pools.machines import Here, at_home
from batchyard.engine.upkeep import rest
from batchyard.engine.upkeep.upkeep import Upkeep
from batchyard.engine.wakes import Wakes
from batchyard.model.endpoints import Ways
from batchyard.providers.base import NodeProvider
from batchyard.providers.external import ExternalProvider
from batchyard.providers.joined import JOINED, JoinedProvider
from batchyard.providers.local import FOLLOWS, LocalProvider
from batchyard.providers.network.namespaces import Namespaces
from batchyard.rules.offer import Offer, Quotas
from batchyard.rules.sizes import LOCAL
from batchyard.server import http
from batchyard.server.account_file import AccountFile
from batchyard.server.calls import Calls
from batchyard.server.loops import background
from batchyard.server.peers import Peers
from batchyard.server.state import State
from batchyard.server.storage import Around, StorageAccount
from batchyard.server.tls import Tls
from batchyard.store.accounts import AccountRow
from batchyard.store.db import StoreUnavailable

log = structlog.get_logger()

Provider = LocalProvider | ExternalProvider
_LET_GO_S = 5.0
"""How long a storage account that is being deleted waits for requests that began before."""


@dataclass(frozen=True)
class Server:
    """What all worlds of a server share."""

    config: Config
    urls: tuple[str, str]
    """For this machine, and for others."""
    tls: Tls | None
    clock: Clock
    offer: Offer
    room: space.Room
    operator: Account
    others: Callable[[], int]
    """Nodes of all worlds."""
    ways: Ways
    """How other machines reach its storage."""
    calls: Calls | None = None
    """To other servers; None where there are none."""
    networks: Namespaces | None = None
    """Of the nodes of this machine; None where they share its own."""

    @property
    def pinned(self) -> tuple[bytes | None, str]:
        """The authority that agents pin, as PEM, and its fingerprint; None and nothing where there is none of its own."""
        found = self.tls.pinned if self.tls is not None else None
        return (None, "") if found is None else found

    @property
    def machines(self) -> dict[str, Machine]:
        """Where the nodes of a provider are that all share this machine's addresses."""
        here = Machine(addresses.towards(self.urls[0]), socket.gethostname(), addresses.ipv6(self.urls[0]))
        return {LOCAL: here} if self.networks is None else {}

    def provider(self, nodes: Path) -> Provider:
        """Where the nodes of a world come from, whose directory is given."""
        config = self.config

        def others() -> int:
            return self.others() - made.count()

        made: Provider
        if config.external_nodes:
            made = ExternalProvider(nodes, config.max_nodes, others=others)
            return made
        options = [FOLLOWS, str(config.directory / http.ANNOUNCEMENT)]
        options += ["--chaos"] * config.chaos + (["--probes", str(config.probes)] if config.probes else [])
        options += ["--ca-file", str(self.tls.authority_file)] if self.tls is not None and self.tls.authority_file else []
        made = LocalProvider(nodes, self.urls[0], config.max_nodes, options, others=others, networks=self.networks)
        return made


class World:
    """One account that is open: its store, its blobs, its nodes, its loops and its way in, `api`.

    `named` is its name in URLs and tokens, empty for the default account; `own_disk` is the room of a world on a disk of its own;
    `shared`: other servers may have the world open too.
    """

    def __init__(
        self,
        server: Server,
        row: AccountRow,
        state: State,
        hub: Wakes,
        nodes: Path,
        accounts: Accounts,
        peers: Peers,
        *,
        named: str,
        own_disk: space.Room | None = None,
        shared: bool = False,
    ) -> None:
        account, self.db, store, queues = state
        config, clock = server.config, server.clock
        self._server, self._clock = server, clock
        self.provider = server.provider(nodes)
        self._keys, self.loops = [*account.keys], Loops()
        self._shared, self._own_disk, self._room = shared, own_disk, own_disk or server.room
        linked = self._storage_account(account.storage_name, account.storage_keys(), (store, queues))
        self._storage: dict[str | None, StorageAccount] = {None: linked}
        """By what their keys are called by; the linked one by None."""
        self.known = Known(Account(account.name, self._keys), account.node_key.encode(), {linked.name: linked.keys})
        self._offer = server.offer
        authority, fingerprint = server.pinned
        self.services = Services(
            db=self.db,
            wakes=hub,
            clock=clock,
            relay=Relay(hub, server.calls.of(account.name) if server.calls is not None and shared else None),
            account=self.known.account,
            node_key=self.known.node_key,
            chaos=config.chaos,
            shortest_autoscale_us=int(config.autoscale_min_interval_s * 1e6),
            offer=self._limited(row),
            linked_storage=LinkedStorage(account.storage_name, account.storage_key),
            machines=server.machines if isinstance(self.provider, LocalProvider) and peers.alone else {},
            blobs=store,
            package_limits=config.package_limits,
            node_silence_us=int(config.node_silence_s * 1e6),
            restarting=frozenset({LOCAL} if self.provider.restarts else ()),
            outside=frozenset({JOINED} if self.provider.restarts else {JOINED, LOCAL}),
            authority=authority,
            public_url=server.urls[1],
            authority_fingerprint=fingerprint,
            room=self._room.for_work,
            named=named,
            accounts=accounts,
            storage_ways=server.ways,
            operator=None if named else server.operator,
        )
        self._blobs, self._queues = {linked.name: linked.blobs}, {linked.name: linked.queues}
        self.api = Api(self.services, self._blobs, self._queues)
        self._lease = Lease(self.db, peers.id, peers.seconds, alone=not shared)
        self._here = None if peers.alone else lambda: Here(peers.id, peers.rooms(), frozenset({LOCAL}), peers.there, peers.missed)
        join_us = int(config.node_join_s * 1e6)
        providers: dict[str, NodeProvider] = {LOCAL: self.provider, JOINED: JoinedProvider()}
        self._capacity = Capacity(self.db, providers, clock, self.known.node_key, join_us, self.services.offer, named, self._here)
        self._running: list[asyncio.Task[None]] = []

    def _limited(self, row: AccountRow) -> Offer:
        return msgspec.structs.replace(self._offer, quotas=quotas(row, self._offer.quotas))

    def limit(self, row: AccountRow) -> None:
        """Give the account the quotas of its row."""
        self.services.offer = self._capacity.offer = self._limited(row)

    def learn_keys(self, account: AccountFile) -> None:
        """Let callers in with these keys and no others."""
        self._keys[:] = account.keys
        for slot, storage in self._storage.items():
            storage.keys[:] = account.storage_keys(slot)
        self.services.linked_storage = LinkedStorage(account.storage_name, account.storage_key)

    def _storage_account(self, name: str, keys: Sequence[str], parts: tuple[LocalBlobStore, QueueStore]) -> StorageAccount:
        server = self._server
        own = Own(server.urls[0], server.tls.authority_file if server.tls is not None else None, server.config.domain)
        around = Around(self._clock, Foreign(server.config.copy_networks, own), server.config.public_access)
        return StorageAccount(around, name, keys, parts, self._room, self.loops, shared=self._shared)

    @property
    def stored(self) -> frozenset[str]:
        """The slots of the storage accounts that are open beside the linked one."""
        return frozenset(slot for slot in self._storage if slot is not None)

    async def add_storage(self, name: str, slot: str, keys: Sequence[str], parts: tuple[LocalBlobStore, QueueStore]) -> None:
        """Let callers into one more storage account."""
        made = self._storage[slot] = self._storage_account(name, keys, parts)
        await made.begin()
        self.known.storage[name] = made.keys
        self._blobs[name], self._queues[name] = made.blobs, made.queues

    async def drop_storage(self, slot: str) -> None:
        """Close a storage account, if it is open."""
        found = self._storage.pop(slot, None)
        if found is None:
            return
        if self.known.storage.get(found.name) is found.keys:
            for door in (self.known.storage, self._blobs, self._queues):
                door.pop(found.name)
        found.keys.clear()
        await found.quiet(_LET_GO_S)
        await found.end()

    @property
    def leads(self) -> bool:
        """True while the background work of the account is done here."""
        return self._lease.held

    async def why_not(self) -> str | None:
        """Why the account is not served as it should be, None when it is. Raises StoreUnavailable."""
        if await self.db.read(self._lease.vacant):
            return "nobody does the background work"
        return self.loops.why_not or self.services.room()

    async def begin(self) -> None:
        """Take the lease, give up nodes that nobody knows, and begin the loops. Raises StoreUnavailable, OSError."""
        await self._lease.renew()
        await self.provider.sweep(await self.db.read(at_home, self._here and self._here()))
        upkeep = Upkeep(self.db, self._clock, self.services.node_silence_us)
        work = background(
            self.loops,
            self.services,
            self._lease,
            self._capacity,
            upkeep,
            self._own_disk,
            on_demand=self._server.config.autoscale_on_demand,
        )
        await self._storage[None].begin()
        self._running = [asyncio.create_task(loop) for loop in work]

    async def rests(self) -> tuple[bool, int | None]:
        """Whether nothing is due within the hour, and when something is, None for never."""
        due = [at for storage in [*self._storage.values()] for at in await storage.due()]
        return await self.db.read(rest.until, self._clock.now(), min(due, default=None))

    async def hand_over(self) -> None:
        """End the loops; another server may go on with them at once."""
        for loop in self._running:
            loop.cancel()
        await asyncio.gather(*(storage.pause() for storage in self._storage.values()))
        await asyncio.gather(*self._running, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):  # it runs out by itself
            await self._lease.release()

    async def end(self, *, for_good: bool = False) -> None:
        """Let go of callers, end the loops and the agents, close everything; `for_good` leaves nothing of the nodes."""
        self.api.close()
        await self.hand_over()
        await self._capacity.close()
        await (self.provider.sweep(()) if for_good else self.provider.stop_all())
        await asyncio.to_thread(self.db.close)
        for storage in [*self._storage.values()]:
            await storage.end()


def quotas(row: AccountRow, otherwise: Quotas) -> Quotas:
    """The quotas that hold for an account: those of its row, else the server's."""

    def one(own: int | None, server: int | None) -> int | None:
        return server if own is None else own

    return Quotas(
        one(row.dedicated_cores, otherwise.dedicated_cores),
        one(row.low_priority_cores, otherwise.low_priority_cores),
        one(row.pools, otherwise.pools),
        one(row.active_jobs, otherwise.active_jobs),
    )
