"""Wires a server together: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import gc
import platform
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import replace

import msgspec
import structlog
import uvloop

from batchyard.api.front import Front
from batchyard.api.wire.accounts import OPERATOR
from batchyard.api.wire.auth import Account
from batchyard.api.wire.protocol import BoundedHttp
from batchyard.config import Config
from batchyard.disk import logs, space
from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.loops import Loops
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.providers.network.namespaces import Namespaces
from batchyard.rules import images
from batchyard.server import http, networks, refusals
from batchyard.server.calls import Calls
from batchyard.server.door import Door
from batchyard.server.http import HttpServer
from batchyard.server.loops import renewal
from batchyard.server.peers import Peers
from batchyard.server.places import Places
from batchyard.server.refusals import Refused
from batchyard.server.shared import authority, cluster_key, server_id
from batchyard.server.storages import TOPIC
from batchyard.server.tls import Tls
from batchyard.server.world import Server
from batchyard.server.worlds import Worlds
from batchyard.store import servers
from batchyard.store.db import Database

log = structlog.get_logger()

ROOM_PERIOD_S = WORLDS_PERIOD_S = 1.0
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
    listener, services = http.bind(config), http.bind_services(config)
    scraped = None if config.metrics is None else http.listen(*config.metrics)
    network = networks.begin(config)
    try:
        await _serve_with(config, listener, services, scraped, network)
    finally:
        if network is not None:
            network.close()


async def _serve_with(
    config: Config,
    listener: socket.socket,
    services: Mapping[str, socket.socket],
    scraped: socket.socket | None,
    network: Namespaces | None,
) -> None:
    listeners, connection = [listener, *services.values()], BoundedHttp
    if network is not None:
        config = replace(config, gateway=str(network.gateway))
        bound, port = listener.getsockname()[:2]
        connection = networks.only_from(network.network, str(network.gateway))
        listeners += [] if networks.covers(bound) else [networks.listen(str(network.gateway), port)]
    clock = MovableClock() if config.test_clock else Clock()
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    tls = None if config.tls == "off" else Tls(config, lambda: times.moment(clock.now()))
    url, public = http.urls(config, listener, tls)
    places, room = Places(config.directory, config.database, config.blobs), space.Room(config.directory)
    state = places.begin(hub)
    registry = places.registry(state[0], clock.now())
    if tls is not None and places.shared:
        tls.share(lambda own: authority(registry, own))
    news = registry.on_wake = Wakes()
    news.bind(asyncio.get_running_loop())
    offer = msgspec.structs.replace(config.offer, images=images.supported(images.of_machine(_os_release())))
    operator = Account(OPERATOR, [places.operator_key(registry)])
    stop = asyncio.Event()
    peers = _peers(config, registry, places, public, stop)
    trusted = str(tls.authority_file) if tls is not None and tls.authority_file is not None else None
    calls = Calls(peers, cluster_key(registry), trusted) if places.shared else None
    ways = http.ways(config, services, public, tls)
    shared = Server(config, (url, public), tls, clock, offer, room, operator, places.count_nodes, ways, calls, network)
    worlds = Worlds(shared, registry, places, state[0].name, peers=peers)
    ports = {each.getsockname()[1]: service for service, each in services.items()}
    door = Door(Front(worlds, clock, ports), worlds.ready)
    server = http.http_server(door, config.proxies, tls, connection)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with refusals.starting(config.directory):
        await worlds.begin(state, hub)
    loops = Loops()
    work = [
        loops.every("worlds", WORLDS_PERIOD_S, worlds.run_once, news.event(TOPIC)),
        _drain(stop, worlds, door, server, config.drain_s),
        *([loops.every("servers", config.lease_s / 3, peers.beat, news.event(servers.TOPIC))] if places.shared else []),
        loops.every("room", ROOM_PERIOD_S, lambda: asyncio.to_thread(room.watch)),
        http.announce(server, config, url, ways, lambda: [row.url for row in peers.others], peers.changed),
        *([] if tls is None else [renewal(loops, tls)]),
        *([] if scraped is None else [_metrics(scraped, config, tls, loops, door, worlds)]),
    ]
    _settle_memory()
    _settle_threads()
    try:
        await http.answer(server, listeners, work)
    finally:
        await worlds.end()
        (config.directory / http.ANNOUNCEMENT).unlink(missing_ok=True)
        log.info("server ended", url=url)


def _metrics(
    listener: socket.socket, config: Config, tls: Tls | None, loops: Loops, door: Door, worlds: Worlds
) -> Coroutine[None, None, None]:
    from batchyard.server.metrics import Metrics, opened  # what it is made with takes a while to load

    return http.beside(Metrics(config.directory, loops, door.answers, lambda: opened(worlds), door.why_not), listener, tls)


def _peers(config: Config, registry: Database, places: Places, public: str, stop: asyncio.Event) -> Peers:
    """This server among those that share its registry, if there may be any; it ends when another process takes its place."""
    if not places.shared:
        return Peers(registry, url=public, seconds=config.lease_s)

    def free() -> int:
        return max(0, config.max_nodes - places.count_nodes())

    return Peers(
        registry, server_id(config.directory), config.advertise or public, config.lease_s, free=free, displaced=stop.set, alone=False
    )


async def _drain(stop: asyncio.Event, worlds: Worlds, door: Door, server: HttpServer, seconds: float) -> None:
    """Once it is told to stop: let go of whoever waits, hand everything over, and answer for a while who comes still."""
    await stop.wait()
    door.draining = True
    worlds.release()
    await worlds.hand_over()
    await asyncio.sleep(seconds)
    server.should_exit = True


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
