"""What accounts cost that nobody asks: memory, threads and loops of a server that made many and closed them, and what opening one takes.

python bench/accounts.py [ACCOUNTS]
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import shutil
import statistics
import subprocess
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


async def begun(directory: Path) -> Worlds:
    """The worlds of a server that has begun with a directory."""
    clock, hub = Clock(), Wakes()
    hub.bind(asyncio.get_running_loop())
    state = open_state(directory, hub)
    registry, places = open_registry(directory, state[0], clock.now()), Places(directory)
    operator = Account("$operator", [operator_key(directory)])
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:1")
    server = Server(Config(directory), urls, None, clock, AZURE, space.Room(directory), operator, places.count_nodes)
    worlds = Worlds(server, registry, places, state[0].name, idle_s=0.0)
    await worlds.begin(state, hub)
    return worlds


async def restarted(directory: Path) -> None:
    """What a server holds that was started anew and looked for what is due."""
    worlds = await begun(directory)
    for _ in range(10):
        await worlds.run_once()
    print(resident_kib(), threading.active_count(), len(asyncio.all_tasks()))
    await worlds.end()


def after_a_restart(directory: Path) -> list[int]:
    done = subprocess.run([sys.executable, __file__, "--restarted", directory], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


async def main(accounts: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="batchyard-bench-"))
    empty = statistics.median(after_a_restart(directory)[0] for _ in range(3))
    worlds = await begun(directory)
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
    print(
        f"{accounts} accounts made in {made / accounts * 1e3:.0f} ms each; idle: {idle} KiB, {more[0]} threads, {more[1]} tasks of the loop"
    )
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
    kib, threads, tasks = after_a_restart(directory)
    print(f"a server that was started anew holds {kib - empty:.0f} KiB more than without them, {threads} threads and {tasks} tasks in all")
    shutil.rmtree(directory)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if sys.argv[1:2] == ["--restarted"]:
        asyncio.run(restarted(Path(sys.argv[2])))
        sys.exit()
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
