"""Print the models and enums of the azure-batch SDK that this interpreter has, as JSON.

Run as a program, because both generations install under one import name and only one fits in a process.
`{"models": {class: {wire name: kind}}, "enums": {enum: [values]}}`; a kind is `str`, `int`, `long` (a number sent as text), `float`,
`bool`, `time`, `duration`, `map`, the name of a model or enum, or one of these after `list `.
"""

from __future__ import annotations

import datetime
import enum
import importlib
import inspect
import json
import sys
import typing

KINDS_14 = {"iso-8601": "time", "{str}": "map", "object": "map"}
KINDS_15 = {datetime.datetime: "time", datetime.timedelta: "duration"}


def kind_14(text: str) -> str:
    """Kind of an `_attribute_map` type."""
    return f"list {kind_14(text[1:-1])}" if text.startswith("[") else KINDS_14.get(text, text)


def kind_15(hint: typing.Any, wire_format: str | None) -> str:
    """Kind of an annotation; an enum appears as a union with str."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is typing.Union:
        return kind_15(arguments[-1], wire_format)
    if typing.get_origin(hint) is list:
        return f"list {kind_15(arguments[0], None)}"
    if typing.get_origin(hint) is dict:
        return "map"
    if hint is int and wire_format == "str":
        return "long"
    return KINDS_15.get(hint) or hint.__name__


def fields_14(model: type) -> dict[str, str]:
    """Wire names and kinds of a model of 14.x; the classes that hold query and header parameters have none."""
    return {entry["key"]: kind_14(entry["type"]) for entry in model._attribute_map.values() if entry["key"]}  # type: ignore[attr-defined]


def fields_15(model: typing.Any) -> dict[str, str]:
    """Wire names and kinds of a model of 15.x; making one instance lets the SDK resolve its fields."""
    model.__new__(model)
    # The annotations say `_models.X`; in their own module that name is not defined.
    space = {"_models": importlib.import_module("azure.batch.models")}
    hints: dict[str, typing.Any] = {}
    for base in reversed(model.__mro__[:-1]):
        own = {name: base.__annotations__[name] for name in vars(base).get("__annotations__", {}) if not name.startswith("_")}
        hints |= typing.get_type_hints(type("Own", (), {"__annotations__": own}), {**vars(sys.modules[base.__module__]), **space})
    return {field._rest_name: kind_15(hints[name], field._format) for name, field in model._attr_to_rest_field.items()}


def main() -> None:
    """Print all models that have fields, and all enums."""
    models: dict[str, dict[str, str]] = {}
    enums: dict[str, list[str]] = {}
    package = importlib.import_module("azure.batch.models")
    old = hasattr(package, "CloudPool")
    spaces = [package] if old else [importlib.import_module(f"azure.batch.models.{name}") for name in ("_models", "_enums")]
    for name, found in sorted((name, found) for space in spaces for name, found in vars(space).items() if inspect.isclass(found)):
        if issubclass(found, enum.Enum):
            enums[name] = [member.value for member in found]
        elif old and hasattr(found, "_attribute_map"):
            models[name] = fields_14(found)
        elif not old and found.__module__.endswith("._models"):
            models[name] = fields_15(found)
    print(
        json.dumps({"models": {name: fields for name, fields in models.items() if fields}, "enums": {n: v for n, v in enums.items() if v}})
    )


if __name__ == "__main__":
    main()
