"""What accounts cost that nobody asks: memory, threads and loops of a server that made many and closed them, and what opening one takes.

    python bench/accounts.py [ACCOUNTS]
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import structlog

from batchyard.api.wire.auth import Account
from batchyard.config import Config
from batchyard.disk import space
from batchyard.engine.clock import Clock
from batchyard.engine.wakes import Wakes
from batchyard.rules.offer import AZURE, Quotas
from batchyard.server.places import Places
from batchyard.server.state import open_registry, open_state, operator_key
from batchyard.server.world import Server
from batchyard.server.worlds import Worlds

ASKED = 20


def resident_kib() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


async def main(accounts: int) -> None:
    directory, clock, hub = Path(tempfile.mkdtemp(prefix="batchyard-bench-")), Clock(), Wakes()
    hub.bind(asyncio.get_running_loop())
    state = open_state(directory, hub)
    registry, places = open_registry(directory, state[0], clock.now()), Places(directory)
    operator = Account("$operator", [operator_key(directory)])
    server = Server(Config(directory), "http://127.0.0.1:1", clock, AZURE, space.Room(directory), operator, places.count_nodes)
    worlds = Worlds(server, registry, places, state[0].name, idle_s=0.0)
    await worlds.begin(state, hub)
    for number in range(ASKED):  # what is only there once is there now
        await worlds.create(f"warm{number}", None, Quotas())
    before, threads, tasks = resident_kib(), threading.active_count(), len(asyncio.all_tasks())
    began = time.perf_counter()
    for number in range(accounts):
        await worlds.create(f"bench{number}", None, Quotas())
    made = time.perf_counter() - began
    await worlds.run_once()
    idle = resident_kib() - before
    more = threading.active_count() - threads, len(asyncio.all_tasks()) - tasks
    print(f"{accounts} accounts made in {made / accounts * 1e3:.0f} ms each; idle: {idle} KiB, {more[0]} threads, {more[1]} tasks of the loop")
    opened, closed = [], []
    at = resident_kib()
    for number in range(min(ASKED, accounts)):
        began = time.perf_counter()
        async with worlds.entered(f"bench{number}"):
            opened.append(time.perf_counter() - began)
    each = (resident_kib() - at) / len(opened)
    used = time.process_time()
    await asyncio.sleep(5)
    cost = (time.process_time() - used) / 5 / len(opened)
    began = time.perf_counter()
    await worlds.run_once()
    closed.append((time.perf_counter() - began) / len(opened))
    print(f"one is opened in {statistics.median(opened) * 1e3:.1f} ms and closed in {closed[0] * 1e3:.1f} ms;", end=" ")
    print(f"while it is open and idle it takes {each:.0f} KiB and {cost * 1e3:.2f} ms of a core per second")
    await worlds.end()


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
