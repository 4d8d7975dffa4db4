"""One request to the storage endpoint, taken apart: names from the encoded path, single-valued headers and parameters.

Everything here is about syntax and runs before anybody knows who calls; it never looks into the store.
"""

from __future__ import annotations

import binascii
import re
import uuid
from base64 import b64decode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, unquote_plus

from starlette.types import Receive, Scope

from batchyard.blobs.base import BlobError, BlobRef, Conditions, ContainerRef
from batchyard.blobs.tags import condition as tags_condition
from batchyard.model import times

if TYPE_CHECKING:
    from batchyard.blobs.edge.fetches import Fetches
    from batchyard.blobs.edge.together import Place

MAX_HEADER_BYTES = 32 * 1024
MAX_PATH_BYTES = 16 * 1024
MAX_METADATA_BYTES = 8 * 1024
MAX_BLOB_NAME = 1024

ROOT, WEB = "$root", "$web"
"""The containers that may have other names than all others: that of blobs right below the account, and that of the static website."""
QUEUE, TABLE = "queue", "table"
_HOSTS = ("blob", "dfs", "web", QUEUE)
PORT = "batchyard.storage_service"
"""Key of the ASGI scope: the storage service whose own port was asked; its paths begin with the account."""
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")
OLDEST_VERSION, NEWEST_VERSION = "2015-02-21", "2026-10-06"
"""Versions of the service that are served; who asks for a newer one is answered in the newest."""
_DIGITS = re.compile(r"[0-9]{1,18}")
_SNAPSHOT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{7}Z")
_META = "x-ms-meta-"
METADATA_NAMES = "batchyard.metadata_names"
"""Extension of a connection's scope: the names of metadata headers as the client wrote them, by lower-case name."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose names and parameters are decoded; `raw_path` is what signatures are made over."""

    method: str
    scheme: str
    peer: str | None
    raw_path: str
    account: str
    container: str | None
    blob: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    metadata_names: Mapping[str, str]
    """Names of metadata headers as they were written, by lower-case name."""
    accounts: Mapping[str, Sequence[str]]
    """Names and keys of the accounts that the endpoint serves."""
    receive: Receive
    now_us: int
    by_host: bool = False
    """The account stands in the name of the host and not in the path."""
    service: str = "blob"
    """The service that the name of the host names."""
    fetches: Fetches | None = None
    """Copies from other servers, where there may be some."""
    may_publish: bool = False
    """Containers may be opened to readers without a key."""
    place: Place | None = None
    """Among the blobs of one request, for a part of such."""

    @property
    def endpoint(self) -> str:
        """URL of the account as the caller wrote it."""
        host = f"{self.scheme}://{self.headers.get('host', '')}"
        return f"{host}/" if self.by_host else f"{host}/{self.account}"

    @property
    def is_unsigned_reading(self) -> bool:
        """Whether nobody signed what may be the reading of a container that is open to all."""
        return self.method in ("GET", "HEAD") and "authorization" not in self.headers and "sig" not in self.query

    def for_blobs(self) -> Request:
        """The request as one of the blob service, where a single name without `restype` is that of a blob in the root container."""
        if self.container is None or self.blob is not None or "restype" in self.query or self.service == "web" or self.is_about_paths:
            return self
        return replace(self, container=ROOT, blob=self.container)

    def names_in(self, path: str) -> tuple[str, str | None, str | None]:
        """Account, container and blob of an encoded path of the same host."""
        return names_of(f"/{self.account}{path}" if self.by_host else path)

    @property
    def container_ref(self) -> ContainerRef:
        """Address of the container; raises InvalidResourceName for a name that no container may have."""
        assert self.container is not None
        if self.container not in (ROOT, WEB) and not _CONTAINER.fullmatch(self.container):
            raise BlobError("InvalidResourceName")
        return ContainerRef(self.account, self.container)

    @property
    def blob_ref(self) -> BlobRef:
        """Address of the blob; raises InvalidResourceName for a name that no blob may have."""
        assert self.blob is not None
        if len(self.blob) > MAX_BLOB_NAME or "\0" in self.blob:
            raise BlobError("InvalidResourceName")
        parent = self.container_ref
        snapshot, version = self.moment("snapshot"), self.moment("versionid")
        if snapshot is not None and version is not None:
            raise BlobError("InvalidQueryParameterValue", "snapshot and versionid exclude each other.")
        return BlobRef(parent.account, parent.container, self.blob, snapshot, version)

    @property
    def path_ref(self) -> BlobRef:
        """Address of a file or directory, whose name may end in a slash; raises InvalidUri for the root directory."""
        name = (self.blob or "").strip("/")
        if not name:
            raise BlobError("InvalidUri", "The root directory cannot be asked for this.")
        return replace(self, blob=name).blob_ref

    @property
    def is_about_paths(self) -> bool:
        """Whether it is one of the dfs operations, which share their addresses with those on blobs."""
        if self.service == "dfs":
            return not {"comp", "restype"} & self.query.keys()
        said = {"resource", "action"} & self.query.keys() or "x-ms-rename-source" in self.headers
        return bool(said) or (self.method == "DELETE" and "recursive" in self.query)

    def conditions(self, *, may_overwrite: bool = True, source: bool = False) -> Conditions:
        """Conditional headers, of the request or of a copy's source."""
        before = "x-ms-source-" if source else ""
        tags = self.headers.get("x-ms-source-if-tags" if source else "x-ms-if-tags")
        return Conditions(
            if_match=_tag(self.headers.get(before + "if-match")),
            if_none_match=_tag(self.headers.get(before + "if-none-match")),
            modified_since_us=self._http_date(before + "if-modified-since"),
            unmodified_since_us=self._http_date(before + "if-unmodified-since"),
            may_overwrite=may_overwrite,
            lease_id=None if source else self.lease_id("x-ms-lease-id"),
            now_us=self.now_us,
            if_tags=tags_condition(tags) if tags is not None else None,
        )

    def lease_id(self, name: str) -> str | None:
        """Header that names a lease: a GUID in any of its forms, given in the usual one."""
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise BlobError("InvalidHeaderValue", f"The value for {name} is not a GUID.") from None

    def moment(self, name: str) -> str | None:
        """Parameter that names a snapshot or a version."""
        text = self.query.get(name)
        if not text:
            return None
        if not _SNAPSHOT.fullmatch(text):
            raise BlobError("InvalidQueryParameterValue", f"The value for {name} is not a time as the service gives them.")
        return text

    def metadata(self) -> dict[str, str]:
        """`x-ms-meta-*` headers; raises for names that are no identifiers and for more than 8 KiB."""
        written = (
            (self.metadata_names.get(name, name)[len(_META) :], value) for name, value in self.headers.items() if name.startswith(_META)
        )
        found = dict(written)
        if "" in found:
            raise BlobError("EmptyMetadataKey")
        if not all(_IDENTIFIER.fullmatch(name) for name in found):
            raise BlobError("InvalidMetadata")
        if sum(len(name) + len(value) for name, value in found.items()) > MAX_METADATA_BYTES:
            raise BlobError("MetadataTooLarge")
        return found

    def without_empty(self) -> Request:
        """The request without headers that say nothing, which are sent by clients that have no value; after the signature was checked."""
        return replace(self, headers={name: value for name, value in self.headers.items() if value or name.startswith(_META)})

    def body_length(self, most: int) -> int:
        """Bytes the body must have; raises when they are not said (the service takes no chunked uploads) or are too many."""
        text = self.headers.get("content-length")
        if text is None or "transfer-encoding" in self.headers:
            raise BlobError("MissingContentLengthHeader")
        if not _DIGITS.fullmatch(text):
            raise BlobError("InvalidHeaderValue")
        if int(text) > most:
            raise BlobError("RequestBodyTooLarge", headers={"connection": "close"})
        return int(text)

    def number_header(self, name: str) -> int | None:
        """Header that is a count of bytes."""
        text = self.headers.get(name)
        if text is not None and not _DIGITS.fullmatch(text):
            raise BlobError("InvalidHeaderValue")
        return None if text is None else int(text)

    def md5_header(self, name: str) -> bytes | None:
        """Header that is a base64 MD5."""
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            value = b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BlobError("InvalidMd5") from None
        if len(value) != 16:
            raise BlobError("InvalidMd5")
        return value

    def _http_date(self, name: str) -> int | None:
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            return times.from_http_date(text)
        except (ValueError, OverflowError):
            raise BlobError("InvalidHeaderValue") from None


