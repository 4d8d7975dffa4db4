"""SharedKey as every real client signs it (contract 8.3, clients.md section 2).

The signature is checked over the target as received. Clients differ in what they sign for an absent body, in the case
of query names and in blank values, so a few candidates are tried; the first one fits the Python SDKs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from batchyard.model import times
from batchyard.model.errors import BatchError

ALLOWED_SKEW_US = 15 * 60 * 1_000_000

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
_CONTENT_LENGTH = _SIGNED.index("content-length")


class Account(msgspec.Struct, frozen=True):
    """A Batch account with its two keys in base64, read anew for each request, so that one may be renewed."""

    name: str
    keys: Sequence[str]


class Signed(msgspec.Struct, frozen=True):
    """The parts of a request that its signature covers, as received."""

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    """Names in lower case."""


def signer(authorization: str) -> str:
    """Whom a SharedKey header names; empty when it is none."""
    scheme, _, credential = authorization.partition(" ")
    return credential.strip().rpartition(":")[0] if scheme.lower() == "sharedkey" else ""


def verify(account: Account, request: Signed, now: int) -> None:
    """Let a request pass that was signed with a key of the account, or raise InvalidAuthenticationInfo / AuthenticationFailed."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    name, colon, signature = credential.strip().rpartition(":")
    if scheme.lower() != "sharedkey" or not colon:
        raise BatchError("InvalidAuthenticationInfo")
    _check_date(request, now)
    if name.lower() != account.name.lower():
        raise _failed("The account name is not known here.")
    try:
        shown = base64.b64decode(signature, validate=True)
    except ValueError:
        raise _failed("The signature is not base64.") from None
    for text in string_candidates(name, request):
        for key in account.keys:
            if hmac.compare_digest(hmac.digest(_secret(key), text.encode("utf-8", "surrogateescape"), hashlib.sha256), shown):
                return
    first = next(string_candidates(name, request))
    raise _failed(f"The MAC signature found in the HTTP request is not the same as any computed signature. String to sign: '{first}'")


@lru_cache(maxsize=2048)
def _secret(key: str) -> bytes:
    return base64.b64decode(key)


def sign(account: str, key: str, request: Signed) -> str:
    """Authorization header for a request of our own."""
    text = next(string_candidates(account, request))
    mac = hmac.digest(_secret(key), text.encode(), hashlib.sha256)
    return f"SharedKey {account}:{base64.b64encode(mac).decode()}"


def _failed(detail: str) -> BatchError:
    return BatchError("AuthenticationFailed", AuthenticationErrorDetail=detail)


def _check_date(request: Signed, now: int) -> None:
    """The request was made within 15 minutes of now."""
    text = request.headers.get("ocp-date") or request.headers.get("date")
    if not text:
        raise _failed("Neither the ocp-date nor the Date header is present.")
    try:
        at = times.from_http_date(text)
    except ValueError:
        raise _failed(f"The date header '{text[:64]}' is not an RFC 1123 time.") from None
    if abs(now - at) > ALLOWED_SKEW_US:
        raise _failed(f"The date header '{text[:64]}' is more than 15 minutes away from the server's time.")


def string_candidates(account: str, request: Signed) -> Iterator[str]:
    """Strings that a client may have signed for this request, the likeliest first; the others are made only when it does not fit."""
    head = [request.headers.get(name, "") for name in _SIGNED]
    if "ocp-date" in request.headers:
        head[_SIGNED.index("date")] = ""
    ocp = sorted((name, value) for name, value in request.headers.items() if name.startswith("ocp-"))
    ocp_lines = "".join(f"{name}:{value}\n" for name, value in ocp)
    pairs = parse_qsl(request.raw_query.replace("+", "%2B"), keep_blank_values=True)

    def text(length: str, name: str, path: str, query: str) -> str:
        head[_CONTENT_LENGTH] = length
        top = "\n".join((request.method, *head))
        return f"{top}\n{ocp_lines}/{name}{path}{query}"

    length = head[_CONTENT_LENGTH]
    yield text(length, account, request.raw_path, _query_lines(pairs, lower=False, blank=False))
    lengths = dict.fromkeys((length, "0", "") if length in ("", "0") else (length,))
    queries = dict.fromkeys(_query_lines(pairs, lower=lower, blank=blank) for lower in (False, True) for blank in (False, True))
    again = "/".join(quote(unquote(segment), safe="-._~") for segment in request.raw_path.split("/"))
    paths = dict.fromkeys((request.raw_path, again, "/" + request.raw_path.lstrip("/")))
    names = dict.fromkeys((account, account.lower()))
    for path, query, size, name in itertools.islice(itertools.product(paths, queries, lengths, names), 1, None):
        yield text(size, name, path, query)


def _query_lines(pairs: Sequence[tuple[str, str]], *, lower: bool, blank: bool) -> str:
    """The query's part of the string: sorted by name, the first of repeated names."""
    first: dict[str, str] = {}
    for name, value in pairs:
        if value or blank:
            first.setdefault(name.lower() if lower else name, value)
    return "".join(f"\n{name}:{value}" for name, value in sorted(first.items()))
