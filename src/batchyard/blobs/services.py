"""What is set for a whole service of a storage account: CORS rules, how long deleted blobs are kept, the static website.

Source: https://learn.microsoft.com/rest/api/storageservices/set-blob-service-properties and cross-origin-resource-sharing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MOST_RULES = 5
MOST_DAYS = 365
ANY = "*"


@dataclass(frozen=True, slots=True)
class Retention:
    """Whether, and for how many days, something is kept; `permanent` lets versions and snapshots be deleted at once."""

    enabled: bool = False
    days: int | None = None
    permanent: bool = False


OFF = Retention()


@dataclass(frozen=True, slots=True)
class Logging:
    """What would be logged: shown as it was set."""

    version: str = "1.0"
    delete: bool = False
    read: bool = False
    write: bool = False
    retention: Retention = OFF


@dataclass(frozen=True, slots=True)
class Metrics:
    """What would be measured: shown as it was set."""

    version: str = "1.0"
    enabled: bool = False
    include_apis: bool | None = None
    retention: Retention = OFF


@dataclass(frozen=True, slots=True)
class CorsRule:
    """Who may ask from pages of other origins; methods are upper case, headers may end in `*`."""

    origins: Sequence[str]
    methods: Sequence[str]
    max_age_s: int
    exposed: Sequence[str] = ()
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Website:
    """The static website of container `$web`."""

    enabled: bool = False
    index: str | None = None
    default_index: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Properties:
    """All that is set for one service; what is beside CORS and logs is for blobs only."""

    logging: Logging = Logging()
    hour_metrics: Metrics = Metrics()
    minute_metrics: Metrics = Metrics()
    cors: Sequence[CorsRule] = field(default_factory=tuple)
    default_version: str | None = None
    deleted_blobs: Retention = OFF
    website: Website = Website()
    deleted_containers: Retention = OFF
    versions: bool = False
    """Whether an overwritten or deleted blob stays as an earlier version."""
    hierarchical: bool = False
    """Whether directories are made with what is put into them, and clients are told so."""


NOTHING = Properties()


def rule_for(rules: Iterable[CorsRule], origin: str, method: str, headers: Iterable[str] = ()) -> CorsRule | None:
    """The first rule that lets a page of that origin use the method with those headers; None when none does."""
    wanted = [name.strip().lower() for name in headers if name.strip()]
    for rule in rules:
        fits = method in rule.methods and (ANY in rule.origins or origin in rule.origins)
        if fits and all(_named(name, rule.headers) for name in wanted):
            return rule
    return None


def _named(name: str, allowed: Iterable[str]) -> bool:
    return any(name.startswith(one[:-1].lower()) if one.endswith(ANY) else name == one.lower() for one in allowed)


def answer_headers(rule: CorsRule, origin: str) -> Mapping[str, str]:
    """What an answer to a page says; who is let in by `*` sends no credentials, and caches need not tell origins apart."""
    said = {"access-control-allow-origin": ANY if ANY in rule.origins else origin}
    if ANY not in rule.origins:
        said |= {"access-control-allow-credentials": "true", "vary": "Origin"}
    return said
