"""Pool rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchyard.model.pool import PoolCreateContent
from batchyard.model.states import AllocationState, PoolState
from batchyard.rules.odata import Filter, matches
from batchyard.store import joining
from batchyard.store.filters import Page, by_key, sift
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned


class PoolRow(msgspec.Struct):
    """A row of `pool`."""

    pk: int
    id: str
    state: PoolState
    version: int
    state_time: int
    allocation_state: AllocationState
    allocation_time: int
    created: int
    modified: int
    target_dedicated: int
    target_low_priority: int
    slots_per_node: int
    pack: int
    resize_timeout: int
    deallocation_option: str | None
    resize_errors: bytes | None
    body: bytes
    autoscale_formula: str | None
    """None while autoscale is off, as the interval and the time of the next evaluation."""
    autoscale_interval: int | None
    autoscale_next: int | None
    autoscale_run: bytes | None
    autoscale_enabled: int | None
    """When it was asked for last, also if it is off by now."""
    autoscale_pending: int | None
    """Tasks of active jobs that ran or could at the last evaluation."""
    oldest_first: int
    """Among jobs of one priority the older goes first, instead of all in turn."""
    inter_node: int
    """Its nodes may talk to each other (enableInterNodeCommunication)."""

    @property
    def takes_gangs(self) -> bool:
        """True when multi-instance tasks run there (contract 3.10); elsewhere they wait for ever."""
        return bool(self.inter_node) and self.slots_per_node == 1


class PoolView(PoolRow):
    """A pool and how many nodes it has."""

    current_dedicated: int
    current_low_priority: int


class PoolRoom(msgspec.Struct):
    """What placement has to know of a pool."""

    pk: int
    id: str
    state: PoolState
    slots_per_node: int
    pack: int
    oldest_first: int
    nodes: int
    """How many it has."""
    inter_node: int

    @property
    def takes_gangs(self) -> bool:
        """True when multi-instance tasks run there (contract 3.10); elsewhere they wait for ever."""
        return bool(self.inter_node) and self.slots_per_node == 1


class _Asked(msgspec.Struct, rename="camel"):
    """What lists of pools are filtered by and only the body has."""

    vm_size: str | None = None
    enable_auto_scale: bool | None = None
    enable_inter_node_communication: bool | None = None


_asked = msgspec.json.Decoder(_Asked)
_LOOKED_AT = 2_000
"""Pools that a page by `$filter` looks at."""
_VIEWED = (
    f"{columns(PoolRow, 'pool.')}, (SELECT count(*) FROM node WHERE node.pool_pk = pool.pk AND dedicated = 1),"
    " (SELECT count(*) FROM node WHERE node.pool_pk = pool.pk AND dedicated = 0)"
)
ROWS = Versioned("pool", PoolView, returning=_VIEWED, states=("state", "allocation_state"))
_VIEW = f"SELECT {_VIEWED} FROM pool"
_BY_ID = Statement(f"{_VIEW} WHERE lower(id) = :key", PoolView)
_BY_PK = Statement(f"{_VIEW} WHERE pool.pk = :pk", PoolView)
_ROOM = (
    "SELECT pk, id, state, slots_per_node, pack, oldest_first, (SELECT count(*) FROM node WHERE node.pool_pk = pool.pk), inter_node"
    " FROM pool"
)
_ROOM_BY_ID = Statement(f"{_ROOM} WHERE lower(id) = :key", PoolRoom)
_ROOM_BY_PK = Statement(f"{_ROOM} WHERE pool.pk = :pk", PoolRoom)
_PAGE = Statement(f"{_VIEW} WHERE pk > :after ORDER BY pk LIMIT :n", PoolView)
_ALL = Statement(f"{_VIEW} ORDER BY pk", PoolView)
_COUNT = Statement("SELECT count(*) FROM pool", int)
_SCALED = Statement(f"{_VIEW} WHERE autoscale_next IS NOT NULL ORDER BY autoscale_next", PoolView)
_DELETE = Change("DELETE FROM pool WHERE pk = :pk")
_DELETE_SAMPLES = Change("DELETE FROM autoscale_sample WHERE pool_pk = :pk")
_DELETE_RUNS = Change("DELETE FROM autoscale_run WHERE pool_pk = :pk")


_content = msgspec.json.Decoder(PoolCreateContent)


def content(body: bytes) -> PoolCreateContent:
    """What a client said of a pool, out of the JSON of its row; the caller's own, to be changed as it likes."""
    return _content.decode(body)


def find(reader: Reader, pool_id: str) -> PoolView | None:
    """Pool by id, case-insensitively."""
    return reader.first(_BY_ID, key=pool_id.lower())


def get(reader: Reader, pk: int) -> PoolView | None:
    """Pool by key."""
    return reader.first(_BY_PK, pk=pk)


def find_room(reader: Reader, pool_id: str) -> PoolRoom | None:
    """Pool by id, case-insensitively, as placement sees it."""
    return reader.first(_ROOM_BY_ID, key=pool_id.lower())


def room(reader: Reader, pk: int) -> PoolRoom | None:
    """Pool by key, as placement sees it."""
    return reader.first(_ROOM_BY_PK, pk=pk)


def page(reader: Reader, after: int, n: int) -> list[PoolView]:
    """The next `n` pools behind key `after`, in the order they were added."""
    return reader.all(_PAGE, after=after, n=n)


def filtered(reader: Reader, found: Filter | None, after: int, most: int) -> Page[PoolView]:
    """At most `most` pools behind key `after` that are asked for, in the order they were added."""
    return sift(
        lambda behind, n: page(reader, behind, n),
        lambda row: found is None or matches(found, _properties(row).__getitem__),
        by_key,
        after,
        most,
        most + 1 if found is None else _LOOKED_AT,
    )


def _properties(row: PoolView) -> dict[str, object]:
    body = _asked.decode(row.body)
    return {
        "id": row.id,
        "state": row.state,
        "stateTransitionTime": row.state_time,
        "allocationState": row.allocation_state,
        "allocationStateTransitionTime": row.allocation_time,
        "creationTime": row.created,
        "lastModified": row.modified,
        "vmSize": body.vm_size,
        "enableAutoScale": bool(body.enable_auto_scale),
        "enableInterNodeCommunication": bool(body.enable_inter_node_communication),
    }


def every(reader: Reader) -> list[PoolView]:
    """All pools."""
    return reader.all(_ALL)


def count(reader: Reader) -> int:
    """How many pools there are."""
    return reader.first(_COUNT) or 0


def scaled(reader: Reader) -> list[PoolView]:
    """Pools whose size a formula decides, who is due first."""
    return reader.all(_SCALED)


def add(tx: Tx, **values: Any) -> int:
    """Insert a pool; its key."""
    return tx.insert("pool", **values)


def move(tx: Tx, pool: PoolRow, **changes: Any) -> PoolView:
    """Change a pool, but for its states, that nobody changed since it was read; the pool as it is then."""
    return tx.move(ROWS, pool, changes)


def set_state(tx: Tx, pool: PoolRow, changes: Mapping[str, Any]) -> PoolView:
    """The same with its states, for `engine.changes` alone."""
    return tx.set_state(ROWS, pool, changes)


def delete(tx: Tx, pk: int) -> None:
    """Remove a pool whose nodes are gone."""
    tx.change(_DELETE_SAMPLES, pk=pk)
    tx.change(_DELETE_RUNS, pk=pk)
    joining.forget(tx, pk, joining.ALL)
    tx.change(_DELETE, pk=pk)
