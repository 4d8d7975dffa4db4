"""What a multi-instance task costs: from the last free node to the order for its command line, all nodes agents of `nodes.py`.

python bench/gangs.py [NODES] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path

import meter
import nodes
from nodes import Fleet, until

from server import Server

SILENCE_S = 60.0


async def measure(server: Server, n: int, rounds: int) -> None:
    """Fill one node, let a task wait for all of them, free the last one; print how long it takes from there."""
    fleet = Fleet(f"http://{server.account.host}:{server.account.port}", 20.0)
    took, cpu = [], []
    async with fleet.links:
        try:
            places = server.directory / "nodes"
            pool = asyncio.create_task(asyncio.to_thread(server.add_pool, "pool", n, 1, enableInterNodeCommunication=True))
            await until(lambda: len(list(places.glob("*/token"))) == n or pool.done(), "the nodes' tokens")
            await fleet.join([path.read_text() for path in sorted(places.glob("*/token"))])
            await pool
            for number in range(rounds):
                job = f"round-{number}"
                await asyncio.to_thread(server.add_job, job, "pool")
                await _add(server, job, {"id": "last", "commandLine": "true"})
                await until(lambda: len(fleet.started) == 1, "the task on the last node")
                settings = {"numberOfInstances": n, "coordinationCommandLine": "true"}
                await _add(server, job, {"id": "gang", "commandLine": "true", "multiInstanceSettings": settings})
                before, begun = meter.cpu(server.pid), time.monotonic()
                [(node, attempt)] = fleet.started
                node.end(attempt)
                await until(lambda: len(fleet.started) == n + 2, "the command line")
                took.append(time.monotonic() - begun)
                cpu.append(meter.cpu(server.pid) - before)
                node, attempt = fleet.started[-1]
                node.end(attempt)
                await until(lambda: not fleet.running(), "the instances to end")
                fleet.started.clear()
        finally:
            await fleet.stop(fleet.nodes)
    print(f"{n} instances, {rounds} rounds: {statistics.median(took) * 1000:.0f} ms from the last free node to the command line")
    print(f"(slowest {max(took) * 1000:.0f} ms), {statistics.median(cpu) * 1000:.0f} ms of a core at the server")


async def _add(server: Server, job: str, task: dict[str, object]) -> None:
    await asyncio.to_thread(server.call, "POST", f"/jobs/{job}/tasks", task)


def main(n: str = "64", rounds: str = "10") -> None:
    """Start a server and measure."""
    own = [sys.executable, "-B", str(Path(nodes.__file__)), "serve"]
    with Server(program=lambda directory: [*own, str(directory), n, str(SILENCE_S)]) as server:
        asyncio.run(measure(server, int(n), int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
