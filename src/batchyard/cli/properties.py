"""Names of the service's properties, to say which one was meant by one that it does not know."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import msgspec


def meant(said: str) -> str:
    """What follows an answer that names an unknown property first, as in `constraints.maxTaskRetryCnt; …`: the likely one, or nothing."""
    from batchyard.cli import grammar

    name = said.partition(";")[0].rpartition(".")[2].strip()
    likely = grammar.close(name, sorted(_known()))
    return f"; did you mean {likely}?" if likely else ""


def _known() -> set[str]:
    import batchyard.model as model

    modules = [import_module(f"{model.__name__}.{module.name}") for module in pkgutil.iter_modules(model.__path__)]
    shapes = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return {name for shape in shapes for name in shape.__struct_encode_fields__}
