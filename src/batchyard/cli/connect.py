"""Which server a command talks to: what was given, else what the environment names, else the local server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchyard.cli import daemon
from batchyard.cli.problem import Problem
from batchyard.model.endpoints import Ways

if TYPE_CHECKING:
    from batchyard.cli.client import Client


ACCOUNTS = ("batchyard", "v1", "accounts")
"""Where a server's accounts are (docs/accounts.md)."""


class Address(NamedTuple):
    """A server, the account to use there, and its storage."""

    url: str
    account: str
    key: str
    storage: str | None
    """Connection string of the storage account, if one is known."""


def find(endpoint: str | None, account: str | None, key: str | None, directory: Path | None) -> Address:
    """The server that is meant. Raises Problem when it is not known well enough."""
    named = endpoint or (None if directory else os.environ.get("AZURE_BATCH_ENDPOINT"))
    if not named:
        return _of_one(local((directory or daemon.default_directory()).resolve()), account, key, directory)
    account = account or os.environ.get("AZURE_BATCH_ACCOUNT")
    key = key or os.environ.get("AZURE_BATCH_ACCESS_KEY")
    if not account or not key:
        raise Problem(f"account and key for {named} are missing; give --account and --key, or set AZURE_BATCH_ACCOUNT and _ACCESS_KEY")
    url = named if "://" in named else f"https://{named}"
    daemon.trust_named(url)
    return Address(url.rstrip("/"), account, key, os.environ.get("AZURE_STORAGE_CONNECTION_STRING"))


def _of_one(address: Address, account: str | None, key: str | None, directory: Path | None) -> Address:
    """The same server for the account that is named; its key is found where it lies below the state directory. Raises Problem."""
    if account is None or account.lower() == address.account.lower():
        return address if key is None else address._replace(key=key)
    place = (directory or daemon.default_directory()).resolve() / "accounts" / account.lower()
    url = f"{address.url}/accounts/{account.lower()}"
    if key is not None:
        return Address(url, account, key, None)
    if not account.isalnum() or not (place / "account.json").exists():
        raise Problem(f"the key of {account} is not known here; give --key, or see: batchyard account keys {account}")
    found = daemon.account(place)
    return Address(url, found.name, found.keys[0], daemon.storage_connection_string(found, Ways(address.url)))


def local(directory: Path) -> Address:
    """The running server of a state directory. Raises Problem."""
    server = daemon.running(directory)
    if server is None:
        raise Problem(
            f"no server of {directory} is running; start one with: batchyard up, or name another with --endpoint, --account and --key"
        )
    account = daemon.account(directory)
    daemon.trust(directory, server)
    return Address(server.url, account.name, account.keys[0], daemon.storage_connection_string(account, Ways(server.url)))


def operator(url: str, key_file: Path) -> Client:
    """A server as its operator sees it. Raises Problem."""
    from batchyard.cli.client import Client

    try:
        key = key_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no key"
        raise Problem(f"the operator's key {key_file} cannot be read ({why}); name it with --operator-key") from None
    return Client(url, "$operator", key)
