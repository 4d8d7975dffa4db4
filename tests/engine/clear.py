"""What every refusal must be, whichever test meets it: an answer of the catalogue that names the property and the reason."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache

import msgspec

from batchyard import model
from batchyard.model.errors import BatchError

NAMED = {
    "InvalidPropertyValue": {"PropertyName", "Reason"},
    "UnsupportedProperty": {"PropertyName", "Reason"},
    "MissingRequiredProperty": {"PropertyName", "Reason"},
    "InvalidQueryParameterValue": {"QueryParameterName", "Reason"},
    "OperationNotValidOnPool": {"Reason"},
}
_PROPERTY = re.compile(r"[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)*")
_BEGINNING = re.compile(r"[A-Z]|[a-z]+[A-Z]|(access|start|terminatejob|uid) ")
"""Of a sentence: it begins like one, or with the name of a property."""


def check(error: BatchError) -> None:
    """Fail unless whoever gets the error can tell what to mend."""
    said = error.values
    assert said.keys() >= NAMED.get(error.code, set()), f"{error.code} lacks {NAMED[error.code] - said.keys()}"
    for name, value in said.items():
        assert value != "None", f"{name} of {error.code} says nothing"
        assert "XX" not in value, f"nobody said {value}"
        if name in ("PropertyName", "QueryParameterName"):
            assert _PROPERTY.fullmatch(value), f"no property has the name {value}"
        if name == "PropertyName":
            assert set(value.split(".")) <= properties(), f"no property has the name {value}"
        if name == "Reason":
            assert _BEGINNING.match(value), f"no sentence: {value}"
            assert value != value.upper(), f"no need to shout: {value}"


@cache
def properties() -> frozenset[str]:
    """The names of all properties that clients may send."""
    modules = [importlib.import_module(found.name) for found in pkgutil.iter_modules(model.__path__, f"{model.__name__}.")]
    structs = [each for module in modules for each in vars(module).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return frozenset(name for struct in structs for name in struct.__struct_encode_fields__)
