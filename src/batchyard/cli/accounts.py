"""`batchyard account`: the operator makes, limits and removes accounts; an account sees itself and renews its keys (docs/accounts.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchyard.cli import connect, daemon, env, output, tables
from batchyard.cli.client import Client
from batchyard.cli.connect import ACCOUNTS
from batchyard.cli.problem import Usage
from batchyard.cli.streams import confirmed

if TYPE_CHECKING:
    from collections.abc import Iterator

Given = Mapping[str, Any]
_QUOTAS = {
    "pools": "poolQuota",
    "jobs": "activeJobAndJobScheduleQuota",
    "cores": "dedicatedCoreQuota",
    "spot_cores": "lowPriorityCoreQuota",
}


@contextmanager
def as_operator(connection: Given, key_file: Path | None) -> Iterator[Client]:
    """The server as its operator sees it. Raises Problem."""
    directory: Path = (connection["directory"] or daemon.default_directory()).resolve()
    named = connection["endpoint"] or (None if connection["directory"] else os.environ.get("AZURE_BATCH_ENDPOINT"))
    if named:
        parts = urlsplit(named if "://" in named else f"https://{named}")
        url = f"{parts.scheme}://{parts.netloc}"
        daemon.trust_named(url)
    else:
        url = connect.local(directory).url
    named_file = os.environ.get("BATCHYARD_OPERATOR_KEY")
    with connect.operator(url, key_file or (Path(named_file) if named_file else directory / "operator.key")) as client:
        yield client


@contextmanager
def _asking(connection: Given, key_file: Path | None, name: str | None) -> Iterator[tuple[Client, str]]:
    """Whom to ask for an account, and its name: itself with its own key; the operator for another one that is named."""
    if name is not None and (connection["account"] or "").lower() != name.lower():
        with as_operator(connection, key_file) as client:
            yield client, name
        return
    address = connect.find(**connection)
    with Client(address.url, address.account, address.key) as client:
        yield client, address.account


def _wanted(values: Mapping[str, str | None]) -> dict[str, int | None]:
    """Quotas by the service's names; `none` takes one back. Raises Usage."""
    wanted: dict[str, int | None] = {}
    for name, text in values.items():
        if text is not None and text != "none" and not text.isdecimal():
            raise Usage(f"--{name.replace('_', '-')} takes a whole number, or none for the server's own")
        if text is not None:
            wanted[_QUOTAS[name]] = None if text == "none" else int(text)
    return wanted


def create(
    *,
    name: str,
    location: Path | None,
    pools: str | None,
    jobs: str | None,
    cores: str | None,
    spot_cores: str | None,
    connection: Given,
    operator_key: Path | None,
) -> None:
    """Make an account with a world of its own."""
    quotas = _wanted({"pools": pools, "jobs": jobs, "cores": cores, "spot_cores": spot_cores})
    body = {"name": name, "quotas": quotas} | ({} if location is None else {"location": str(location)})
    with as_operator(connection, operator_key) as client:
        made = client.post(*ACCOUNTS, body=body)
        place = (connection["directory"] or daemon.default_directory()).resolve()
        here = daemon.running(place)
        if here is not None and here.url != client.url:
            here = None
        env.show(*env.of(client, made, here.public if here else client.url), place, here)


def list_(*, connection: Given, operator_key: Path | None, shown: Given) -> None:
    """List all accounts."""
    with as_operator(connection, operator_key) as client:
        output.show(lambda: client.raw(*ACCOUNTS), tables.ACCOUNTS, shown)


def show(*, name: str | None, connection: Given, operator_key: Path | None, shown: Given) -> None:
    """Show an account, its quotas and, to itself, what it takes of them."""
    with _asking(connection, operator_key, name) as (client, account):
        output.entries([client.get(*ACCOUNTS, account)], tables.ACCOUNTS, shown)


def keys(*, name: str | None, connection: Given, operator_key: Path | None) -> None:
    """Print both keys of an account."""
    with _asking(connection, operator_key, name) as (client, account):
        print_keys(client.get(*ACCOUNTS, account, "keys"))


def renew_key(*, which: str, name: str | None, connection: Given, operator_key: Path | None) -> None:
    """Put a new key in the place of one of the two."""
    with _asking(connection, operator_key, name) as (client, account):
        print_keys(client.post(*ACCOUNTS, account, "keys", which, "renew"))


def quota(
    *,
    name: str,
    pools: str | None,
    jobs: str | None,
    cores: str | None,
    spot_cores: str | None,
    connection: Given,
    operator_key: Path | None,
    shown: Given,
) -> None:
    """Limit an account."""
    wanted = _wanted({"pools": pools, "jobs": jobs, "cores": cores, "spot_cores": spot_cores})
    if not wanted:
        raise Usage("say what to limit: --pools, --jobs, --cores, --spot-cores")
    with as_operator(connection, operator_key) as client:
        client.change("PATCH", *ACCOUNTS, name, "quotas", body=wanted)
        output.entries([client.get(*ACCOUNTS, name)], tables.ACCOUNTS, shown)


def delete(*, names: Sequence[str], yes: bool | None, connection: Given, operator_key: Path | None) -> None:
    """Delete accounts with all they have and run."""
    with as_operator(connection, operator_key) as client:
        for name in names:
            client.get(*ACCOUNTS, name)
        confirmed(f"Delete {', '.join(names)} with all pools, jobs and blobs?", yes=bool(yes))
        for name in names:
            client.delete(*ACCOUNTS, name)
            print(f"{name} is being deleted")


def print_keys(found: Mapping[str, Any]) -> None:
    """Print both keys of something."""
    print(f"primary    {found['primary']}\nsecondary  {found['secondary']}")
