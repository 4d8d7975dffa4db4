"""Talking to blob storage and web servers, shared by staging and upload. Everything here blocks: call it in a thread."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from batchyard.agent.transfer.small import Small

if TYPE_CHECKING:
    import httpx
    from azure.storage.blob import ContainerClient

CHUNK = 1 << 20
NAMES = 5000
"""Blobs on a page of a listing: as many as are held in memory of a container, however many it has."""
_ANSWERS = (200, 206, 304, 412, 416)
_PART = 4 << 20
_CONNECT_S, _READ_S = 20, 60
PAUSES_S = (0.25, 0.5, 1, 2, 4, 5, 5, 5, 5)
"""Pauses before a request is made again that failed for a passing reason: 28 s in all."""
SLOW_TRIES = 3
"""How often a request is made whose time ran out."""

for noisy in ("httpx", "httpcore", "azure"):
    logging.getLogger(noisy).setLevel(logging.WARNING)  # at INFO they log whole URLs, signatures included


class Unreachable(Exception):
    """A transfer failed: by HTTP status (0 when there was no answer), or because time ran out."""

    def __init__(self, status: int, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.status, self.timed_out = status, timed_out

    @property
    def passing(self) -> bool:
        """True when another try may help."""
        return self.timed_out or self.status in (0, 408, 429) or self.status >= 500


@lru_cache(maxsize=1)
def web() -> httpx.Client:
    """The client for plain URLs; made when first needed, shared by all threads. Imports httpx, which is large.

    It keeps no cookies: what one task's URL was given would let another task's in.
    """
    import httpx

    nothing = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S), follow_redirects=True, cookies=nothing)


class Heard(NamedTuple):
    """An answer whose content is still to come."""

    status: int
    headers: Mapping[str, str]
    """Asked for in any case."""
    pieces: Iterator[bytes]
    """The content as it is stored, in whatever encoding. Raises Unreachable when it is cut off."""


@contextlib.contextmanager
def ask(url: str, headers: dict[str, str]) -> Iterator[Heard]:
    """Ask for a URL, or a part of it, or whether it changed; what else is answered, and what fails within, is raised as Unreachable."""
    import httpx

    try:
        with web().stream("GET", url, headers=headers) as answer:
            if answer.status_code not in _ANSWERS:
                raise Unreachable(answer.status_code, f"the server answered {answer.status_code} {answer.reason_phrase}")
            yield Heard(answer.status_code, answer.headers, answer.iter_raw(CHUNK))
    except httpx.TimeoutException as error:
        raise Unreachable(0, "the server did not answer in time", timed_out=True) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(400 if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL) else 0, type(error).__name__) from error


@lru_cache(maxsize=32)
def container(url: str) -> ContainerClient:
    """Client of the container that a URL (with SAS) names; imports the SDK. Raises Unreachable for what is no such URL.

    The same for all who use the URL, in any thread, with its connections: to make one costs as much as a small upload.
    """
    from azure.storage.blob import ContainerClient

    try:
        return ContainerClient.from_container_url(
            url,
            retry_total=0,  # what fails is tried again by us, in pauses that a kill ends
            connection_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            max_single_get_size=_PART,
            max_chunk_get_size=_PART,
            max_single_put_size=_PART,
            max_block_size=_PART,
        )
    except ValueError as error:
        raise Unreachable(400, "not the URL of a container") from error


def blob_url(container_url: str, name: str) -> str:
    """URL of a blob, signed as its container's."""
    where, question, signature = container_url.partition("?")
    return f"{where.rstrip('/')}/{quote(name, safe='~/')}{question}{signature}"


def pages(client: ContainerClient, prefix: str | None) -> Iterator[Iterator[str]]:
    """The listing of a container's blobs, for `page`."""
    return client.list_blob_names(name_starts_with=prefix or None, results_per_page=NAMES).by_page()


def page(listing: Iterator[Iterator[str]]) -> list[str] | None:
    """Names on the next page, None behind the last. Raises Unreachable, and may then be called again."""
    try:
        found = next(listing, None)
        return None if found is None else list(found)
    except Exception as error:
        raise _translated(error) from error


def check(url: str) -> None:
    """Raises Unreachable for what is no URL of a container; imports the SDK only where it could be none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not parts.path.strip("/"):
        container(url)


def small_blob(url: str, name: str, content: bytes, headers: dict[str, str]) -> Small | None:
    """A blob to be uploaded without the SDK, which is for small ones; None for one with headers that only `write_blob` knows."""
    settings, metadata, other = sort_headers(headers)
    said = {f"x-ms-blob-{key.replace('_', '-')}": value for key, value in settings.items()}
    return None if other else Small(url, name, content, said | {f"x-ms-meta-{key}": value for key, value in metadata.items()})


def write_blob(url: str, name: str, fd: int, headers: dict[str, str]) -> None:
    """Upload an open file from its start into a container, replacing the blob. Raises Unreachable, or OSError when reading fails."""
    from azure.storage.blob import ContentSettings

    settings, metadata, other = sort_headers(headers)
    client = container(url)
    content = ContentSettings(**settings)  # type: ignore[arg-type]
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            client.upload_blob(name, file, overwrite=True, content_settings=content, metadata=metadata or None, headers=other)
    except Exception as error:
        raise _translated(error) from error


_CONTENT = {
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "content-language": "content_language",
    "content-disposition": "content_disposition",
    "cache-control": "cache_control",
}


def sort_headers(headers: dict[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Upload headers as content settings, metadata and others; a blob's properties may be named with or without `x-ms-blob-`."""
    settings: dict[str, str] = {}
    metadata: dict[str, str] = {}
    other: dict[str, str] = {}
    for name, value in headers.items():
        known = _CONTENT.get(name.lower().removeprefix("x-ms-blob-"))
        if known:
            settings[known] = value
        elif name.lower().startswith("x-ms-meta-"):
            metadata[name[len("x-ms-meta-") :]] = value
        else:
            other[name] = value
    return settings, metadata, other


def _translated(error: Exception) -> Exception:
    """An SDK error as ours; others as they are."""
    from azure.core.exceptions import AzureError, HttpResponseError

    if isinstance(error, HttpResponseError):
        code = getattr(error, "error_code", None)
        return Unreachable(error.status_code or 0, f"the server answered {error.status_code} {code or error.reason or ''}".rstrip())
    if isinstance(error, AzureError):
        return Unreachable(0, type(error).__name__, timed_out="imed out" in str(error) or "imeout" in type(error).__name__)
    return error
