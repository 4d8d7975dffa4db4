"""The tasks that are added: JSON of about 600 bytes each, the same for the server and for its yardstick."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator

PER_COLLECTION = 100


def names(kind: str, n: int, seed: int) -> list[str]:
    """Task ids: `sequential` ones, or `random` GUIDs that are the same for the same seed."""
    if kind == "sequential":
        return [f"task-{number:07}" for number in range(n)]
    chance = random.Random(seed)
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(n)]


def body(name: str) -> bytes:
    """A task as a client sends it."""
    settings = [{"name": f"SETTING_{number}", "value": f"value of the setting with number {number}"} for number in range(5)]
    command = f"/bin/sh -c 'process --input data/{name}.in --output results/{name}.out --level 3 --verbose'"
    constraints = {"maxTaskRetryCount": 2, "maxWallClockTime": "PT1H"}
    task = {"id": name, "commandLine": command, "environmentSettings": settings, "constraints": constraints, "requiredSlots": 1}
    return json.dumps(task, separators=(",", ":")).encode()


def collections(tasks: list[bytes]) -> Iterator[bytes]:
    """Bodies of the requests that add them."""
    for at in range(0, len(tasks), PER_COLLECTION):
        yield b'{"value":[' + b",".join(tasks[at : at + PER_COLLECTION]) + b"]}"
