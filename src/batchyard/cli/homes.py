"""Where submitted tasks go: the job and the pool that are meant, made when they are not there."""

from __future__ import annotations

import os
from typing import Any

from batchyard.cli.client import Client, Refused
from batchyard.cli.names import DEFAULT
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import say

Body = dict[str, Any]
_MOST_SLOTS = 256
_SLOTS_PER_CORE = 4
_CORES = (2, 4, 8, 16, 32, 48, 64)
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
"""What a pool's nodes run, when nothing else is said."""
SIZE = "standard_d2s_v3"
"""Size of a pool's nodes, when nothing else is said."""
_OPEN = ("active", "disabled", "enabling", "disabling")


def find_job(batch: Client, job: str | None, pool: str | None, nodes: int | None = None, size: str | None = None) -> str:
    """The job to add tasks to, made when it is not there, with its pool. Raises Problem."""
    _make_pool(batch, pool, nodes, size)
    first = job or pool or DEFAULT
    names = [job] if job else [first, *(f"{first}-{number}" for number in range(2, 100))]
    for name in names:
        found = _job(batch, name) or _new_job(batch, name, pool)
        where = found["poolInfo"].get("poolId")
        if job and pool and where != pool:
            raise Problem(f"the job {job} runs on the pool {where}, not on {pool}; name another job, or leave --pool out")
        if job or (found["state"] in _OPEN and where == (pool or DEFAULT)):
            if name != first:
                say(f"batchyard: the job {first} has ended, or runs elsewhere; these go to {name}")
            return name
    raise Problem(
        f"the jobs {names[0]} to {names[-1]} have all ended; name another with --job, or delete some: batchyard job delete '{first}-*'"
    )


def _job(batch: Client, name: str) -> Body | None:
    return _found(batch, "JobNotFound", "jobs", name)


def _found(batch: Client, missing: str, *path: str) -> Body | None:
    try:
        return batch.get(*path)
    except Refused as refused:
        if refused.error != missing:
            raise
        return None


def find_pool(batch: Client, pool: str | None, nodes: int | None = None, size: str | None = None) -> str:
    """The pool that is meant; that which --nodes asks for, and the default one, are made when they are not there. Raises Problem."""
    _make_pool(batch, pool, nodes, size)
    return _there(batch, pool)


def _there(batch: Client, pool: str | None) -> str:
    if pool:
        batch.get("pools", pool)  # the service takes jobs of pools that are not there; a person who types a name does not mean that
    elif _found(batch, "PoolNotFound", "pools", DEFAULT) is None:
        _add(batch, "pools", default_pool(), "PoolExists")
    return pool or DEFAULT


def _new_job(batch: Client, name: str, pool: str | None) -> Body:
    _add(batch, "jobs", new_job(name, _there(batch, pool)), "JobExists")
    return batch.get("jobs", name)


def new_job(name: str, pool: str) -> Body:
    """A job whose tasks may wait for each other."""
    return {"id": name, "poolInfo": {"poolId": pool}, "usesTaskDependencies": True}


def default_pool() -> Body:
    """One node with a slot for each core of this machine."""
    slots = min(_MOST_SLOTS, len(os.sched_getaffinity(0)))
    cores = next(cores for cores in _CORES if cores * _SLOTS_PER_CORE >= slots)
    return new_pool(DEFAULT, 1, f"standard_d{cores}s_v3") | {"taskSlotsPerNode": slots}


def new_pool(name: str, nodes: int, size: str | None) -> Body:
    """A pool of so many nodes."""
    return {"id": name, "vmSize": size or SIZE, "virtualMachineConfiguration": MACHINE, "targetDedicatedNodes": nodes}


def _make_pool(batch: Client, pool: str | None, nodes: int | None, size: str | None) -> None:
    if nodes is not None:
        _own_pool(batch, pool, nodes, size)
    elif size is not None:
        raise Usage("--size is the size of the nodes of a pool that is made: say how many with --nodes")


def _own_pool(batch: Client, pool: str | None, nodes: int, size: str | None) -> None:
    """Make the pool that --nodes asks for, unless it is there."""
    if not pool:
        raise Usage("--nodes makes a pool: name it with --pool")
    if _found(batch, "PoolNotFound", "pools", pool) is not None:
        say(f"batchyard: the pool {pool} is there and stays as it is; change it with: batchyard pool resize {pool} --nodes {nodes}")
    else:
        _add(batch, "pools", new_pool(pool, nodes, size), "PoolExists")


def _add(batch: Client, what: str, body: Body, exists: str) -> None:
    """Add it; somebody else may have been quicker."""
    try:
        batch.post(what, body=body)
    except Refused as refused:
        if refused.error != exists:
            raise
