"""`batchyard storage-account`: the operator makes and removes storage accounts; an account shows its linked one and renews its keys."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchyard.cli import connect, output, tables
from batchyard.cli.accounts import as_operator, print_keys
from batchyard.cli.client import Client
from batchyard.cli.streams import confirmed
from batchyard.model.endpoints import Endpoints, connection_string

Given = Mapping[str, Any]
STORAGE = ("batchyard", "v1", "storageaccounts")
"""Where a server's storage accounts are (docs/storage.md)."""


def create(*, name: str, lies_with: str | None, connection: Given, operator_key: Path | None) -> None:
    """Make a storage account."""
    with as_operator(connection, operator_key) as client:
        made = client.post(*STORAGE, body={"name": name} | ({} if lies_with is None else {"account": lies_with}))
        key = client.get(*STORAGE, name, "keys")["primary"]
    found = Endpoints(**made["endpoints"])
    exports = {
        "AZURE_STORAGE_ACCOUNT": name,
        "AZURE_STORAGE_KEY": key,
        "AZURE_STORAGE_BLOB_ENDPOINT": found.blob,
        "AZURE_STORAGE_CONNECTION_STRING": connection_string(found, name, key),
    }
    for variable, value in exports.items():
        print(f"export {variable}={shlex.quote(value)}")


def list_(*, connection: Given, operator_key: Path | None, shown: Given) -> None:
    """List all storage accounts."""
    with as_operator(connection, operator_key) as client:
        output.show(lambda: client.raw(*STORAGE), tables.STORAGE, shown)


@contextmanager
def _asking(connection: Given, key_file: Path | None) -> Iterator[Client]:
    """Whom to ask: an account that is named, or that the environment names by its key; else the operator."""
    if connection["account"] is None and connection["key"] is None:
        with as_operator(connection, key_file) as client:
            yield client
        return
    address = connect.find(**connection)
    with Client(address.url, address.account, address.key) as client:
        yield client


def show(*, name: str, connection: Given, operator_key: Path | None, shown: Given) -> None:
    """Show a storage account."""
    with _asking(connection, operator_key) as client:
        output.entries([client.get(*STORAGE, name)], tables.STORAGE, shown)


def keys(*, name: str, connection: Given, operator_key: Path | None) -> None:
    """Print both keys."""
    with _asking(connection, operator_key) as client:
        print_keys(client.get(*STORAGE, name, "keys"))


def renew_key(*, which: str, name: str, connection: Given, operator_key: Path | None) -> None:
    """Put a new key in the place of one of the two."""
    with _asking(connection, operator_key) as client:
        print_keys(client.post(*STORAGE, name, "keys", which, "renew"))


def delete(*, names: Sequence[str], yes: bool | None, connection: Given, operator_key: Path | None) -> None:
    """Delete storage accounts with all they hold."""
    with as_operator(connection, operator_key) as client:
        for name in names:
            client.get(*STORAGE, name)
        confirmed(f"Delete {', '.join(names)} with all blobs and queues?", yes=bool(yes))
        for name in names:
            client.delete(*STORAGE, name)
            print(f"{name} is being deleted")
