"""A world: what one account needs to be served, and the loops that work on it (decision D17)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
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
from batchyard.blobs.edge.fetches import Fetches
from batchyard.blobs.edge.foreign import Foreign
from batchyard.blobs.edge.server import application as storage_endpoint
from batchyard.blobs.queues.edge import PATH as QUEUES
from batchyard.blobs.queues.edge import application as queue_endpoint
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
from batchyard.model import times
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
from batchyard.server.loops import UNCOMMITTED_KEPT_US, background, copies
from batchyard.server.peers import Peers
from batchyard.server.state import State
from batchyard.server.tls import Tls
from batchyard.store.accounts import AccountRow
from batchyard.store.db import StoreUnavailable

log = structlog.get_logger()

Provider = LocalProvider | ExternalProvider


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
    calls: Calls | None = None
    """To other servers; None where there are none."""
    networks: Namespaces | None = None
    """Of the nodes of this machine; None where they share its own."""

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
        account, self.db, self.store, self.queues = state
        config, clock = server.config, server.clock
        self._server, self._clock = server, clock
        self.provider = server.provider(nodes)
        self._keys = [*account.keys]
        self.known = Known(Account(account.name, self._keys), account.node_key.encode(), account.storage_name, account.storage_key)
        room = own_disk or server.room
        self._offer = server.offer
        here = Machine(addresses.towards(server.urls[0]), socket.gethostname(), addresses.ipv6(server.urls[0]))
        authority, fingerprint = server.tls.pinned if server.tls is not None and server.tls.pinned is not None else (None, "")
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
            machines={LOCAL: here} if isinstance(self.provider, LocalProvider) and server.networks is None and peers.alone else {},
            blobs=self.store,
            package_limits=config.package_limits,
            node_silence_us=int(config.node_silence_s * 1e6),
            restarting=frozenset({LOCAL} if self.provider.restarts else ()),
            outside=frozenset({JOINED} if self.provider.restarts else {JOINED, LOCAL}),
            authority=authority,
            public_url=server.urls[1],
            authority_fingerprint=fingerprint,
            room=room.for_work,
            named=named,
            accounts=accounts,
            operator=None if named else server.operator,
        )
        keys, moment = {account.storage_name: [account.storage_key]}, lambda: times.moment(clock.now())
        self._fetches = Fetches(self.store, Foreign(config.copy_networks), moment, room.for_content)
        blobs = storage_endpoint(self.store, keys, moment, room.for_content, public=config.public_access, fetches=self._fetches)
        self.api = Api(self.services, {account.storage_name: blobs, QUEUES: queue_endpoint(self.queues, keys, moment, room.for_content)})
        self._shared = shared
        self._lease = Lease(self.db, peers.id, peers.seconds, alone=not shared)
        self._here = None if peers.alone else lambda: Here(peers.id, peers.rooms(), frozenset({LOCAL}), peers.there, peers.missed)
        join_us = int(config.node_join_s * 1e6)
        providers: dict[str, NodeProvider] = {LOCAL: self.provider, JOINED: JoinedProvider()}
        self._capacity = Capacity(self.db, providers, clock, self.known.node_key, join_us, self.services.offer, named, self._here)
        self._own_disk = own_disk
        self.loops = Loops()
        self._running: list[asyncio.Task[None]] = []

    def _limited(self, row: AccountRow) -> Offer:
        return msgspec.structs.replace(self._offer, quotas=quotas(row, self._offer.quotas))

    def limit(self, row: AccountRow) -> None:
        """Give the account the quotas of its row."""
        self.services.offer = self._capacity.offer = self._limited(row)

    def learn_keys(self, account: AccountFile) -> None:
        """Let callers in with these keys and no others."""
        self._keys[:] = account.keys

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
            (self.store, self.queues),
            self._own_disk,
            on_demand=self._server.config.autoscale_on_demand,
        )
        if self._shared:
            work.append(copies(self.loops, self._fetches))
        else:
            await asyncio.to_thread(self._fetches.resume)
        self._running = [asyncio.create_task(loop) for loop in work]

    async def rests(self) -> tuple[bool, int | None]:
        """Whether nothing is due within the hour, and when something is, None for never."""
        staged, kept = await asyncio.to_thread(self.store.oldest_block), await asyncio.to_thread(self.store.next_expiry)
        if self._fetches.busy:
            return False, self._clock.now()
        due = [at for at in (None if staged is None else staged + UNCOMMITTED_KEPT_US, kept) if at is not None]
        return await self.db.read(rest.until, self._clock.now(), min(due, default=None))

    async def hand_over(self) -> None:
        """End the loops; another server may go on with them at once."""
        for loop in self._running:
            loop.cancel()
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
        await asyncio.to_thread(self._fetches.close)
        await asyncio.to_thread(self.store.close)
        await asyncio.to_thread(self.queues.close)


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
