"""Wires a server together: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import platform
import signal
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path

import msgspec
import structlog
import uvicorn
import uvloop

from batchyard import account_file
from batchyard.account_file import AccountFile
from batchyard.agent.health import addresses
from batchyard.api.app import Api
from batchyard.api.wire.auth import Account
from batchyard.api.wire.call import Machine, Services
from batchyard.api.wire.protocol import BoundedHttp
from batchyard.api.wire.relay import Relay
from batchyard.blobs.edge.server import application as storage_endpoint
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.config import Config
from batchyard.disk import logs, space, sqlite
from batchyard.engine import wakes
from batchyard.engine.autoscale.loop import Autoscale
from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.loops import LEASE_S, Lease, every
from batchyard.engine.nodes.linked_storage import LinkedStorage
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.scheduling import scheduler
from batchyard.engine.upkeep.upkeep import PAGES_PER_UNIT, UNITS_PER_ROUND, Upkeep
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.providers.external import ExternalProvider
from batchyard.providers.local import FOLLOWS, LocalProvider
from batchyard.rules import images
from batchyard.rules.sizes import LOCAL
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.migrate import NewerSchema
from batchyard.store.soundness import damage

log = structlog.get_logger()

SCHEDULER_PERIOD_S = 5.0
CAPACITY_PERIOD_S = 1.0
CAPACITY_BREATH_S = 0.03
"""A round looks at every node, and hundreds that launch at the same time would each ask for one."""
UPKEEP_PERIOD_S = 5.0
AUTOSCALE_PERIOD_S = 1.0
CHECKPOINT_PERIOD_S = 2.0
BLOCKS_PERIOD_S = 3600.0
CATALOGUE_PERIOD_S = 30.0
ROOM_PERIOD_S = 1.0
UNCOMMITTED_KEPT_US = 7 * 86_400_000_000
"""Blocks that were staged and never committed to a blob are kept a week, as the storage service does."""
DATABASE, BLOBS, CATALOGUE = "batchyard.db", "blobs", "catalogue.db"
EMBEDDED = "embedded"
"""Holder of the lease: a SQLite file has one server at a time (its directory is locked), so a restarted one goes on at once."""
_GRACE_S = 1
_THREAD_TURN_S = 0.001
_LOCAL_NAMES = ("localhost",)


class Refused(Exception):
    """The server will not start like this; the message says what to change."""


def serve(config: Config) -> None:
    """Run a server until SIGTERM or SIGINT."""
    logs.begin()
    _refuse_exposure(config)
    _refuse_full_disk(config.directory)
    try:
        uvloop.run(_serve(config))
    except Exception as error:
        if not _no_room(error):
            raise
        raise Refused(f"the disk of {config.directory} is full: make room there and start again") from None


def _refuse_full_disk(directory: Path) -> None:
    """A server that cannot write what it begins with says so at once."""
    if reason := space.lacking(space.sample(directory), space.START_BYTES):
        raise Refused(f"{directory} is on a full disk ({reason}): make room there and start again")


def _no_room(error: BaseException) -> bool:
    """True when an error says, or one of a group does, that the disk is full."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_no_room, error.exceptions))
    if isinstance(error, StoreUnavailable):
        return error.__cause__ is not None and _no_room(error.__cause__)
    return sqlite.full(error) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


def _refuse_exposure(config: Config) -> None:
    """Plain HTTP to others only when the operator says so."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(config.host).is_loopback:
            return
    if config.host not in _LOCAL_NAMES and not config.insecure:
        raise Refused(f"{config.host} can be reached by others and the server speaks plain HTTP; say --insecure if that is meant")


def open_account(directory: Path) -> AccountFile:
    """The account of a state directory; new random keys when there is none yet. Raises Refused, also when what belongs to it is gone."""
    path, database = directory / account_file.NAME, directory / DATABASE
    account = account_file.read(path)
    if account is not None:
        for missing in (database, directory / BLOBS / CATALOGUE):
            if not missing.exists():
                raise Refused(
                    f"{missing} is missing although there is an account: put it back, or take all of {directory} away to begin anew"
                )
        return account
    begun = account_file.read(directory / account_file.UNFINISHED)
    if begun is None and database.exists():
        raise Refused(f"{path} is missing although there is a database: put it back, or every client and node would lose its key")
    account = begun or account_file.fresh()
    account_file.write_private(directory / account_file.UNFINISHED, msgspec.json.format(msgspec.json.encode(account)))
    return account


def _open_state(directory: Path, hub: Wakes) -> tuple[AccountFile, Database, LocalBlobStore]:
    """All that the directory holds, whole or not at all. Raises Refused."""
    try:
        account = open_account(directory)
        for path in (directory / DATABASE, directory / BLOBS / CATALOGUE):
            if (directory / account_file.NAME).exists() and (wrong := damage(path)):
                raise Refused(f"{path} is damaged ({wrong}): put a copy of it back")
        db = _open_database(directory / DATABASE, hub)
        try:
            store = LocalBlobStore(directory / BLOBS)
        except BaseException:
            db.close()
            raise
        if not (directory / account_file.NAME).exists():
            account_file.finish(directory)
    except account_file.Unusable as error:
        raise Refused(str(error)) from None
    except (OSError, sqlite3.Error, RuntimeError) as error:
        raise Refused(f"what {directory} holds cannot be opened ({error})") from None
    return account, db, store


def _keep_private(database: Path) -> Path:
    """The database, readable by its owner only: tasks of other users pass through its directory. SQLite's own files take its mode."""
    database.touch(mode=0o600)
    for path in (database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o600)
    return database


