"""Reading what lies at other servers for a copy, and what the server may be made to fetch.

Invariant: a connection is made to an address that was looked at, and to no other: public ones, and those in the networks that the
operator allowed. Names are resolved once, here; redirects go the same way. Who asks for what may not be reached is told the same
as for what does not answer.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpcore

from batchyard.blobs.errors import BlobError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_REDIRECTS = 5
_MOST_URL = 2048
_CONNECT_S, _READ_S = 10.0, 60.0
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LENGTH = re.compile(r"[0-9]{1,18}")
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSED_ON = (400, 401, 403, 404, 409, 410)
"""What the source answers that the caller is told as it is."""


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks and addresses as an operator writes them; raises ValueError."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


OWN = "own:"
"""Begins a source in another storage account of this server, as `own:/account/container/blob?signature`; no client can write one."""


class Own(NamedTuple):
    """This server, which is asked like any other for what lies in another of its storage accounts."""

    url: str
    """For this machine."""
    authority: Path | None = None
    """The file of the authority that vouches for it, where that is its own."""
    domain: str | None = None
    """Domain of its host names."""


class Foreign:
    """Opens URLs of other servers, and of this one; safe to use from any thread."""

    def __init__(self, allowed: Sequence[Network] = (), own: Own | None = None) -> None:
        self._backend, self.own = _Guarded(allowed), own

    def open(self, url: str, headers: Mapping[str, str] | None = None) -> ForeignReader:
        """The answer to GET. Raises CannotVerifyCopySource, SourceConditionNotMet, InvalidHeaderValue."""
        if url.startswith(OWN):
            if self.own is None:
                raise _away()
            context = ssl.create_default_context(cafile=self.own.authority)
            answer = _asked(self.own.url + url.removeprefix(OWN), headers or {}, httpcore.SyncBackend(), context)
            return answer.checked(ranged="range" in (headers or {}))
        target = checked(url)
        for _ in range(_MOST_REDIRECTS + 1):
            answer = _asked(target, headers or {}, self._backend, ssl.create_default_context())
            if answer.status not in _REDIRECTS:
                return answer.checked(ranged="range" in (headers or {}))
            answer.close()
            following = checked(urljoin(target, answer.headers.get("location", "")))
            if target.startswith("https:") and not following.startswith("https:"):
                raise _away()
            target = following
        raise _away()


def _asked(target: str, headers: Mapping[str, str], backend: httpcore.NetworkBackend, context: ssl.SSLContext) -> ForeignReader:
    """What a GET is answered with. Raises CannotVerifyCopySource when it is not."""
    pool = httpcore.ConnectionPool(ssl_context=context, network_backend=backend)
    try:
        return ForeignReader(pool, pool.handle_request(_request(target, headers)))
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError, _NotAllowed):
        pool.close()
        raise _away() from None


class ForeignReader:
    """Content on its way in from elsewhere; `length` is what its server says, and reading raises OSError when it is not all there."""

    def __init__(self, pool: httpcore.ConnectionPool, response: httpcore.Response) -> None:
        self._pool, self._response = pool, response
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        self.status = response.status
        self.length = 0
        self._at = 0
        self._chunks: Iterator[bytes] = iter(())

    def checked(self, *, ranged: bool) -> ForeignReader:
        """Itself, if it brings content; raises what its status is to the caller."""
        try:
            status = self.status
            if status in (304, 412):
                raise BlobError("SourceConditionNotMet")
            if status != (206 if ranged else 200):
                told = f"The copy source was answered with status {status}."
                raise BlobError("CannotVerifyCopySource", told, status=status if status in _PASSED_ON else 400)
            text = self.headers.get("content-length", "")
            if not _LENGTH.fullmatch(text):
                raise BlobError("CannotVerifyCopySource", "The copy source does not say how long it is.", status=400)
            self.length, self._chunks = int(text), self._response.iter_stream()
        except BaseException:
            self.close()
            raise
        return self

    def read(self, size: int) -> bytes:
        """The next bytes, not more than come at once; empty at the end."""
        try:
            chunk = next(self._chunks, b"")
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise ConnectionError(f"the copy source broke off: {type(error).__name__}") from None
        self._at += len(chunk)
        if self._at > self.length or (not chunk and self._at < self.length):
            raise ConnectionError("the copy source is not as long as it says")
        return chunk

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()
        self._pool.close()


class _NotAllowed(Exception):
    """An address that is not to be reached."""


class _Guarded(httpcore.NetworkBackend):
    """Connects to allowed addresses only, and to just those that it looked at."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _NotAllowed from None
        error: Exception = _NotAllowed()
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            if not may_reach(address, self._allowed):
                continue
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.NetworkError as failed:
                error = failed
        raise error


def may_reach(text: str, allowed: Iterable[Network]) -> bool:
    """Whether an address is public, or in one of the networks; one that stands for another is judged as that one too."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if any(address in network for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return may_reach(str(inner), allowed)
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked(text: str) -> str:
    """A URL that can be fetched; raises InvalidHeaderValue."""
    try:
        url = urlsplit(text)
        fine = url.scheme in ("http", "https") and bool(url.hostname) and url.username is None and url.port != 0
    except ValueError:
        fine = False
    if not fine or len(text) > _MOST_URL or not text.isascii() or any(c <= " " for c in text):
        raise BlobError("InvalidHeaderValue", "The copy source is no URL of http or https that can be fetched.")
    return text


def _request(text: str, headers: Mapping[str, str]) -> httpcore.Request:
    url = urlsplit(text)
    target = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
    known = httpcore.URL(scheme=url.scheme, host=url.hostname or "", port=url.port, target=target)
    host = url.netloc
    sent = {"host": host, "accept-encoding": "identity", "user-agent": "batchyard", "connection": "close", **headers}
    timeouts = {"connect": _CONNECT_S, "read": _READ_S, "write": _READ_S, "pool": _CONNECT_S}
    return httpcore.Request("GET", known, headers=list(sent.items()), extensions={"timeout": timeouts})


def _away() -> BlobError:
    return BlobError(
        "CannotVerifyCopySource", "The copy source does not answer, or is at an address that this server may not fetch from.", status=400
    )
