"""The servers that share a registry: which of them live, and which worlds each has open."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchyard.store import accounts
from batchyard.store.accounts import AccountRow
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx

TOPIC = "servers"
"""Wakes those who follow which servers there are."""
FOR_EVER = 2**62
"""`seen` of a server that shares its registry with nobody."""


class ServerRow(msgspec.Struct, frozen=True):
    """A server, and how many nodes its machine has room for."""

    id: str
    life: str
    url: str
    free: int
    seen: int
    """By the database's clock, microseconds since 1970; 0 once it has left."""


_COLUMNS = columns(ServerRow)
_EVERY = Statement(f"SELECT {_COLUMNS} FROM server ORDER BY pk", ServerRow)
_BEGIN = Change(
    "INSERT INTO server (id, life, url, free, seen) VALUES (:id, :life, :url, :free, :seen)"
    " ON CONFLICT (id) DO UPDATE SET life = :life, url = :url, free = :free, seen = :seen"
)
_BEAT = Change("UPDATE server SET free = :free, seen = :seen WHERE id = :id AND life = :life")
_LEAVE = Change("UPDATE server SET seen = 0 WHERE id = :id AND life = :life")
_OWN = Statement(f"SELECT {_COLUMNS} FROM server WHERE id = :id", ServerRow)
_OPEN = Change("INSERT INTO opening (account_pk, server) VALUES (:pk, :server) ON CONFLICT (account_pk, server) DO NOTHING")
_CLOSE = Change("DELETE FROM opening WHERE account_pk = :pk AND server = :server")
_CLOSE_ALL = Change("DELETE FROM opening WHERE server = :server")
_NO_SERVERS, _NO_OPENINGS = Change("DELETE FROM server"), Change("DELETE FROM opening")
_FORGET = Change("DELETE FROM opening WHERE account_pk = :pk")
_ELSEWHERE = Statement(
    "SELECT server.id FROM opening JOIN server ON server.id = opening.server"
    " WHERE opening.account_pk = :pk AND server.id <> :server AND server.seen > :alive",
    str,
)
_LEFT_BEHIND = Change(
    "UPDATE account SET due = 0, version = version + 1 WHERE (due IS NULL OR due <> 0) AND pk IN"
    " (SELECT account_pk FROM opening WHERE server = :server)"
)


def every(reader: Reader) -> list[ServerRow]:
    """All servers that ever shared the registry."""
    return reader.all(_EVERY)


def begin(tx: Tx, server: str, life: str, url: str, free: int, *, alone: bool) -> None:
    """A server begins a life: whatever it had open in an earlier one is closed; for one that is alone, what anybody had."""
    if alone:
        tx.change(_NO_SERVERS)
        tx.change(_NO_OPENINGS)
    tx.change(_BEGIN, id=server, life=life, url=url, free=free, seen=FOR_EVER if alone else tx.moment())
    tx.change(_CLOSE_ALL, server=server)
    tx.wake(TOPIC)


class Beat(NamedTuple):
    """What a server hears when it says that it lives."""

    there: bool
    """False when another process has taken its place."""
    missed: bool
    """It was taken for gone meanwhile."""


def beat(tx: Tx, server: str, life: str, free: int, life_us: int) -> Beat:
    """A server lives.

    One that said nothing for the time of a lease was taken for gone: the worlds that it has open are noted as such once more.
    """
    now = tx.moment()
    own = tx.first(_OWN, id=server)
    if own is None or own.life != life:
        return Beat(there=False, missed=False)
    missed = own.seen <= now - life_us
    tx.change(_BEAT, id=server, life=life, free=free, seen=now)
    if missed:
        tx.change(_LEFT_BEHIND, server=server)
        tx.wake(TOPIC)
    return Beat(there=True, missed=missed)


def leave(tx: Tx, server: str, life: str) -> None:
    """A server ends; what it had open is not open any more."""
    tx.change(_LEAVE, id=server, life=life)
    tx.change(_CLOSE_ALL, server=server)
    tx.wake(TOPIC)


def open_world(tx: Tx, pk: int, server: str, life_us: int, *, unless_elsewhere: bool = False) -> AccountRow | None:
    """Note that a server has a world open; None when the account is gone, or when another server has it open and that will do."""
    row = accounts.get(tx, pk)
    if row is None or (unless_elsewhere and open_elsewhere(tx, pk, server, life_us)):
        return None
    tx.change(_OPEN, pk=pk, server=server)
    return accounts.change(tx, row, {"due": 0}) if row.state == accounts.ACTIVE else row


def close_world(tx: Tx, seen: AccountRow, server: str, life_us: int, due: int | None) -> None:
    """Note that a server has closed a world, in which something is due at `due` as far as it saw.

    That holds when no other server has the world open, and none had since the account's row was seen; else the world is opened again.
    """
    tx.change(_CLOSE, pk=seen.pk, server=server)
    row = accounts.get(tx, seen.pk)
    if row is None or open_elsewhere(tx, seen.pk, server, life_us):
        return
    if row.state == accounts.ACTIVE:
        accounts.change(tx, row, {"due": due if row.version == seen.version else 0})


def open_elsewhere(reader: Reader, pk: int, server: str, life_us: int) -> bool:
    """True while another server that lives has a world open."""
    return reader.first(_ELSEWHERE, pk=pk, server=server, alive=reader.moment() - life_us) is not None


def forget_openings(tx: Tx, pk: int) -> None:
    """The world of an account is no more."""
    tx.change(_FORGET, pk=pk)
