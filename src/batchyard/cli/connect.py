"""Which server a command talks to: what was given, else what the environment names, else the local server.

`connected` gives a command the four options that say so, and hands it a client.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from batchyard.cli import daemon
from batchyard.cli.client import Client
from batchyard.cli.problem import Problem


@dataclass(frozen=True)
class Address:
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
        return local((directory or daemon.default_directory()).resolve())
    account = account or os.environ.get("AZURE_BATCH_ACCOUNT")
    key = key or os.environ.get("AZURE_BATCH_ACCESS_KEY")
    if not account or not key:
        raise Problem(f"account and key for {named} are missing; give --account and --key, or set AZURE_BATCH_ACCOUNT and _ACCESS_KEY")
    url = named if "://" in named else f"https://{named}"
    return Address(url.rstrip("/"), account, key, os.environ.get("AZURE_STORAGE_CONNECTION_STRING"))


def local(directory: Path) -> Address:
    """The running server of a state directory. Raises Problem."""
    server = daemon.running(directory)
    if server is None:
        raise Problem(
            f"no server of {directory} is running; start one with: batchyard up, or name another with --endpoint, --account and --key"
        )
    account = daemon.account(directory)
    return Address(server.url, account.name, account.keys[0], daemon.storage_connection_string(account, server.url))


_OPTIONS = {
    "endpoint": (str, typer.Option("--endpoint", help="URL of the server.", show_default="$AZURE_BATCH_ENDPOINT")),
    "account": (str, typer.Option("--account", help="Batch account.", show_default="$AZURE_BATCH_ACCOUNT")),
    "key": (str, typer.Option("--key", help="Key of the account.", show_default="$AZURE_BATCH_ACCESS_KEY")),
    "directory": (Path, typer.Option("--dir", help="State directory of a local server.", show_default="$BATCHYARD_DIR")),
}


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that name a server in place of its first parameter, the client."""
    [_, *own] = inspect.signature(command, eval_str=True).parameters.values()

    def run(**given: Any) -> None:
        address = find(*(given.pop(name) for name in _OPTIONS))
        with Client(address.url, address.account, address.key, address.storage) as client:
            command(client, **given)

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
        for name, (kind, option) in _OPTIONS.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
    return run