def _open_database(path: Path, hub: Wakes) -> Database:
    try:
        return Database(_keep_private(path), hub)
    except NewerSchema as newer:
        raise Refused(f"{path} was written by a newer release ({newer}); install that one") from None


async def _serve(config: Config) -> None:
    listener = _listen_again(config.host, config.former_port) if config.port == 0 and config.former_port else None
    listener = listener or _listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    clock = MovableClock() if config.test_clock else Clock()
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    account, db, store = _open_state(config.directory, hub)
    provider = _provider(config, url)
    node_key = account.node_key.encode()
    offer = msgspec.structs.replace(config.offer, images=images.supported(images.of_machine(_os_release())))
    shortest_us = int(config.autoscale_min_interval_s * 1e6)
    silence_us = int(config.node_silence_s * 1e6)
    here = Machine(addresses.towards(url), socket.gethostname(), addresses.ipv6(url))
    own = {LOCAL: here} if isinstance(provider, LocalProvider) else {}
    room = space.Room(config.directory)
    services = Services(
        db, hub, clock, Relay(hub), Account(account.name, account.keys), node_key, config.chaos, shortest_us, offer,
        LinkedStorage(account.storage_name, account.storage_key), own, silence_us, frozenset({LOCAL} if provider.restarts else ()),
        room.for_work,
    )  # fmt: skip
    blobs = storage_endpoint(store, {account.storage_name: [account.storage_key]}, lambda: times.moment(clock.now()), room.for_content)
    api = Api(services, {account.storage_name: blobs})
    server = _http_server(api, config.proxies)

    def end() -> None:
        api.close()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    lease = Lease(db, clock, EMBEDDED)
    await lease.renew()
    await provider.sweep({node.id for node in await db.read(node_rows.every)})
    capacity = Capacity(db, {LOCAL: provider}, clock, node_key, int(config.node_join_s * 1e6), offer)
    upkeep = Upkeep(db, clock, silence_us)
    loops = [*_loops(services, lease, capacity, upkeep), _autoscale(services, lease, config.autoscale_on_demand)]
    loops += [every("blocks", BLOCKS_PERIOD_S, _expire_blocks(store, clock), asyncio.Event()), _check_blobs(store)]
    loops.append(every("catalogue", CATALOGUE_PERIOD_S, _shrink(store), asyncio.Event()))
    loops.append(every("room", ROOM_PERIOD_S, _in_thread(room.watch), asyncio.Event()))
    _settle_memory()
    _settle_threads()
    try:
        await _answer(server, listener, [*loops, _announce(server, config.directory, url)])
    finally:
        (config.directory / "server.json").unlink(missing_ok=True)
        await capacity.close()
        await provider.stop_all()
        with contextlib.suppress(StoreUnavailable):  # it runs out by itself
            await lease.release()
        db.close()
        store.close()
        log.info("server ended", url=url)


def _os_release() -> dict[str, str]:
    """What this machine says it is; empty when it says nothing."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _provider(config: Config, url: str) -> LocalProvider | ExternalProvider:
    if config.external_nodes:
        return ExternalProvider(config.directory / "nodes", config.max_nodes)
    options = [FOLLOWS, str(config.directory / "server.json")]
    options += ["--chaos"] * config.chaos + (["--probes", str(config.probes)] if config.probes else [])
    return LocalProvider(config.directory / "nodes", url, config.max_nodes, options)


def _settle_threads() -> None:
    """The loop that answers everybody waits for the writer's Python at most so long, each time that it wakes up."""
    sys.setswitchinterval(_THREAD_TURN_S)


