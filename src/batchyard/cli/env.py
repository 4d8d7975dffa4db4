"""`batchyard env`: what points other clients at a server, as lines that a shell takes; for a named client with the lines to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from batchyard.cli import daemon, server, trust
from batchyard.cli.client import Client
from batchyard.cli.connect import ACCOUNTS, operator
from batchyard.model.endpoints import Endpoints, Ways, endpoints


class Hint(NamedTuple):
    """What a client wants beside the common variables."""

    lines: tuple[str, str]
    """Two lines to paste, with {endpoint}, {account}, {key}, {storage}, {storage_key} and {blob} filled in."""
    more: Mapping[str, str]
    """Variables of its own."""
    note: str = ""


_PYTHON = 'os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"]'
HINTS: Mapping[str, Hint] = {
    "sdk15": Hint(
        (
            "import os; from azure.batch import BatchClient; from azure.core.credentials import AzureNamedKeyCredential",
            f'batch = BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], AzureNamedKeyCredential({_PYTHON}))',
        ),
        {},
    ),
    "sdk14": Hint(
        (
            "import os; from azure.batch import BatchServiceClient; from azure.batch.batch_auth import SharedKeyCredentials",
            f'batch = BatchServiceClient(SharedKeyCredentials({_PYTHON}), batch_url=os.environ["AZURE_BATCH_ENDPOINT"])',
        ),
        {},
    ),
    "az": Hint(("az batch pool list --output table", "az storage container list --output table"), {}),
    "javascript": Hint(
        (
            'import {{ BatchServiceClient, BatchSharedKeyCredentials }} from "@azure/batch"; const {{ env }} = process;',
            "const batch = new BatchServiceClient(new BatchSharedKeyCredentials(env.AZURE_BATCH_ACCOUNT, env.AZURE_BATCH_ACCESS_KEY), "
            "env.AZURE_BATCH_ENDPOINT);",
        ),
        {},
    ),
    "dotnet": Hint(
        (
            'var credential = new Azure.AzureNamedKeyCredential("{account}", "{key}");',
            'var batch = new Azure.Compute.Batch.BatchClient(new Uri("{endpoint}"), credential);',
        ),
        {},
        "untested: no .NET program was run against this server",
    ),
    "java": Hint(
        (
            'var credential = new com.azure.core.credential.AzureNamedKeyCredential("{account}", "{key}");',
            'var batch = new com.azure.compute.batch.BatchClientBuilder().endpoint("{endpoint}").credential(credential).buildClient();',
        ),
        {},
        "untested: no Java program was run against this server",
    ),
    "nextflow": Hint(
        (
            "process.executor = 'azurebatch'; workDir = 'az://work/nextflow'",
            "azure.batch.endpoint = '{endpoint}'; azure.batch.autoPoolMode = false",
        ),
        {
            "AZURE_BATCH_ACCOUNT_NAME": "{account}",
            "AZURE_BATCH_ACCOUNT_KEY": "{key}",
            "AZURE_STORAGE_ACCOUNT_NAME": "{storage}",
            "AZURE_STORAGE_ACCOUNT_KEY": "{storage_key}",
        },
        "untested; it looks for blobs at {storage}.blob.core.windows.net, and it runs containers",
    ),
    "snakemake": Hint(
        ("snakemake --executor azure-batch --azure-batch-account-url {endpoint} \\", "    --default-storage-provider azure"),
        {"AZ_BATCH_ACCOUNT_URL": "{endpoint}", "AZ_BATCH_ACCOUNT_KEY": "{key}", "AZ_BLOB_ACCOUNT_URL": "{blob}"},
        "untested; its plugin wants Entra tokens and the management plane, which are not there yet",
    ),
    "airflow": Hint(
        (
            "from airflow.providers.microsoft.azure.operators.batch import AzureBatchOperator",
            'task = AzureBatchOperator(task_id="t", azure_batch_conn_id="azure_batch_default", batch_pool_id="p", batch_job_id="j", ...)',
        ),
        {"AIRFLOW_CONN_AZURE_BATCH_DEFAULT": "connection"},
        "untested: no Airflow was run against this server",
    ),
}
"""By the names that --for takes."""


def env(*, directory: Path | None, account: str | None, for_: str | None) -> None:
    """Print shell exports for the Azure SDKs and az batch: eval "$(batchyard env)"."""
    place = server.state_directory(directory)
    own, running = daemon.account(place), server.running(place)
    if account is None or account.lower() == own.name.lower():
        show(own, running.public, place, running, for_)
        return
    daemon.trust(place, running)
    with operator(running.url, place / "operator.key") as client:
        show(*of(client, client.get(*ACCOUNTS, account), running.public), place, running, for_)


def of(client: Client, shown: Mapping[str, Any], url: str) -> tuple[daemon.Account, str]:
    """An account with its keys, and its endpoint below the URL by which clients reach the server, asked by who may know them."""
    keys = client.get(*ACCOUNTS, shown["name"], "keys")
    found = daemon.Account(shown["name"], (keys["primary"], keys["secondary"]), shown["storageAccount"], keys["storageKey"])
    return found, url.rstrip("/") + urlsplit(shown["accountEndpoint"]).path.rstrip("/")


def show(account: daemon.Account, url: str, place: Path, running: daemon.Server | None, for_: str | None = None) -> None:
    """Print what points clients at an account; what they need to believe the server where it runs here."""
    root = url.removesuffix(f"/accounts/{account.name}")
    ways = running.ways(root) if running else Ways(root)
    values = {
        "endpoint": url,
        "account": account.name,
        "key": account.keys[0],
        "storage": account.storage_name,
        "storage_key": account.storage_key,
        "blob": endpoints(ways, account.storage_name).blob,
    }
    exports = {
        "AZURE_BATCH_ACCOUNT": account.name,
        "AZURE_BATCH_ACCESS_KEY": account.keys[0],
        "AZURE_BATCH_ENDPOINT": url,
        "AZURE_STORAGE_ACCOUNT": account.storage_name,
        "AZURE_STORAGE_KEY": account.storage_key,
        "AZURE_STORAGE_BLOB_ENDPOINT": values["blob"],
        "AZURE_STORAGE_CONNECTION_STRING": daemon.storage_connection_string(account, ways),
        **(trust.variables(place, running) if running else {}),
    }
    hint = HINTS[for_] if for_ else None
    for name, value in (hint.more if hint else {}).items():
        exports[name] = _connection(values) if value == "connection" else value.format(**values)
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")
    for line in _notes(place, running, endpoints(ways, account.storage_name)) if running else ():
        print(f"# {line}")
    if hint is not None:
        print(f"# {for_}: {hint.note.format(**values)}" if hint.note else f"# {for_}: paste these two lines")
        for line in hint.lines:
            print(f"# {line.format(**values)}")


def _notes(place: Path, running: daemon.Server, storage: Endpoints) -> Iterator[str]:
    """What no variable says."""
    if (authority := trust.authority(place, running)) is not None:
        yield f"Java: {trust.java(authority)}"
    name = urlsplit(storage.blob).hostname or ""
    if running.domain and not _resolves(name):
        all_of_them = " ".join(urlsplit(url).hostname or "" for url in storage[:3])
        yield f"{name} has no address here. As root: echo '127.0.0.1 {all_of_them}' >> /etc/hosts"
        if name.endswith(".localhost"):
            yield "or, for all names below localhost, install libnss-myhostname"


def _resolves(name: str) -> bool:
    import socket

    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _connection(values: Mapping[str, str]) -> str:
    """The connection that Airflow's operators use by default, in its JSON form."""
    found = {"conn_type": "azure_batch", "login": values["account"], "password": values["key"]}
    return json.dumps({**found, "extra": {"account_url": values["endpoint"]}})
