"""A request on its way through the API: what it asks, and the services that answer it."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

import msgspec

from batchyard.api.wire.accounts import Accounts
from batchyard.api.wire.auth import Account, Signed
from batchyard.api.wire.relay import Relay
from batchyard.api.wire.turns import Turns
from batchyard.blobs.base import BlobStore
from batchyard.engine.checks.auto_pools import Demand
from batchyard.engine.checks.autoscale import SHORTEST_INTERVAL_US
from batchyard.engine.clock import Clock
from batchyard.engine.nodes.linked_storage import LinkedStorage
from batchyard.engine.nodes.nodes import SILENCE_US
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.model.endpoints import Ways
from batchyard.model.errors import BatchError, invalid_property, invalid_query
from batchyard.rules import odata
from batchyard.rules.conditions import Conditions
from batchyard.rules.offer import AZURE, Offer
from batchyard.store.db import Database

MOST_RESULTS = 1000
LARGEST_BODY = 1_048_576
"""Below the 1,177,854 bytes that one oversized task makes in the 15.x SDK, so that its halving ends (clients.md 0, #18)."""

T = TypeVar("T")


class Machine(msgspec.Struct, frozen=True):
    """Where a machine is."""

    ip_address: str
    host_name: str
    ipv6_address: str = ""
    """Empty when it has none."""


class Services(msgspec.Struct):
    """What handlers work with; the keys of the account and its quotas may change while it runs, nothing else."""

    db: Database
    wakes: Wakes
    clock: Clock
    relay: Relay
    account: Account
    node_key: bytes
    chaos: bool = False
    """Nodes may be disturbed on demand."""
    shortest_autoscale_us: int = SHORTEST_INTERVAL_US
    """The shortest interval between evaluations of an autoscale formula that a client may ask for."""
    offer: Offer = AZURE
    linked_storage: LinkedStorage | None = None
    """None when no storage account is linked."""
    blobs: BlobStore | None = None
    """What the linked storage account holds."""
    machines: Mapping[str, Machine] = {}
    """Where the nodes of a provider are before their agents have spoken, as far as it is known, by the provider's name."""
    node_silence_us: int = SILENCE_US
    """How long a node may say nothing before its tasks run elsewhere, and before another agent may be it."""
    restarting: frozenset[str] = frozenset()
    """Names of the providers that can start a node's agent anew, however the agent is."""
    outside: frozenset[str] = frozenset()
    """Names of the providers whose nodes wait for agents that somebody else starts."""
    authority: bytes | None = None
    """What machines that join have to trust, as PEM; None where they know it anyway, or there is no TLS."""
    authority_fingerprint: str = ""
    """Its SHA-256 in hexadecimal."""
    public_url: str = ""
    """Where other machines find the server; empty when nobody said."""
    package_limits: tuple[int, int] = (4 << 30, 100_000)
    """Bytes and entries that an application package may have."""
    room: Callable[[], str | None] = lambda: None
    """Why no new work is taken at the moment, None when it is."""
    named: str = ""
    """What tokens and URLs say of the account, its name; empty for the default one."""
    accounts: Accounts | None = None
    """All accounts of the server."""
    storage_ways: Ways = Ways("")
    """How clients reach its storage; the URL is that of the request."""
    operator: Account | None = None
    """Who makes, limits and removes accounts; asked in the world of the default one alone."""
    turns: Turns = msgspec.field(default_factory=Turns)
    """Of collections of tasks."""
    single_turns: Turns = msgspec.field(default_factory=Turns)
    """Of tasks that are added one by one, which wait for no collection."""


class Call(msgspec.Struct):
    """One request."""

    services: Services
    signed: Signed
    base: str
    """The URL that the client knows the server by, without trailing slash."""
    ids: Mapping[str, str]
    """What the path names, decoded."""
    query: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    now: int
    request_id: str
    by_task: int = 0
    """Key of the task whose token was shown, 0 when it was an account key."""
    by_operator: bool = False
    """It was the operator's key."""
    path: str = ""
    """The path below `base`, still encoded."""
    content: AsyncIterator[bytes] | None = None
    """The body as it comes, of an operation that takes more than fits into memory; `body` is empty then."""

    @property
    def demand(self) -> Demand:
        """What the account demands of pools that are made for jobs."""
        return Demand(self.services.offer, self.services.shortest_autoscale_us)

    @property
    def db(self) -> Database:
        """The store."""
        return self.services.db

    def decode(self, shape: type[T], *, empty: T | None = None) -> T:
        """The body as a shape; `empty` stands for an absent one. Raises what `decode` raises."""
        body = _plain(self.body)
        if not body.strip() and empty is not None:
            return empty
        return decode(body, shape)

    def url(self, *segments: str) -> str:
        """Absolute URL of a resource."""
        return "/".join((self.base, *(quote(segment, safe=":") for segment in segments)))

    def flag(self, name: str) -> bool:
        """A boolean query option, False when absent. Raises InvalidQueryParameterValue."""
        text = self.query.get(name, "false")
        if text.lower() not in ("true", "false"):
            raise invalid_query(name, text[:100], "The value must be true or false")
        return text.lower() == "true"

    def expands_stats(self) -> bool:
        """True when statistics are asked for; there is nothing else to expand. Raises InvalidQueryParameterValue."""
        text = self.query.get("$expand")
        if text not in (None, "", "stats"):
            raise invalid_query("$expand", text[:100], "Only stats can be expanded")
        return text == "stats"

    def filter(self, properties: odata.Properties) -> odata.Filter | None:
        """What a list is asked for, None for everything. Raises InvalidQueryParameterValue."""
        return odata.parse(self.query.get("$filter", ""), properties)

    def conditions(self) -> Conditions:
        """The conditional headers. Raises InvalidHeaderValue."""
        headers = self.signed.headers
        return Conditions(
            if_match=headers.get("if-match"),
            if_none_match=headers.get("if-none-match"),
            if_modified_since=_date(headers, "if-modified-since"),
            if_unmodified_since=_date(headers, "if-unmodified-since"),
        )

    def page(self) -> tuple[int, int]:
        """(key behind which to go on, items at most) of a list call. Raises InvalidQueryParameterValue, OutOfRangeQueryParameterValue."""
        return self._after(), self.most()

    def most(self) -> int:
        """Items at most of a list call. Raises InvalidQueryParameterValue, OutOfRangeQueryParameterValue."""
        text = self.query.get("maxresults")
        if text is None:
            return MOST_RESULTS
        try:
            most = int(text)
        except ValueError:
            raise invalid_query("maxresults", text, "MaxResults must be an integer") from None
        if most < 1:
            raise invalid_query("maxresults", text, "MaxResults cannot be less than 1")
        if most > MOST_RESULTS:
            raise BatchError(
                "OutOfRangeQueryParameterValue", QueryParameterName="maxresults", QueryParameterValue=text, Reason=f"At most {MOST_RESULTS}"
            )
        return most

    def _after(self) -> int:
        token = self.query.get("$skiptoken")
        if token is None:
            return 0
        if re.fullmatch(r"[0-9a-f]{1,15}", token) is None:
            raise invalid_query("$skiptoken", token[:100], "The token is not one of this server's")
        return int(token, 16)

    def next_link(self, last_key: int | str | None) -> str | None:
        """URL of the page behind a key, or with a token of the list's own, with the options of this one; None behind the last."""
        if last_key is None:
            return None
        kept = {name: value for name, value in self.query.items() if name not in ("$skiptoken", "timeout")}
        kept["$skiptoken"] = last_key if isinstance(last_key, str) else f"{last_key:x}"
        options = "&".join(f"{quote(name, safe='$')}={quote(value, safe='')}" for name, value in kept.items())
        return f"{self.base}{self.path}?{options}"


def decode(body: bytes | msgspec.Raw, shape: type[T]) -> T:
    """JSON as a shape, numbers in quotes allowed (every number of `az` comes so), with or without a byte order mark.

    Raises InvalidRequestBody, InvalidPropertyValue, MissingRequiredProperty.
    """
    if isinstance(body, bytes):
        body = _plain(body)
    try:
        return _decoder(shape).decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), body) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError("InvalidRequestBody", Reason=str(error)[:500]) from None