def _settle_memory() -> None:
    """What was imported stays for good, so no collection needs to look at it; requests leave few cycles, and none with their bodies."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


async def _answer(server: _HttpServer, listener: socket.socket, background: Sequence[Coroutine[None, None, None]]) -> None:
    """Serve until told to end, with the background work beside it."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in background]
        await server.serve(sockets=[listener])
        for work in running:
            work.cancel()


def _listen_again(host: str, port: int) -> socket.socket | None:
    """A port that this server had before; None when it is taken by now."""
    try:
        return _listen(host, port)
    except OSError:
        log.info("the port of the server's last life is taken", port=port)
        return None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


class _HttpServer(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again behind itself and end the process before the nodes are ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _http_server(app: Api, proxies: Sequence[str]) -> _HttpServer:
    return _HttpServer(
        uvicorn.Config(
            app, http=BoundedHttp, ws="none", lifespan="off", access_log=False, server_header=False, log_config=None,
            timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=75, backlog=2048,
            proxy_headers=bool(proxies), forwarded_allow_ips=list(proxies),
        )
    )  # fmt: skip


async def _announce(server: uvicorn.Server, directory: Path, url: str) -> None:
    """Tell other processes where the server is, once it answers."""
    while not server.started:
        await asyncio.sleep(0.005)
    pid = os.getpid()
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    account_file.write_private(directory / "server.json", msgspec.json.encode({"pid": pid, "started": started, "url": url}))
    log.info("server ready", url=url, pid=pid)


def _expire_blocks(store: LocalBlobStore, clock: Clock) -> Callable[[], Awaitable[None]]:
    async def run_once() -> None:
        await asyncio.to_thread(store.expire_blocks, clock.now() - UNCOMMITTED_KEPT_US)

    return run_once


async def _check_blobs(store: LocalBlobStore) -> None:
    """Once at the start, beside the requests: a large store takes seconds."""
    try:
        await asyncio.to_thread(store.check)
    except Exception:
        log.exception("blobs not checked")


def _shrink(store: LocalBlobStore) -> Callable[[], Awaitable[None]]:
    """Gives what deleted blobs left free in the catalogue back to the disk, a bounded part each time."""

    async def run_once() -> None:
        for _ in range(UNITS_PER_ROUND):
            if await asyncio.to_thread(store.shrink, PAGES_PER_UNIT) < PAGES_PER_UNIT:
                return

    return run_once


def _in_thread(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def run_once() -> None:
        await asyncio.to_thread(work)

    return run_once


def _autoscale(services: Services, lease: Lease, on_demand: bool) -> Coroutine[None, None, None]:
    """Samples and evaluations; with `on_demand` also as soon as tasks come or go."""
    sooner = asyncio.Event()
    work = Autoscale(services.db, services.clock, on_demand=on_demand, follow=lambda topics: services.wakes.follow(topics, sooner))
    return every("autoscale", AUTOSCALE_PERIOD_S, lease.only(work.run_once), sooner)


def _loops(services: Services, lease: Lease, capacity: Capacity, upkeep: Upkeep) -> list[Coroutine[None, None, None]]:
    """All background work with its periods."""
    db, hub, clock = services.db, services.wakes, services.clock
    woken, schedule = hub.inbox(wakes.SCHEDULER)
    loop = asyncio.get_running_loop()
    next_look_at_all = loop.time()

    async def place() -> None:
        nonlocal next_look_at_all
        keys = set(woken)
        woken.clear()
        if loop.time() >= next_look_at_all:  # a lost wake-up of one pool is made good however busy the others are
            next_look_at_all = loop.time() + SCHEDULER_PERIOD_S
            keys.update(await db.read(job_rows.pools_with_demand))
        for key in keys:
            await db.run(scheduler.run_once, key, clock.now())

    async def checkpoint() -> None:
        short = services.room() is not None  # then the room that the log keeps for its next growth is needed more elsewhere
        await asyncio.to_thread(db.checkpoint, empty=short)

    return [
        every("lease", LEASE_S / 3, lease.renew, asyncio.Event()),
        every("scheduler", SCHEDULER_PERIOD_S, lease.only(place), schedule),
        every("capacity", CAPACITY_PERIOD_S, lease.only(capacity.run_once), hub.event(wakes.CAPACITY), CAPACITY_BREATH_S),
        every("upkeep", UPKEEP_PERIOD_S, lease.only(upkeep.run_once), hub.event(wakes.UPKEEP)),
        every("checkpoint", CHECKPOINT_PERIOD_S, checkpoint, asyncio.Event()),
    ]
