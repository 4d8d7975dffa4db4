"""Shared access signatures: made for our own use, verified for everybody.

Source: https://learn.microsoft.com/rest/api/storageservices/create-service-sas and create-account-sas.
The signature is checked before anything in the store is looked at, so a forged one learns nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from batchyard.blobs.base import AccessPolicy, BlobError, ContainerRef
from batchyard.blobs.edge.grants import Grant, Scope
from batchyard.model import times

if TYPE_CHECKING:
    from batchyard.blobs.edge.request import Request

VERSION = "2021-12-02"  # of the signatures made here; every SDK of the last years reads it
_OLDEST = "2015-04-05"
_WITH_RESOURCE = "2018-11-09"  # from here on `sr` and the snapshot time are signed
_WITH_SCOPE = "2020-12-06"  # from here on the encryption scope is signed
_MOMENTS = {"bs": "snapshot", "bv": "versionid"}
"""Parameters that name what such a signature is for, and are signed; others sign none."""
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")
_FIELDS = (
    "sp",
    "ss",
    "srt",
    "st",
    "se",
    "si",
    "sip",
    "spr",
    "sv",
    "sr",
    "snapshot",
    "versionid",
    "ses",
    "rscc",
    "rscd",
    "rsce",
    "rscl",
    "rsct",
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,7})?)?Z)?")
_OVERRIDES = {
    "rscc": "cache-control",
    "rscd": "content-disposition",
    "rsce": "content-encoding",
    "rscl": "content-language",
    "rsct": "content-type",
}

# Stored access policies of a container; raises BlobError when there is none.
Policies = Callable[[ContainerRef], Mapping[str, AccessPolicy]]


def signature(key: str, text: str) -> str:
    """Base64 HMAC-SHA256 of a string-to-sign under a base64 account key."""
    return base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()


def signed_by(keys: Sequence[str], text: str, given: str) -> bool:
    """Whether any key gives that signature; compares in constant time, without stopping at the first match."""
    try:
        wanted = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return False
    matches = [hmac.compare_digest(base64.b64decode(signature(key, text)), wanted) for key in keys]
    return any(matches)


def container_sas(
    account: str, key: str, container: str, permissions: str, expiry: datetime, *, start: datetime | None = None, https_only: bool = False
) -> str:
    """Query string that opens a container to its holder; permissions are letters out of `racwdl`."""
    query = {
        "sv": VERSION,
        "spr": "https" if https_only else "",
        "st": _time_text(start) if start else "",
        "se": _time_text(expiry),
        "sr": "c",
        "sp": "".join(letter for letter in "racwdl" if letter in permissions),
    }
    return _signed(query, key, f"/blob/{account}/{container}")


def blob_sas(account: str, key: str, container: str, blob: str, permissions: str, expiry: datetime) -> str:
    """Query string that opens one blob to its holder; permissions are letters out of `racwd`."""
    query = {"sv": VERSION, "se": _time_text(expiry), "sr": "b", "sp": permissions}
    return _signed(query, key, f"/blob/{account}/{container}/{blob}")


def _signed(query: dict[str, str], key: str, resource: str) -> str:
    query["sig"] = signature(key, service_text(query, resource))
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)


def service_text(query: Mapping[str, str], resource: str) -> str:
    """String-to-sign of a service SAS, in the form its `sv` asks for."""
    version, kind = query.get("sv", ""), query.get("sr", "")
    names = ["si", "sip", "spr", "sv"]
    if version >= _WITH_RESOURCE:
        names += ["sr", _MOMENTS.get(kind, "")]
    if version >= _WITH_SCOPE:
        names += ["ses"]
    before = [query.get(name, "") for name in ("sp", "st", "se")]
    return "\n".join([*before, resource, *(query.get(name, "") if name else "" for name in [*names, *_OVERRIDES])])


def account_text(query: Mapping[str, str], account: str) -> str:
    """String-to-sign of an account SAS, in the form its `sv` asks for."""
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if query.get("sv", "") >= _WITH_SCOPE:
        names += ["ses"]
    return "\n".join([account, *(query.get(name, "") for name in names), ""])


def verify(request: Request, keys: Sequence[str], policies: Policies) -> Grant:
    """Grant of the SAS in the query; raises AuthenticationFailed or one of the Authorization codes."""
    check_form(request.query)
    grant = account_grant(request, keys, "b") if "ss" in request.query else _service_grant(request, keys, policies)
    check_caller(request)
    return grant


def check_form(query: Mapping[str, str]) -> None:
    """Raise AuthenticationFailed for what is no signature that can be checked here."""
    # Signatures of user delegation keys need Entra ID, which is not served.
    # A line break in a field could pass for the seam of two fields in the string-to-sign.
    if not _VERSION.fullmatch(query.get("sv", "")) or query["sv"] < _OLDEST or "skoid" in query or not _is_clean(query):
        raise BlobError("AuthenticationFailed")


def check_caller(request: Request) -> None:
    """Raise unless the caller comes by a protocol and from an address that the signature allows."""
    _check_protocol(request.query.get("spr", ""), request.scheme)
    _check_address(request.query.get("sip", ""), request.peer)


def _is_clean(query: Mapping[str, str]) -> bool:
    return not any(character < " " for name in _FIELDS for character in query.get(name, ""))


def account_grant(request: Request, keys: Sequence[str], service: str) -> Grant:
    """Grant of an account SAS that has this service (b or q) among its own."""
    query = request.query
    if not signed_by(keys, account_text(query, request.account), query["sig"]):
        raise BlobError("AuthenticationFailed")
    _check_times(query.get("st"), query.get("se"), request.now_us)
    if service not in query["ss"]:
        raise BlobError("AuthorizationServiceMismatch")
    # An account SAS does not sign the response headers, so it cannot dictate any.
    return Grant(Scope.ACCOUNT, query.get("sp", ""), query.get("srt", ""))


def _service_grant(request: Request, keys: Sequence[str], policies: Policies) -> Grant:
    query = request.query
    kind = query.get("sr", "")
    if request.container is None or kind not in ("c", "b", "bs", "bv", "d") or (kind != "c" and request.blob is None):
        raise BlobError("AuthenticationFailed")
    scope, resource = Scope.CONTAINER if kind == "c" else Scope.BLOB, f"/blob/{request.account}/{request.container}{_below(request, kind)}"
    if not signed_by(keys, service_text(query, resource), query["sig"]):
        raise BlobError("AuthenticationFailed")
    policy = _policy(request, policies)
    permissions = permissions_of(query, policy, request.now_us)
    overrides = {header: query[name] for name, header in _OVERRIDES.items() if query.get(name)}
    if any(not value.isprintable() or not value.isascii() for value in overrides.values()):
        raise BlobError("InvalidQueryParameterValue")
    return Grant(scope, permissions, overrides=overrides)


def _below(request: Request, kind: str) -> str:
    """What a signature of that kind signs of the path behind the container. Raises AuthenticationFailed for what it does not reach."""
    if kind == "c":
        return ""
    moments = {name for name in ("snapshot", "versionid") if request.query.get(name)}
    if kind == "d":
        depth, parts = request.query.get("sdd", ""), (request.blob or "").strip("/").split("/")
        if not depth.isascii() or not depth.isdigit() or len(depth) > 4 or not 0 < int(depth) <= len(parts):
            raise BlobError("AuthenticationFailed")
        return f"/{'/'.join(parts[: int(depth)])}"
    if moments != ({_MOMENTS[kind]} if kind in _MOMENTS else set()):
        raise BlobError("AuthenticationFailed")
    return f"/{request.blob}"


def permissions_of(query: Mapping[str, str], policy: AccessPolicy, now_us: int) -> str:
    """The letters of a service SAS and its stored access policy together. Raises AuthenticationFailed outside of their time."""
    _check_times(_either(query.get("st"), policy.start), _either(query.get("se"), policy.expiry), now_us)
    return _either(query.get("sp"), policy.permissions) or ""


def _policy(request: Request, policies: Policies) -> AccessPolicy:
    """The stored access policy that the SAS names; removing it revokes the SAS."""
    if "si" not in request.query:
        return AccessPolicy()
    try:
        return policies(request.container_ref)[request.query["si"]]
    except (BlobError, KeyError):
        raise BlobError("AuthenticationFailed") from None


def _either(in_sas: str | None, in_policy: str | None) -> str | None:
    """A field comes from the SAS or from the policy; the service refuses one that is in both."""
    if in_sas and in_policy:
        raise BlobError("AuthenticationFailed")
    return in_sas or in_policy


def _check_times(start: str | None, expiry: str | None, now_us: int) -> None:
    if not expiry or now_us >= _micros(expiry) or (start and now_us < _micros(start)):
        raise BlobError("AuthenticationFailed", "Signature not valid in the specified time frame.")


def _micros(text: str) -> int:
    try:
        if not _DATE.fullmatch(text):
            raise ValueError(text)
        return times.from_iso(text)
    except ValueError:
        raise BlobError("AuthenticationFailed") from None


def _check_protocol(allowed: str, scheme: str) -> None:
    if allowed and scheme not in allowed.split(","):
        raise BlobError("AuthorizationProtocolMismatch")


def _check_address(allowed: str, peer: str | None) -> None:
    """An address or a range `first-last`, both inclusive."""
    if not allowed:
        return
    first, _, last = allowed.partition("-")
    try:
        address = ipaddress.IPv4Address(peer or "")
        inside = ipaddress.IPv4Address(first) <= address <= ipaddress.IPv4Address(last or first)
    except ValueError:
        inside = False
    if not inside:
        raise BlobError("AuthorizationSourceIPMismatch")


def _time_text(moment: datetime) -> str:
    whole = moment - timedelta(microseconds=moment.microsecond)
    return times.iso(times.micros(whole))
