"""Wires a server together: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import platform
import signal
import socket
import sys

import msgspec
import structlog
import uvloop

from batchyard.agent.health import addresses
from batchyard.api.app import Api
from batchyard.api.wire.auth import Account
from batchyard.api.wire.call import Machine, Services
from batchyard.api.wire.relay import Relay
from batchyard.blobs.edge.server import application as storage_endpoint
from batchyard.blobs.queues.edge import PATH as QUEUE_PATH
from batchyard.blobs.queues.edge import application as queue_endpoint
from batchyard.config import Config
from batchyard.disk import logs, space
from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.loops import Lease
from batchyard.engine.nodes.linked_storage import LinkedStorage
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.upkeep.upkeep import Upkeep
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.providers.external import ExternalProvider
from batchyard.providers.joined import JOINED, JoinedProvider
from batchyard.providers.local import FOLLOWS, LocalProvider
from batchyard.rules import images
from batchyard.rules.offer import Offer
from batchyard.rules.sizes import LOCAL
from batchyard.server import http, refusals
from batchyard.server.account_file import AccountFile
from batchyard.server.loops import background, renewal
from batchyard.server.refusals import Refused
from batchyard.server.state import open_state
from batchyard.server.tls import Tls
from batchyard.store import nodes as node_rows
from batchyard.store.db import Database, StoreUnavailable

log = structlog.get_logger()

EMBEDDED = "embedded"
"""Holder of the lease: a SQLite file has one server at a time (its directory is locked), so a restarted one goes on at once."""
_THREAD_TURN_S = 0.001


def serve(config: Config) -> None:
    """Run a server until SIGTERM or SIGINT. Raises Refused."""
    logs.begin()
    refusals.refuse_exposure(config)
    refusals.refuse_full_disk(config.directory)
    try:
        uvloop.run(_serve(config))
    except Exception as error:
        if not refusals.no_room(error):
            raise
        raise Refused(f"the disk of {config.directory} is full: make room there and start again") from None


async def _serve(config: Config) -> None:
    listener = http.bind(config)
    clock = MovableClock() if config.test_clock else Clock()
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    tls = None if config.tls == "off" else Tls(config, lambda: times.moment(clock.now()))
    url, public = http.urls(config, listener, tls)
    account, db, store, queues = open_state(config.directory, hub)
    provider = _provider(config, url, tls)
    offer = msgspec.structs.replace(config.offer, images=images.supported(images.of_machine(_os_release())))
    room = space.Room(config.directory)
    services = _services(config, (url, public), account, (db, hub, clock), provider, offer, room, None if tls is None else tls.pinned)
    keys, moment = {account.storage_name: [account.storage_key]}, lambda: times.moment(clock.now())
    blobs = storage_endpoint(store, keys, moment, room.for_content)
    api = Api(services, {account.storage_name: blobs, QUEUE_PATH: queue_endpoint(queues, keys, moment, room.for_content)})
    server = http.http_server(api, config.proxies, tls)

    def end() -> None:
        api.close()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    lease = Lease(db, clock, EMBEDDED)
    with refusals.starting(config.directory):
        await lease.renew()
        await provider.sweep({node.id for node in await db.read(node_rows.every)})
    capacity = Capacity(db, {LOCAL: provider, JOINED: JoinedProvider()}, clock, services.node_key, int(config.node_join_s * 1e6), offer)
    upkeep = Upkeep(db, clock, services.node_silence_us)
    loops = background(services, lease, capacity, upkeep, (store, queues), room, on_demand=config.autoscale_on_demand)
    if tls is not None:
        loops.append(renewal(tls))
    _settle_memory()
    _settle_threads()
    try:
        await http.answer(server, listener, [*loops, http.announce(server, config, url, public)])
    finally:
        (config.directory / http.ANNOUNCEMENT).unlink(missing_ok=True)
        await capacity.close()
        await provider.stop_all()
        with contextlib.suppress(StoreUnavailable):  # it runs out by itself
            await lease.release()
        db.close()
        store.close()
        queues.close()
        log.info("server ended", url=url)


def _services(
    config: Config,
    urls: tuple[str, str],
    account: AccountFile,
    state: tuple[Database, Wakes, Clock],
    provider: LocalProvider | ExternalProvider,
    offer: Offer,
    room: space.Room,
    authority: tuple[bytes, str] | None,
) -> Services:
    """What the handlers of requests work with."""
    db, hub, clock = state
    url, public = urls
    here = Machine(addresses.towards(url), socket.gethostname(), addresses.ipv6(url))
    return Services(
        db=db,
        wakes=hub,
        clock=clock,
        relay=Relay(hub),
        account=Account(account.name, account.keys),
        node_key=account.node_key.encode(),
        chaos=config.chaos,
        shortest_autoscale_us=int(config.autoscale_min_interval_s * 1e6),
        offer=offer,
        linked_storage=LinkedStorage(account.storage_name, account.storage_key),
        machines={LOCAL: here} if isinstance(provider, LocalProvider) else {},
        node_silence_us=int(config.node_silence_s * 1e6),
        restarting=frozenset({LOCAL} if provider.restarts else ()),
        outside=frozenset({JOINED} if provider.restarts else {JOINED, LOCAL}),
        authority=None if authority is None else authority[0],
        public_url=public,
        authority_fingerprint="" if authority is None else authority[1],
        room=room.for_work,
    )


def _provider(config: Config, url: str, tls: Tls | None) -> LocalProvider | ExternalProvider:
    if config.external_nodes:
        return ExternalProvider(config.directory / "nodes", config.max_nodes)
    options = [FOLLOWS, str(config.directory / http.ANNOUNCEMENT)]
    options += ["--chaos"] * config.chaos + (["--probes", str(config.probes)] if config.probes else [])
    options += ["--ca-file", str(tls.authority_file)] if tls is not None and tls.authority_file else []
    return LocalProvider(config.directory / "nodes", url, config.max_nodes, options)


def _os_release() -> dict[str, str]:
    """What this machine says it is; empty when it says nothing."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _settle_memory() -> None:
    """What was imported stays for good, so no collection needs to look at it; requests leave few cycles, and none with their bodies."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def _settle_threads() -> None:
    """The loop that answers everybody waits for the writer's Python at most so long, each time that it wakes up."""
    sys.setswitchinterval(_THREAD_TURN_S)
