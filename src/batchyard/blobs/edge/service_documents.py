"""Bodies of Get and Set Service Properties, of blobs and of queues.

Source: https://learn.microsoft.com/rest/api/storageservices/set-blob-service-properties. What a body does not name stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge.documents import HEAD, element, leaves
from batchyard.blobs.services import MOST_DAYS, MOST_RULES, OFF, CorsRule, Logging, Metrics, Properties, Retention, Website

T = TypeVar("T")

MOST_BYTES = 64 * 1024
_MOST_LEAVES = 200
_ROOT = "StorageServiceProperties"
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")
_METHODS = ("DELETE", "GET", "HEAD", "MERGE", "PATCH", "POST", "OPTIONS", "PUT")
_MOST_NAMES, _LONGEST_NAME = 64, 256
_RULE = ("AllowedOrigins", "AllowedMethods", "MaxAgeInSeconds", "ExposedHeaders", "AllowedHeaders")
_BLOBS_ONLY = (
    "DefaultServiceVersion",
    "DeleteRetentionPolicy",
    "StaticWebsite",
    "ContainerDeleteRetentionPolicy",
    "IsVersioningEnabled",
    "IsHnsEnabled",
)
"""The last three are set through Azure's resource manager; here a service has them beside the others."""

Fields = Mapping[str, str]


def document(found: Properties, *, blobs: bool) -> str:
    """Body of Get Service Properties."""
    said = _logging(found.logging) + _metrics("HourMetrics", found.hour_metrics) + _metrics("MinuteMetrics", found.minute_metrics)
    said += f"<Cors>{''.join(map(_rule, found.cors))}</Cors>"
    if blobs:
        if found.default_version is not None:
            said += element("DefaultServiceVersion", found.default_version)
        said += _retention("DeleteRetentionPolicy", found.deleted_blobs) + _website(found.website)
        said += _retention("ContainerDeleteRetentionPolicy", found.deleted_containers)
        said += element("IsVersioningEnabled", _word(found.versions)) + element("IsHnsEnabled", _word(found.hierarchical))
    return f"{HEAD}<{_ROOT}>{said}</{_ROOT}>"


def changed(body: bytes, before: Properties, *, blobs: bool) -> Properties:
    """The properties that a body of Set Service Properties makes of those there are. Raises BlobError for what may not be said."""
    parts = _parts(body)
    readers: Mapping[str, Callable[[list[tuple[str, str]]], Mapping[str, object]]] = {
        "Logging": lambda said: {"logging": _read_logging(_single(said))},
        "HourMetrics": lambda said: {"hour_metrics": _read_metrics(_single(said))},
        "MinuteMetrics": lambda said: {"minute_metrics": _read_metrics(_single(said))},
        "Cors": lambda said: {"cors": _read_rules(said)},
        "DefaultServiceVersion": lambda said: {"default_version": _read_version(_single(said))},
        "DeleteRetentionPolicy": lambda said: {"deleted_blobs": _read_retention(_single(said))},
        "StaticWebsite": lambda said: {"website": _read_website(_single(said))},
        "ContainerDeleteRetentionPolicy": lambda said: {"deleted_containers": _read_retention(_single(said))},
        "IsVersioningEnabled": lambda said: {"versions": _flag(_single(said), "")},
        "IsHnsEnabled": lambda said: {"hierarchical": _flag(_single(said), "")},
    }
    new: dict[str, object] = {}
    for name, said in parts.items():
        if name not in readers or (name in _BLOBS_ONLY and not blobs):
            raise BlobError("UnsupportedXmlNode", f"{name} is no property of this service.")
        new |= readers[name](said)
    return replace(before, **new)  # type: ignore[arg-type]


