"""Who calls: the account key (SharedKey) or a shared access signature. Nobody is let in without one.

Source: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge import sas
from batchyard.blobs.edge.grants import Grant, Scope, unsigned
from batchyard.blobs.edge.request import Request
from batchyard.model import times

_CLOCK_SKEW_US = 15 * 60 * 1_000_000
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


def authenticate(request: Request, accounts: Mapping[str, Sequence[str]], policies: sas.Policies) -> Grant:
    """Grant of the caller; raises a 401 or 403 that is the same whatever the store holds."""
    keys = accounts.get(request.account, ())
    if "authorization" in request.headers:
        verify_shared_key(request, keys)
        return Grant(Scope.KEY)
    if "sig" in request.query:
        return sas.verify(request, keys, policies)
    raise unsigned()


def shared_key_text(request: Request, *, ignore_hyphens: bool) -> str:
    """String-to-sign; some SDKs sort header names by code, others by the culture's rules, which skip hyphens."""
    headers = dict(request.headers)
    if headers.get("content-length") == "0":
        headers["content-length"] = ""
    if "x-ms-date" in headers:
        headers["date"] = ""
    ours = [name for name in headers if name.startswith("x-ms-")]
    ours.sort(key=_culture_key if ignore_hyphens else None)
    lines = [request.method, *(headers.get(name, "") for name in _SIGNED), *(f"{name}:{headers[name]}" for name in ours)]
    # In path style the account stands in the path too, so it is there twice.
    lines.append(f"/{request.account}{request.raw_path}")
    lines += [f"{name}:{request.query[name]}" for name in sorted(request.query)]
    return "\n".join(lines)


def _culture_key(name: str) -> tuple[str, str]:
    """Order of the .NET service: hyphens count only between equals, and then last; the underscore is before the digits."""
    return name.replace("-", "").replace("_", " "), name.replace("-", "\x7f")


def verify_shared_key(request: Request, keys: Sequence[str]) -> None:
    """Raise AuthenticationFailed unless a key of the account signed the request, not long ago."""
    scheme, _, credentials = request.headers["authorization"].partition(" ")
    account, _, given = credentials.partition(":")
    if scheme != "SharedKey" or account != request.account:
        raise BlobError("AuthenticationFailed")
    texts = [shared_key_text(request, ignore_hyphens=False), shared_key_text(request, ignore_hyphens=True)]
    matches = [sas.signed_by(keys, text, given) for text in texts]
    if not any(matches):
        raise BlobError("AuthenticationFailed")
    _check_date(request)


def _check_date(request: Request) -> None:
    """A signed request is good for 15 minutes around the time it names."""
    try:
        sent_us = times.from_http_date(request.headers.get("x-ms-date") or request.headers["date"])
    except (KeyError, ValueError, OverflowError):
        raise BlobError("AuthenticationFailed", "The Date header in the request is missing or incorrect.") from None
    if abs(request.now_us - sent_us) > _CLOCK_SKEW_US:
        raise BlobError("AuthenticationFailed", "Request date header too old or in the future.")
