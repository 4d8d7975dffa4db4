"""Under which URLs the services of a storage account are reached."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class Ways(NamedTuple):
    """How clients reach the storage of a server."""

    url: str
    """The server's, without a slash at its end."""
    domain: str | None = None
    """Domain of host names, where there is one."""
    queue: str | None = None
    """URL of the port of the Queue service alone, where it has one."""
    table: str | None = None
    """The same of the Table service, which is refused there."""


class Endpoints(NamedTuple):
    """The services of one account; blobs and files have the same addresses, but for host names."""

    blob: str
    dfs: str
    queue: str
    table: str


def endpoints(ways: Ways, account: str) -> Endpoints:
    """Of a storage account: by host name where there is a domain, else by path, or on the service's own port."""
    if ways.domain is not None:
        parts = urlsplit(ways.url)
        port = f":{parts.port}" if parts.port else ""
        return Endpoints(*(f"{parts.scheme}://{account}.{service}.{ways.domain}{port}" for service in Endpoints._fields))
    blob = f"{ways.url}/{account}"
    return Endpoints(blob, blob, f"{ways.queue or f'{ways.url}/queue'}/{account}", f"{ways.table or f'{ways.url}/table'}/{account}")


def connection_string(found: Endpoints, account: str, key: str) -> str:
    """What clients of the storage services take; of one that it did not name a client would ask the public cloud."""
    named = f"BlobEndpoint={found.blob};QueueEndpoint={found.queue};TableEndpoint={found.table};FileEndpoint={found.blob};"
    return f"DefaultEndpointsProtocol={found.blob.partition(':')[0]};AccountName={account};AccountKey={key};{named}"
