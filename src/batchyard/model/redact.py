"""Takes secrets out of shapes before they are stored, so that what is stored can be served as it is."""

from __future__ import annotations

import typing
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def without_secrets(value: T) -> T:
    """The same without any field that is marked Secret, at every depth; the given value is left as it is."""
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
    if any(isinstance(mark, msgspec.Meta) and (mark.extra or {}).get("secret") for mark in marks):
        return True
    return typing.get_origin(hint) is not list and any(_is_secret(part) for part in typing.get_args(hint))