def _plain(body: bytes) -> bytes:
    """The text without the byte order mark that some editors and .NET programs begin UTF-8 with."""
    return body.removeprefix(codecs.BOM_UTF8)


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def _decoder(shape: type[T]) -> msgspec.json.Decoder[T]:
    found = _decoders.get(shape)
    if found is None:
        found = _decoders[shape] = msgspec.json.Decoder(shape, strict=False)
    return found


def _refusal(text: str, body: bytes | msgspec.Raw) -> BatchError:
    """What a validation error of msgspec is in the contract's catalogue."""
    reason, _, path = text.partition(" - at `$")
    where = path.strip("`").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    if missing:
        name = f"{where}.{missing[1]}" if where else missing[1]
        return BatchError("MissingRequiredProperty", PropertyName=name, Reason="The property is required")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", reason)
    if unknown:
        name = f"{where}.{unknown[1]}" if where else unknown[1]
        return BatchError("InvalidRequestBody", PropertyName=name[:200], Reason="The property is not known")
    if "matching regex" in reason:
        reason = _NO_DURATION if "matching regex '\\\\AP" in reason else _NO_TIME
        return invalid_property(where, _value_at(body, where), reason)
    if reason.startswith("Invalid enum value"):
        return invalid_property(where, _value_at(body, where), reason[:500])
    return BatchError("InvalidRequestBody", PropertyName=where or "$", Reason=reason[:500])


_NO_DURATION = "The value is not an ISO 8601 duration such as PT1H30M"
_NO_TIME = "The value is not an ISO 8601 time such as 2026-01-31T12:00:00Z"


def _value_at(body: bytes | msgspec.Raw, where: str) -> str:
    """What a body has at a path such as `a.b[2].c`, as far as it is text; empty when it cannot be told."""
    try:
        found = msgspec.json.decode(body)
        for name, at in re.findall(r"([A-Za-z0-9_]+)|\[(\d+)\]", where):
            found = found[name] if name else found[int(at)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError):
        return ""
    return found[:100] if isinstance(found, str) else ""


def _date(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        return times.from_http_date(text)
    except ValueError:
        raise BatchError("InvalidHeaderValue", HeaderName=name, HeaderValue=text[:64]) from None


def read_query(raw: str) -> dict[str, str]:
    """Query parameters by lower-case name, the first of repeated ones."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(raw, keep_blank_values=True):
        query.setdefault(name.lower(), value)
    return query
