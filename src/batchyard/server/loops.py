"""All background work of a server with its periods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from batchyard.api.wire.call import Services
from batchyard.blobs.edge.fetches import Fetches
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.disk import space
from batchyard.engine import wakes
from batchyard.engine.autoscale.loop import Autoscale
from batchyard.engine.checks.auto_pools import Demand
from batchyard.engine.clock import Clock
from batchyard.engine.loops import RELEASED, Lease, Loops
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.schedules.loop import Schedules
from batchyard.engine.scheduling import scheduler
from batchyard.engine.upkeep.upkeep import PAGES_PER_UNIT, UNITS_PER_ROUND, Upkeep
from batchyard.server.tls import LOOK_S, Tls
from batchyard.store import jobs as job_rows

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
PURGE_PERIOD_S = 60.0
QUEUES_PERIOD_S = 5.0
SCHEDULES_PERIOD_S = 1.0
COPIES_PERIOD_S = 10.0
PURGED_AT_ONCE = 200
ROOM_PERIOD_S = 1.0
WALK_S = 3_600.0
"""How long a round may take that goes on, in small steps, until all is done that there is."""
UNCOMMITTED_KEPT_US = 7 * 86_400_000_000
"""Blocks that were staged and never committed to a blob are kept a week, as the storage service does."""


def background(
    loops: Loops,
    services: Services,
    lease: Lease,
    capacity: Capacity,
    upkeep: Upkeep,
    room: space.Room | None,
    *,
    on_demand: bool,
) -> list[Coroutine[None, None, None]]:
    """Everything that works on a world's account beside the answering of requests.

    `on_demand` evaluates formulas as soon as tasks come or go.

    `room` is that of a world which lies on a disk of its own.
    """
    watch = [] if room is None else [loops.every("room", ROOM_PERIOD_S, _in_thread(room.watch))]
    return [
        *_of_the_account(loops, services, lease, capacity, upkeep),
        _autoscale(loops, services, lease, on_demand),
        *watch,
    ]


def of_storage(loops: Loops, store: LocalBlobStore, queues: QueueStore, clock: Clock) -> list[Coroutine[None, None, None]]:
    """Everything that works on a storage account beside the answering of requests."""
    purge = _in_thread(lambda: _purge(store, clock))
    return [
        loops.every("blocks", BLOCKS_PERIOD_S, _expire_blocks(store, clock), stuck_s=WALK_S),
        loops.every("catalogue", CATALOGUE_PERIOD_S, _shrink(store)),
        loops.every("queues", QUEUES_PERIOD_S, _tidy(queues, clock), stuck_s=WALK_S),
        loops.every("queues' file", CATALOGUE_PERIOD_S, _shrink(queues)),
        loops.every("deleted containers", PURGE_PERIOD_S, purge, _told_of_deletions(store), stuck_s=WALK_S),
        _check_blobs(store),
    ]


def renewal(loops: Loops, tls: Tls) -> Coroutine[None, None, None]:
    """Looks after the certificate."""
    return loops.every("certificate", LOOK_S, _in_thread(tls.look))


def copies(loops: Loops, fetches: Fetches) -> Coroutine[None, None, None]:
    """Goes on with copies from elsewhere whose server ended, where several have one store."""
    return loops.every("copies", COPIES_PERIOD_S, _in_thread(fetches.resume), stuck_s=WALK_S)


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


def _shrink(store: LocalBlobStore | QueueStore) -> Callable[[], Awaitable[None]]:
    """Gives what deleted blobs left free in the catalogue back to the disk, a bounded part each time."""

    async def run_once() -> None:
        for _ in range(UNITS_PER_ROUND):
            if await asyncio.to_thread(store.shrink, PAGES_PER_UNIT) < PAGES_PER_UNIT:
                return

    return run_once


def _tidy(queues: QueueStore, clock: Clock) -> Callable[[], Awaitable[None]]:
    """Removes messages whose time is over, and those of deleted queues, in small steps."""

    def work() -> None:
        while queues.expire(PURGED_AT_ONCE, clock.now()):
            pass
        while queues.purge(PURGED_AT_ONCE):
            pass

    return _in_thread(work)


def _told_of_deletions(store: LocalBlobStore) -> asyncio.Event:
    deleted, loop = asyncio.Event(), asyncio.get_running_loop()
    store.on_deleted = lambda: loop.call_soon_threadsafe(deleted.set)
    return deleted


def _purge(store: LocalBlobStore, clock: Clock) -> None:
    """What was deleted and kept for long enough, and blobs of deleted containers, go in steps so small that others hardly wait.

    What a crash left goes after the start.
    """
    while store.expire_deleted(PURGED_AT_ONCE, clock.now()):
        pass
    while store.purge(PURGED_AT_ONCE):
        pass


def _in_thread(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def run_once() -> None:
        await asyncio.to_thread(work)

    return run_once


def _autoscale(loops: Loops, services: Services, lease: Lease, on_demand: bool) -> Coroutine[None, None, None]:
    """Samples and evaluations; with `on_demand` also as soon as tasks come or go."""
    sooner = asyncio.Event()
    lease.follow(sooner)
    work = Autoscale(services.db, services.clock, on_demand=on_demand, follow=lambda topics: services.wakes.follow(topics, sooner))
    return loops.every("autoscale", AUTOSCALE_PERIOD_S, lease.only(work.run_once), sooner)


def _schedules(services: Services) -> Callable[[], Awaitable[None]]:
    """Serves job schedules, and is there again at the moment when the next one is due."""
    work = Schedules(services.db, services.clock, lambda: Demand(services.offer, services.shortest_autoscale_us))
    loop = asyncio.get_running_loop()

    async def run_once() -> None:
        await work.run_once()
        wait_us = await work.wait_us()
        if wait_us is not None and wait_us < SCHEDULES_PERIOD_S * 1e6:
            loop.call_later(wait_us / 1e6, services.wakes.at_once, wakes.SCHEDULES)

    return run_once


def _of_the_account(
    loops: Loops, services: Services, lease: Lease, capacity: Capacity, upkeep: Upkeep
) -> list[Coroutine[None, None, None]]:
    """What works on the account's state."""
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

    planned = lease.only(capacity.run_once)

    async def nodes() -> None:
        await (planned() if lease.held else capacity.run_own())

    looked_for, tidied = hub.event(wakes.CAPACITY), hub.event(wakes.UPKEEP)
    planned_jobs = hub.event(wakes.SCHEDULES)
    for event in (schedule, looked_for, tidied, planned_jobs):
        lease.follow(event)

    async def checkpoint() -> None:
        short = services.room() is not None  # then the room that the log keeps for its next growth is needed more elsewhere
        await asyncio.to_thread(db.checkpoint, empty=short)

    return [
        lease.keep(hub.event(RELEASED)),
        loops.every("scheduler", SCHEDULER_PERIOD_S, lease.only(place), schedule),
        loops.every("capacity", CAPACITY_PERIOD_S, nodes, looked_for, breath_s=CAPACITY_BREATH_S),
        loops.every("schedules", SCHEDULES_PERIOD_S, lease.only(_schedules(services)), planned_jobs),
        loops.every("upkeep", UPKEEP_PERIOD_S, lease.only(upkeep.run_once), tidied, stuck_s=WALK_S),
        loops.every("checkpoint", CHECKPOINT_PERIOD_S, checkpoint),
    ]
