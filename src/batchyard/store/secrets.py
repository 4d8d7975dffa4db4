"""What lets callers in, kept in the database where several servers have to know the same; who can read the database can read it."""

from __future__ import annotations

from batchyard.store.reader import Change, Reader, Statement
from batchyard.store.tx import Tx

_FIND = Statement("SELECT content FROM secret WHERE name = :name", str)
_FIRST = Change("INSERT INTO secret (name, content) VALUES (:name, :content) ON CONFLICT (name) DO NOTHING")
_KEEP = Change("INSERT INTO secret (name, content) VALUES (:name, :content) ON CONFLICT (name) DO UPDATE SET content = :content")


def find(reader: Reader, name: str) -> str | None:
    """A secret; None when there is none of that name."""
    return reader.first(_FIND, name=name)


def first(tx: Tx, name: str, content: str) -> str:
    """Keep a secret unless there is one already; the one that holds."""
    tx.change(_FIRST, name=name, content=content)
    return find(tx, name) or content


def keep(tx: Tx, name: str, content: str) -> None:
    """Keep a secret in the place of an earlier one."""
    tx.change(_KEEP, name=name, content=content)
