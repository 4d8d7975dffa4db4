"""Takes secrets out of shapes before they are stored, and those that nodes need out of what is stored before it is served."""

from __future__ import annotations

import typing
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

_REGISTRIES = frozenset({"registry", "containerRegistries"})
"""Properties that hold the only secrets that are stored: the passwords of registries."""
T = TypeVar("T")


def without_secrets(value: T) -> T:
    """The same without any field that is a secret, but for those that are kept for nodes, at every depth; the value is left as it is."""
    if isinstance(value, msgspec.Struct):
        secret = _secret_fields(type(value))
        changes = {
            name: None if name in secret else without_secrets(getattr(value, name))
            for name in value.__struct_fields__
            if getattr(value, name) is not None
        }
        return msgspec.structs.replace(value, **changes)
    if isinstance(value, list):
        return typing.cast(T, [without_secrets(item) for item in value])
    return value


@lru_cache
def _secret_fields(shape: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(name for name, hint in typing.get_type_hints(shape, include_extras=True).items() if _is_secret(hint))


def _is_secret(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    extras = [mark.extra or {} for mark in marks if isinstance(mark, msgspec.Meta)]
    if any(extra.get("secret") and not extra.get("kept") for extra in extras):
        return True
    return typing.get_origin(hint) is not list and any(_is_secret(part) for part in typing.get_args(hint))


def shown(body: bytes) -> bytes:
    """Stored JSON as clients may see it: without the passwords of registries."""
    if b'"password"' not in body:
        return body
    found = msgspec.json.decode(body)
    _hide(found)
    return msgspec.json.encode(found)


def _hide(value: object) -> None:
    if isinstance(value, list):
        for item in value:
            _hide(item)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name in _REGISTRIES:
                for registry in inner if isinstance(inner, list) else [inner]:
                    if isinstance(registry, dict):
                        registry.pop("password", None)
            _hide(inner)
