"""What the agent's distribution is made of: the agent's modules of the package `batchyard` and those that they import.

They are read from the checkout that this directory lies in, or from the copies in an sdist, and lie in the wheel below
`batchyard_agent/lib`, where no other distribution has files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_PLACES = {"wheel": "batchyard_agent/lib/batchyard", "sdist": "source/batchyard"}
_FOREIGN = ("api", "app", "cli", "config", "engine", "providers", "server", "store")


def source(root: str) -> Path:
    """The package `batchyard`. Raises FileNotFoundError."""
    for package in (Path(root, "source", "batchyard"), Path(root, "..", "..", "src", "batchyard")):
        if (package / "__init__.py").exists():
            return package.resolve()
    raise FileNotFoundError("batchyard-agent is built in a checkout of Batchyard, or from its sdist")


def modules(package: Path) -> dict[str, Path]:
    """The agent's modules, all that they import of the package, and the packages that these lie in, by name. Raises ValueError."""
    found: dict[str, Path] = {}
    waiting = [_name(path, package) for path in (package / "agent").rglob("*.py")]
    while waiting:
        name = waiting.pop()
        path = _path(name, package)
        if path is None or name in found:
            continue
        if name.split(".")[1:2] and name.split(".")[1] in _FOREIGN:
            raise ValueError(f"{name} is no part of an agent, yet one of its modules imports it")
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _name(path: Path, package: Path) -> str:
    return ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")


def _path(name: str, package: Path) -> Path | None:
    """The file of a module of the package; None when there is none of this name."""
    first, *more = name.split(".")
    place = package.joinpath(*more)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if first == package.name and file.exists()), None)


def _imports(path: Path) -> Iterator[str]:
    """Names that may be modules."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class Version(MetadataHookInterface):
    """The version is that of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set it."""
        text = (source(self.root) / "__init__.py").read_text("utf-8")
        metadata["version"] = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]


class Selection(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the modules to the wheel and to the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose them. Raises ValueError."""
        if version == "editable":
            raise ValueError("install batchyard itself for development: it has the agent, as `batchyard agent`")
        package = source(self.root)
        for path in modules(package).values():
            build_data["force_include"][str(path)] = f"{_PLACES[self.target_name]}/{path.relative_to(package)}"