def account_of_host(host: str, accounts: Iterable[str]) -> str | None:
    """The account that a host name as `ACCOUNT.blob.DOMAIN` names; None for other hosts."""
    first, _, rest = host.lower().partition(".")
    is_ours = rest.partition(".")[0] in _HOSTS and "." in rest
    return next((name for name in accounts if name.lower() == first), None) if is_ours else None


class Address(NamedTuple):
    """A storage account, and which of its services is asked."""

    account: str
    service: str


def addressed(scope: Scope, accounts: Collection[str]) -> Address | None:
    """The storage account of these that a request is for, by the name of the host, the port, or the path; None for other requests."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    if (by_host := account_of_host(host, accounts)) is not None:
        return Address(by_host, host.lower().split(".")[1])
    first, second = [*scope["raw_path"].decode("latin-1").partition("?")[0].split("/"), "", ""][1:3]
    if (service := scope.get(PORT)) is not None:
        return Address(first, service) if first in accounts else None
    if first == QUEUE:
        return Address(second, QUEUE) if second in accounts else None
    return Address(first, "blob") if first in accounts else None


def _below(scope: Scope, below: str) -> str:
    """What stands in front of the names in the path: nothing where the port says as much."""
    return "" if PORT in scope else below


def parse(scope: Scope, receive: Receive, accounts: Mapping[str, Sequence[str]], now_us: int, below: str = "") -> Request:
    """Take the request apart, whose names come behind `below` in the path; raises BlobError for what cannot be read."""
    headers = _headers(scope["headers"])
    raw_path = scope["raw_path"].split(b"?", 1)[0]
    if len(raw_path) > MAX_PATH_BYTES or len(scope["query_string"]) > MAX_PATH_BYTES:
        raise BlobError("InvalidUri")
    path = raw_path.decode("latin-1")
    by_host = account_of_host(headers.get("host", ""), accounts)
    account, container, blob = names_of(path.removeprefix(_below(scope, below)) if by_host is None else f"/{by_host}{path}")
    client = scope.get("client")
    version = headers.get("x-ms-version")
    if version is not None and not _VERSION.fullmatch(version):
        raise BlobError("InvalidHeaderValue", "The value for x-ms-version is not a date.")
    if version is not None and version < OLDEST_VERSION:
        raise BlobError("InvalidHeaderValue", f"The value for x-ms-version is older than {OLDEST_VERSION}, the oldest that is served.")
    return Request(
        method=scope["method"],
        scheme=scope.get("scheme", "http"),
        peer=client[0] if client else None,
        raw_path=path,
        account=account,
        container=container,
        blob=blob,
        query=query_of(scope["query_string"].decode("latin-1")),
        headers=headers,
        metadata_names=scope.get("extensions", {}).get(METADATA_NAMES, {}),
        accounts=accounts,
        receive=receive,
        now_us=now_us,
        by_host=by_host is not None,
        service=headers.get("host", "").lower().split(".")[1] if by_host is not None else "blob",
    )


def account_named(scope: Scope, accounts: Iterable[str], below: str = "") -> str:
    """The account that a request names; nothing where its path cannot be read."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    try:
        path = scope["raw_path"].decode("latin-1").partition("?")[0].removeprefix(_below(scope, below))
        return account_of_host(host, accounts) or names_of(path)[0]
    except BlobError:
        return ""


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; one that is sent twice is refused, as signer and server could read different ones."""
    if sum(len(name) + len(value) for name, value in pairs) > MAX_HEADER_BYTES:
        raise BlobError("RequestHeadersTooLarge", headers={"connection": "close"})
    found: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name = raw_name.decode("latin-1").lower()
        if name in found and name not in ("accept", "cookie", "via", "connection"):
            raise BlobError("InvalidHeaderValue", "A header is given more than once.")
        found[name] = raw_value.decode("latin-1").strip()
    return found


def names_of(path: str) -> tuple[str, str | None, str | None]:
    """Account, container and blob of an encoded path."""
    account, _, rest = path.removeprefix("/").partition("/")
    container, _, blob = rest.partition("/")
    return _decode(account), _decode(container) or None, _decode(blob) or None


def _decode(text: str) -> str:
    try:
        # Bytes above 127 that came unescaped are UTF-8 as well.
        return unquote(text.encode("latin-1").decode(), errors="strict")
    except UnicodeDecodeError:
        raise BlobError("InvalidUri") from None


@lru_cache(maxsize=256)
def query_of(text: str) -> Mapping[str, str]:
    """Parameters of a query by lower-case name; one that is given twice is refused, see _headers. Who has a SAS says the same each time."""
    found: dict[str, str] = {}
    for part in filter(None, text.split("&")):
        raw_name, _, raw_value = part.partition("=")
        try:
            name = unquote_plus(raw_name, errors="strict").lower()
            value = unquote_plus(raw_value.encode("latin-1").decode(), errors="strict")
        except UnicodeDecodeError:
            raise BlobError("InvalidUri") from None
        if name in found:
            raise BlobError("InvalidQueryParameterValue", "A query parameter is given more than once.")
        found[name] = value
    return MappingProxyType(found)


def _tag(text: str | None) -> str | None:
    """Entity tag without its quotes."""
    return None if text is None else text.strip().removeprefix("W/").strip('"')
