"""Wires a server together: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import platform
import secrets
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path

import msgspec
import structlog
import uvicorn
import uvloop

from batchyard.api.app import Api
from batchyard.api.auth import Account
from batchyard.api.call import Services
from batchyard.api.protocol import BoundedHttp
from batchyard.api.relay import Relay
from batchyard.blobs.local import LocalBlobStore
from batchyard.blobs.server import application as storage_endpoint
from batchyard.config import Config
from batchyard.engine import scheduler, wakes
from batchyard.engine.autoscale import Autoscale
from batchyard.engine.capacity import Capacity
from batchyard.engine.clock import Clock, MovableClock
from batchyard.engine.loops import LEASE_S, Lease, every
from batchyard.engine.upkeep import Upkeep
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.providers.external import ExternalProvider
from batchyard.providers.local import LocalProvider
from batchyard.rules import images
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store.db import Database
from batchyard.store.migrate import NewerSchema

log = structlog.get_logger()

SCHEDULER_PERIOD_S = 5.0
CAPACITY_PERIOD_S = 1.0
CAPACITY_BREATH_S = 0.03
"""A round looks at every node, and hundreds that launch at the same time would each ask for one."""
UPKEEP_PERIOD_S = 5.0
AUTOSCALE_PERIOD_S = 1.0
CHECKPOINT_PERIOD_S = 2.0
BLOCKS_PERIOD_S = 3600.0
UNCOMMITTED_KEPT_US = 7 * 86_400_000_000
"""Blocks that were staged and never committed to a blob are kept a week, as the storage service does."""
EMBEDDED = "embedded"
"""Holder of the lease: a SQLite file has one server at a time (its directory is locked), so a restarted one goes on at once."""
_GRACE_S = 1
_THREAD_TURN_S = 0.001
_LOCAL_NAMES = ("localhost",)


class AccountFile(msgspec.Struct, rename="camel"):
    """Names and keys of a state directory, made at the first start and readable by its owner only."""

    name: str
    keys: list[str]
    storage_name: str
    storage_key: str
    node_key: str
    """What the tokens of nodes are made from."""


class Refused(Exception):
    """The server will not start like this; the message says what to change."""


def serve(config: Config) -> None:
    """Run a server until SIGTERM or SIGINT."""
    _configure_logs()
    _refuse_exposure(config)
    uvloop.run(_serve(config))


def _configure_logs() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(),
    )


def _refuse_exposure(config: Config) -> None:
    """Plain HTTP to others only when the operator says so."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(config.host).is_loopback:
            return
    if config.host not in _LOCAL_NAMES and not config.insecure:
        raise Refused(f"{config.host} can be reached by others and the server speaks plain HTTP; say --insecure if that is meant")


def open_account(directory: Path) -> AccountFile:
    """The account of a state directory; new random keys when there is none yet."""
    path = directory / "account.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=AccountFile)
    if (directory / "batchyard.db").exists():
        raise Refused(f"{path} is missing although there is a database: put it back, or every client and node would lose its key")
    account = AccountFile(
        name="batchyard",
        keys=[_key(64), _key(64)],
        storage_name="batchyardstorage",
        storage_key=_key(64),
        node_key=_key(32),
    )
    _write_private(path, msgspec.json.format(msgspec.json.encode(account)))
    return account


def _key(size: int) -> str:
    return b64encode(secrets.token_bytes(size)).decode()


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, all of it or nothing."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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
    listener = _listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    account = open_account(config.directory)
    clock = MovableClock() if config.test_clock else Clock()
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    db = _open_database(config.directory / "batchyard.db", hub)
    provider = _provider(config, url)
    node_key = account.node_key.encode()
    offer = msgspec.structs.replace(config.offer, images=images.supported(images.of_machine(_os_release())))
    shortest_us = int(config.autoscale_min_interval_s * 1e6)
    services = Services(db, hub, clock, Relay(hub), Account(account.name, account.keys), node_key, config.chaos, shortest_us, offer)
    store = LocalBlobStore(config.directory / "blobs")
    blobs = storage_endpoint(store, {account.storage_name: [account.storage_key]}, lambda: times.moment(clock.now()))
    api = Api(services, {account.storage_name: blobs})
    server = _http_server(api)

    def end() -> None:
        api.close()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    lease = Lease(db, clock, EMBEDDED)
    await lease.renew()
    await provider.sweep({node.id for node in await db.read(node_rows.every)})
    capacity = Capacity(db, {"local": provider}, clock, node_key, int(config.node_join_s * 1e6), offer)
    upkeep = Upkeep(db, clock, int(config.node_silence_s * 1e6))
    loops = [*_loops(services, lease, capacity, upkeep), _autoscale(services, lease, config.autoscale_on_demand)]
    loops.append(every("blocks", BLOCKS_PERIOD_S, _expire_blocks(store, clock), asyncio.Event()))
    _settle_memory()
    _settle_threads()
    try:
        await _answer(server, listener, [*loops, _announce(server, config.directory, url)])
    finally:
        (config.directory / "server.json").unlink(missing_ok=True)
        await capacity.close()
        await provider.stop_all()
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
    options = ["--chaos"] * config.chaos + (["--probes", str(config.probes)] if config.probes else [])
    return LocalProvider(config.directory / "nodes", url, config.max_nodes, options)


def _settle_threads() -> None:
    """The loop that answers everybody waits for the writer's Python at most so long, each time that it wakes up."""
    sys.setswitchinterval(_THREAD_TURN_S)


def _settle_memory() -> None:
    """What was imported stays for good, so no collection needs to look at it; requests leave few cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _answer(server: _HttpServer, listener: socket.socket, background: Sequence[Coroutine[None, None, None]]) -> None:
    """Serve until told to end, with the background work beside it."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in background]
        await server.serve(sockets=[listener])
        for work in running:
            work.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    return listener


class _HttpServer(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again behind itself and end the process before the nodes are ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _http_server(app: Api) -> _HttpServer:
    return _HttpServer(
        uvicorn.Config(
            app, http=BoundedHttp, ws="none", lifespan="off", access_log=False, server_header=False, log_config=None,
            timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=75, backlog=2048,
        )
    )  # fmt: skip


async def _announce(server: uvicorn.Server, directory: Path, url: str) -> None:
    """Tell other processes where the server is, once it answers."""
    while not server.started:
        await asyncio.sleep(0.005)
    pid = os.getpid()
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    _write_private(directory / "server.json", msgspec.json.encode({"pid": pid, "started": started, "url": url}))
    log.info("server ready", url=url, pid=pid)


def _expire_blocks(store: LocalBlobStore, clock: Clock) -> Callable[[], Awaitable[None]]:
    async def run_once() -> None:
        await asyncio.to_thread(store.expire_blocks, clock.now() - UNCOMMITTED_KEPT_US)

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
        await asyncio.to_thread(db.checkpoint)

    return [
        every("lease", LEASE_S / 3, lease.renew, asyncio.Event()),
        every("scheduler", SCHEDULER_PERIOD_S, lease.only(place), schedule),
        every("capacity", CAPACITY_PERIOD_S, lease.only(capacity.run_once), hub.event(wakes.CAPACITY), CAPACITY_BREATH_S),
        every("upkeep", UPKEEP_PERIOD_S, lease.only(upkeep.run_once), hub.event(wakes.UPKEEP)),
        every("checkpoint", CHECKPOINT_PERIOD_S, checkpoint, asyncio.Event()),
    ]
