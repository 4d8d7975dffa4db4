"""Leases: who may do a thing that only one may do, and the fence that keeps out whoever had it before (decision D20)."""

from __future__ import annotations

from batchyard.store.reader import Change, Reader, Statement
from batchyard.store.tx import Tx

_ACQUIRE = Statement(
    "INSERT INTO lease (name, holder, until, fence) VALUES (:name, :holder, :until, 1) ON CONFLICT (name) DO UPDATE SET holder = :holder,"
    " until = :until, fence = lease.fence + CASE WHEN lease.holder = :holder AND lease.fence = :fence THEN 0 ELSE 1 END"
    " WHERE lease.until <= :now OR (lease.holder = :holder AND (:fence = 0 OR lease.fence = :fence)) RETURNING fence",
    int,
)
_RELEASE = Change("UPDATE lease SET until = 0 WHERE name = :name AND holder = :holder AND fence = :fence")
_UNTIL = Statement("SELECT until FROM lease WHERE name = :name", int)
_HELD = Statement("SELECT 1 FROM lease WHERE name = :name AND fence = :fence", int)


class LeaseLost(Exception):
    """Another one took the lease meanwhile."""


def acquire(tx: Tx, name: str, holder: str, now: int, seconds: float, fence: int = 0) -> int | None:
    """Take or renew a lease; its fence, a higher number each time that it is taken. None while somebody else holds it.

    `fence` is that of who renews. With 0 a holder that was started anew goes on at once, and its earlier life is fenced off.
    """
    return tx.first(_ACQUIRE, name=name, holder=holder, until=now + int(seconds * 1_000_000), now=now, fence=fence)


def until(tx: Reader, name: str) -> int:
    """When the lease runs out by itself; 0 when nobody has it."""
    return tx.first(_UNTIL, name=name) or 0


def check(tx: Reader, name: str, fence: int) -> None:
    """Go on only while nobody took the lease since it had this fence. Raises LeaseLost."""
    if tx.first(_HELD, name=name, fence=fence) is None:
        raise LeaseLost(name)


def release(tx: Tx, name: str, holder: str, fence: int) -> None:
    """Give a lease back, if it is held; the row stays, for no fence is given twice."""
    tx.change(_RELEASE, name=name, holder=holder, fence=fence)
