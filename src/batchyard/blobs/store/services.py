"""What is set for the services of storage accounts, in the catalogue of blobs and in that of queues."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from batchyard.blobs.services import NOTHING, Properties
from batchyard.blobs.store.catalogue import Catalogue
from batchyard.drivers.base import Answer, Connection

_decode = msgspec.json.Decoder(Properties).decode


def asked_for(tx: Connection, account: str) -> Answer:
    """What `properties_in` reads, for who asks for more at once."""
    return tx.execute("SELECT properties FROM services WHERE account = ?", (account,))


def properties_in(answer: Answer) -> Properties:
    """What is set for an account's service, of what was asked for."""
    row = answer.fetchone()
    return NOTHING if row is None else _decode(row["properties"])


def properties_of(tx: Connection, account: str) -> Properties:
    """What is set for an account's service."""
    return properties_in(asked_for(tx, account))


class Services:
    """The part of a store that is about these."""

    _catalogue: Catalogue

    def properties(self, account: str) -> Properties:
        """What is set for an account's service."""
        with self._catalogue.reading() as tx:
            return properties_of(tx, account)

    def set_properties(self, account: str, change: Callable[[Properties], Properties]) -> None:
        """Replace what is set by what `change` makes of it, which may raise."""

        def work(tx: Connection) -> None:
            text = msgspec.json.encode(change(properties_of(tx, account))).decode()
            sql = (
                "INSERT INTO services (account, properties) VALUES (?, ?)"
                " ON CONFLICT (account) DO UPDATE SET properties = excluded.properties"
            )
            tx.execute(sql, (account, text))

        self._catalogue.write(work)
