"""Rows of join tokens, and of the joins that were made with them."""

from __future__ import annotations

from typing import Any

import msgspec

from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Conflict, Tx

ALL = 1 << 62
"""A time that everything ends before."""


class TokenRow(msgspec.Struct):
    """A row of `join_token`."""

    pk: int
    id: str
    pool_pk: int
    hash: str
    uses: int
    uses_left: int
    created: int
    expires: int
    revoked: int | None
    version: int


_COLUMNS = columns(TokenRow)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM join_token WHERE id = :id", TokenRow)
_OF_POOL = Statement(f"SELECT {_COLUMNS} FROM join_token WHERE pool_pk = :pool_pk ORDER BY pk LIMIT :n", TokenRow)
_COUNT = Statement("SELECT count(*) FROM join_token WHERE pool_pk = :pool_pk", int)
_USE = Change("UPDATE join_token SET uses_left = uses_left - 1, version = version + 1 WHERE pk = :pk AND uses_left > 0 AND revoked IS NULL")
_REVOKE = Change("UPDATE join_token SET revoked = :now, version = version + 1 WHERE pk = :pk AND revoked IS NULL")
_JOINED = Statement("SELECT node_pk FROM node_join WHERE token_pk = :token_pk AND name = :name", int)
_IS_JOINED = Statement("SELECT 1 FROM node_join WHERE node_pk = :node_pk LIMIT 1", int)
_ENDED = "FROM join_token WHERE pool_pk = :pool_pk AND (expires < :before OR revoked < :before)"
_FORGET_JOINS = Change(f"DELETE FROM node_join WHERE token_pk IN (SELECT pk {_ENDED})")
_FORGET = Change(f"DELETE {_ENDED}")


def find(reader: Reader, token_id: str) -> TokenRow | None:
    """Token by its id."""
    return reader.first(_BY_ID, id=token_id)


def of_pool(reader: Reader, pool_pk: int, n: int) -> list[TokenRow]:
    """The first `n` tokens of a pool, the oldest first."""
    return reader.all(_OF_POOL, pool_pk=pool_pk, n=n)


def count(reader: Reader, pool_pk: int) -> int:
    """How many tokens a pool has, with those that are good for nothing any more."""
    return reader.first(_COUNT, pool_pk=pool_pk) or 0


def add(tx: Tx, **values: Any) -> int:
    """Insert a token; its key."""
    return tx.insert("join_token", **values)


def use(tx: Tx, pk: int) -> None:
    """Use a token once. Raises Conflict when it has no use left, whatever was seen before."""
    if tx.changed(_USE, pk=pk) != 1:
        raise Conflict(f"join token {pk} has no use left")


def revoke(tx: Tx, pk: int, now: int) -> None:
    """Have a token be good for nothing."""
    tx.change(_REVOKE, pk=pk, now=now)


def joined(reader: Reader, token_pk: int, name: str) -> int | None:
    """Key of the node that a join of this name made or took."""
    return reader.first(_JOINED, token_pk=token_pk, name=name)


def is_joined(reader: Reader, node_pk: int) -> bool:
    """True when a machine has joined as this node."""
    return reader.first(_IS_JOINED, node_pk=node_pk) is not None


def note(tx: Tx, token_pk: int, name: str, node_pk: int) -> None:
    """Note which node a join made or took."""
    tx.insert("node_join", token_pk=token_pk, name=name, node_pk=node_pk)


def forget(tx: Tx, pool_pk: int, before: int) -> None:
    """Remove tokens of a pool that ended before a time, with the joins made by them."""
    tx.change(_FORGET_JOINS, pool_pk=pool_pk, before=before)
    tx.change(_FORGET, pool_pk=pool_pk, before=before)
