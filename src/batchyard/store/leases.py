"""Leases: who may do a thing that only one may do."""

from __future__ import annotations

from batchyard.store.reader import Change, Statement
from batchyard.store.tx import Tx

_ACQUIRE = Statement(
    "INSERT INTO lease (name, holder, until) VALUES (:name, :holder, :until) ON CONFLICT (name) DO UPDATE SET holder = :holder,"
    " until = :until WHERE lease.holder = :holder OR lease.until <= :now RETURNING holder",
    str,
)
_RELEASE = Change("DELETE FROM lease WHERE name = :name AND holder = :holder")


def acquire(tx: Tx, name: str, holder: str, now: int, seconds: float) -> bool:
    """Take or renew a lease; False while somebody else holds it."""
    return tx.first(_ACQUIRE, name=name, holder=holder, until=now + int(seconds * 1_000_000), now=now) is not None


def release(tx: Tx, name: str, holder: str) -> None:
    """Give a lease back, if it is held."""
    tx.change(_RELEASE, name=name, holder=holder)