def _parts(body: bytes) -> dict[str, list[tuple[str, str]]]:
    """The leaves below each property, by their path within it."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for path, text in leaves(body, _MOST_LEAVES, "InvalidXmlDocument"):
        if path[0] != _ROOT:
            raise BlobError("InvalidXmlDocument")
        if len(path) > 1:
            parts.setdefault(path[1], []).append(("/".join(path[2:]), text.strip()))
    return parts


def _single(said: list[tuple[str, str]]) -> Fields:
    if len(dict(said)) != len(said):
        raise BlobError("InvalidXmlDocument")
    return dict(said)


def _read_logging(said: Fields) -> Logging:
    verbs = (_flag(said, "Delete"), _flag(said, "Read"), _flag(said, "Write"))
    return Logging(said.get("Version", "1.0"), *verbs, _read_retention(said, "RetentionPolicy/"))


def _read_metrics(said: Fields) -> Metrics:
    apis = _flag(said, "IncludeAPIs") if "IncludeAPIs" in said else None
    return Metrics(said.get("Version", "1.0"), _flag(said, "Enabled"), apis, _read_retention(said, "RetentionPolicy/"))


def _read_retention(said: Fields, before: str = "") -> Retention:
    if f"{before}Enabled" not in said and before:
        return OFF
    enabled = _flag(said, f"{before}Enabled")
    days = _number(said[f"{before}Days"], 1, MOST_DAYS) if said.get(f"{before}Days") else None
    if enabled and days is None:
        raise BlobError("InvalidXmlNodeValue", "Days is missing where something is to be kept.")
    permanent = f"{before}AllowPermanentDelete" in said and _flag(said, f"{before}AllowPermanentDelete")
    return Retention(enabled, days, permanent)


def _read_website(said: Fields) -> Website:
    enabled = _flag(said, "Enabled")
    names = (said.get("IndexDocument") or None, said.get("DefaultIndexDocumentPath") or None, said.get("ErrorDocument404Path") or None)
    if names[0] and names[1]:
        raise BlobError("InvalidXmlDocument", "IndexDocument and DefaultIndexDocumentPath exclude each other.")
    if names[0] and "/" in names[0]:
        raise BlobError("InvalidXmlNodeValue", "IndexDocument is a name without a slash.")
    return Website(enabled, *names)


def _read_version(said: Fields) -> str | None:
    text = said.get("", "")
    if text and not _VERSION.fullmatch(text):
        raise BlobError("InvalidXmlNodeValue", "DefaultServiceVersion is not a date.")
    return text or None


def _read_rules(said: list[tuple[str, str]]) -> tuple[CorsRule, ...]:
    rules: list[dict[str, str]] = []
    for path, text in said:
        if not path:  # <Cors /> takes all rules away
            continue
        kind, _, name = path.partition("/")
        if kind != "CorsRule" or name not in _RULE:
            raise BlobError("InvalidXmlDocument")
        if not rules or name in rules[-1]:
            rules.append({})
        rules[-1][name] = text
    if len(rules) > MOST_RULES:
        raise BlobError("InvalidXmlDocument", f"There may be {MOST_RULES} CORS rules.")
    return tuple(map(_read_rule, rules))


def _read_rule(said: Fields) -> CorsRule:
    if set(said) != set(_RULE):
        raise BlobError("MissingRequiredXmlNode", f"A CORS rule has {', '.join(_RULE)}.")
    origins, methods = _names(said["AllowedOrigins"]), [name.upper() for name in _names(said["AllowedMethods"])]
    if not origins or not methods or not set(methods) <= set(_METHODS):
        raise BlobError("InvalidXmlNodeValue", f"A CORS rule has origins, and methods out of {', '.join(_METHODS)}.")
    age = _number(said["MaxAgeInSeconds"], 0, 2**31 - 1)
    return CorsRule(origins, methods, age, _names(said["ExposedHeaders"]), _names(said["AllowedHeaders"]))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > _MOST_NAMES or any(len(name) > _LONGEST_NAME or not name.isprintable() or not name.isascii() for name in names):
        raise BlobError("InvalidXmlNodeValue", f"A list of a CORS rule has up to {_MOST_NAMES} names of up to {_LONGEST_NAME} characters.")
    return names


def _flag(said: Fields, name: str) -> bool:
    if name not in said:
        raise BlobError("MissingRequiredXmlNode", f"{name or 'The value'} is missing.")
    if (text := said[name].lower()) not in ("true", "false"):
        raise BlobError("InvalidXmlNodeValue", f"{name or 'The value'} is true or false.")
    return text == "true"


def _number(text: str, low: int, high: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not low <= int(text) <= high:
        raise BlobError("InvalidXmlNodeValue", f"{text[:20]!r} is not a whole number from {low} to {high}.")
    return int(text)


def _word(value: bool) -> str:
    return "true" if value else "false"


def _logging(found: Logging) -> str:
    verbs = "".join(element(tag, _word(on)) for tag, on in (("Delete", found.delete), ("Read", found.read), ("Write", found.write)))
    return f"<Logging>{element('Version', found.version)}{verbs}{_retention('RetentionPolicy', found.retention)}</Logging>"


def _metrics(tag: str, found: Metrics) -> str:
    apis = "" if found.include_apis is None else element("IncludeAPIs", _word(found.include_apis))
    said = element("Version", found.version) + element("Enabled", _word(found.enabled)) + apis
    return f"<{tag}>{said}{_retention('RetentionPolicy', found.retention)}</{tag}>"


def _retention(tag: str, found: Retention) -> str:
    days = "" if found.days is None else element("Days", found.days)
    permanent = element("AllowPermanentDelete", "true") if found.permanent else ""
    return f"<{tag}>{element('Enabled', _word(found.enabled))}{days}{permanent}</{tag}>"


def _website(found: Website) -> str:
    names = (("IndexDocument", found.index), ("DefaultIndexDocumentPath", found.default_index), ("ErrorDocument404Path", found.error))
    said = "".join(element(tag, name) for tag, name in names if name is not None)
    return f"<StaticWebsite>{element('Enabled', _word(found.enabled))}{said}</StaticWebsite>"


def _rule(rule: CorsRule) -> str:
    lists = (rule.origins, rule.methods, [str(rule.max_age_s)], rule.exposed, rule.headers)
    said = "".join(element(tag, ",".join(names)) for tag, names in zip(_RULE, lists, strict=True))
    return f"<CorsRule>{said}</CorsRule>"
