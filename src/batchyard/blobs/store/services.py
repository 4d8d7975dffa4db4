"""What is set for the services of storage accounts, in the catalogue of blobs and in that of queues."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from batchyard.blobs.services import NOTHING, Properties
from batchyard.blobs.store.catalogue import Catalogue

TABLE = "CREATE TABLE services (account TEXT PRIMARY KEY, properties TEXT NOT NULL)"
_decode = msgspec.json.Decoder(Properties).decode


def properties_of(tx: sqlite3.Connection, account: str) -> Properties:
    """What is set for an account's service."""
    row = tx.execute("SELECT properties FROM services WHERE account = ?", (account,)).fetchone()
    return NOTHING if row is None else _decode(row["properties"])


class Services:
    """The part of a store that is about these."""

    _catalogue: Catalogue

    def properties(self, account: str) -> Properties:
        """What is set for an account's service."""
        with self._catalogue.reading() as tx:
            return properties_of(tx, account)

    def set_properties(self, account: str, change: Callable[[Properties], Properties]) -> None:
        """Replace what is set by what `change` makes of it, which may raise."""

        def work(tx: sqlite3.Connection) -> None:
            text = msgspec.json.encode(change(properties_of(tx, account))).decode()
            sql = (
                "INSERT INTO services (account, properties) VALUES (?, ?)"
                " ON CONFLICT (account) DO UPDATE SET properties = excluded.properties"
            )
            tx.execute(sql, (account, text))

        self._catalogue.write(work)
