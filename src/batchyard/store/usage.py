"""When nodes had a machine: a row from a node's addition to its leaving."""

from __future__ import annotations

from batchyard.rules.usage import Lifetime
from batchyard.store.nodes import NodeRow
from batchyard.store.pools import PoolRow
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx

_END = Change("UPDATE node_usage SET released = :now WHERE node_pk = :node_pk AND released IS NULL")
_RESUME = Change(
    "INSERT INTO node_usage (node_pk, pool_pk, pool_id, vm_size, dedicated, cores, allocated)"
    " SELECT node_pk, pool_pk, pool_id, vm_size, dedicated, cores, :now FROM node_usage WHERE node_pk = :node_pk"
    " AND NOT EXISTS (SELECT 1 FROM node_usage AS open WHERE open.node_pk = :node_pk AND open.released IS NULL)"
    " ORDER BY pk DESC LIMIT 1"
)
_DROP = Change("DELETE FROM node_usage WHERE node_pk = :node_pk AND released IS NULL")
_CORES = Statement("SELECT coalesce(sum(cores), 0) FROM node_usage WHERE released IS NULL AND dedicated = :dedicated", int)
_LIVES = f"SELECT {columns(Lifetime)} FROM node_usage WHERE allocated < :until AND"
_OVERLAPPING = Statement(f"{_LIVES} released > :since UNION ALL {_LIVES} released IS NULL", Lifetime)
_FIRST = Statement(
    "SELECT min(allocated) FROM (SELECT min(allocated) AS allocated FROM node_usage WHERE released > :since"
    " UNION ALL SELECT min(allocated) FROM node_usage WHERE released IS NULL) AS firsts",
    lambda at: at,
)
_CORE_TIME = Statement(
    "SELECT coalesce(sum(cores * (coalesce(released, :now) - allocated)), 0) FROM node_usage WHERE pool_pk = :pool_pk AND dedicated = 1",
    int,
)
_FORGET = Change(
    "DELETE FROM node_usage WHERE pk IN (SELECT pk FROM node_usage WHERE released < :before"
    " AND NOT EXISTS (SELECT 1 FROM pool WHERE pool.pk = pool_pk) LIMIT :n)"
)


def begin(tx: Tx, pool: PoolRow, vm_size: str, cores: int, now: int, *, node_pk: int, dedicated: int) -> None:
    """A node of a pool is there from now on."""
    tx.insert(
        "node_usage", node_pk=node_pk, pool_pk=pool.pk, pool_id=pool.id, vm_size=vm_size, dedicated=dedicated, cores=cores, allocated=now
    )


def end(tx: Tx, node: NodeRow, now: int) -> None:
    """A node leaves; one that never had a machine used nothing."""
    if node.handle is None and node.booted is None:
        tx.change(_DROP, node_pk=node.pk)
    else:
        tx.change(_END, node_pk=node.pk, now=now)


def resume(tx: Tx, node_pk: int, now: int) -> None:
    """A node that stayed without a machine for a while has one again, unless it has one already."""
    tx.change(_RESUME, node_pk=node_pk, now=now)


def cores(reader: Reader, *, dedicated: bool) -> int:
    """Cores of one kind that all nodes of the account have at this moment."""
    return reader.first(_CORES, dedicated=int(dedicated)) or 0


def overlapping(reader: Reader, since: int, until: int) -> list[Lifetime]:
    """Lifetimes that overlap a span of time."""
    return reader.all(_OVERLAPPING, since=since, until=until)


def first(reader: Reader, since: int) -> int | None:
    """When the earliest of the lifetimes began that last beyond a time."""
    return reader.first(_FIRST, since=since)


def dedicated_core_time(reader: Reader, pool_pk: int, now: int) -> int:
    """Core time of a pool's dedicated nodes over its life, microseconds."""
    return reader.first(_CORE_TIME, pool_pk=pool_pk, now=now) or 0


def forget(tx: Tx, before: int, n: int) -> int:
    """Remove at most `n` lifetimes of pools that are gone and that ended before a time; how many."""
    return tx.changed(_FORGET, before=before, n=n)
