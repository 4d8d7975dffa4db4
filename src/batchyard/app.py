"""Wires a server together: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import gc
import platform
import signal
import sys

import msgspec
import structlog
import uvloop

from batchyard.api.front import Front
from batchyard.api.wire.accounts import OPERATOR
from batchyard.api.wire.auth import Account
from batchyard.config import Config
from batchyard.disk import logs, space
from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.loops import every
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.rules import images
from batchyard.server import http, refusals
from batchyard.server.loops import renewal
from batchyard.server.places import Places
from batchyard.server.refusals import Refused
from batchyard.server.state import open_registry, open_state, operator_key
from batchyard.server.tls import Tls
from batchyard.server.world import Server
from batchyard.server.worlds import Worlds

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
    listener = http.bind(config)
    clock = MovableClock() if config.test_clock else Clock()
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    tls = None if config.tls == "off" else Tls(config, lambda: times.moment(clock.now()))
    url, public = http.urls(config, listener, tls)
    state = open_state(config.directory, hub)
    registry = open_registry(config.directory, state[0], clock.now())
    places, room = Places(config.directory), space.Room(config.directory)
    offer = msgspec.structs.replace(config.offer, images=images.supported(images.of_machine(_os_release())))
    operator = Account(OPERATOR, [operator_key(config.directory)])
    shared = Server(config, (url, public), tls, clock, offer, room, operator, places.count_nodes)
    worlds = Worlds(shared, registry, places, state[0].name)
    server = http.http_server(Front(worlds, clock), config.proxies, tls)

    def end() -> None:
        worlds.release()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    with refusals.starting(config.directory):
        await worlds.begin(state, hub)
    work = [
        every("worlds", WORLDS_PERIOD_S, worlds.run_once, asyncio.Event()),
        every("room", ROOM_PERIOD_S, lambda: asyncio.to_thread(room.watch), asyncio.Event()),
        http.announce(server, config, url, public),
        *([] if tls is None else [renewal(tls)]),
    ]
    _settle_memory()
    _settle_threads()
    try:
        await http.answer(server, listener, work)
    finally:
        (config.directory / http.ANNOUNCEMENT).unlink(missing_ok=True)
        await worlds.end()
        log.info("server ended", url=url)


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
