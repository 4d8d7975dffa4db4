#!/usr/bin/env python3
"""Print who imports whom, drawer by drawer; with `--write`, into docs/architecture.md. A test holds the page against the code.

A drawer is a package below `batchyard`, or a module that lies in none. Rows stand bottom up: a drawer knows only what is above it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "batchyard"
PAGE = ROOT / "docs" / "architecture.md"
OPENED = ("engine", "api", "blobs", "agent", "server")
"""Packages that the picture looks into."""
_TABLE = re.compile(r"(<!-- drawers of (\w+) -->\n).*?(<!-- end -->)", re.S)


def modules() -> dict[str, Path]:
    """Every module by its name below `batchyard`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """What each module imports of the others."""
    known = modules()
    return {name: set(_imported(ast.parse(path.read_text(encoding="utf-8")), known)) for name, path in known.items()}


def _imported(tree: ast.Module, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "batchyard":
            package = node.module.partition(".")[2]
            for alias in node.names:
                full = f"{package}.{alias.name}" if package else alias.name
                yield full if full in known else package


def drawer(module: str, package: str) -> str:
    """The drawer of a package in which a module lies."""
    rest = module.removeprefix(package + ".").split(".")
    return rest[0]


def floors(package: str) -> list[tuple[str, list[str], Set[str]]]:
    """The drawers of a package, lowest first: name, modules, and the drawers that it knows. Raises ValueError for a cycle."""
    inside = {name: used for name, used in imports().items() if name.startswith(package + ".")}
    members: dict[str, list[str]] = defaultdict(list)
    knows: dict[str, set[str]] = defaultdict(set)
    for name, used in inside.items():
        own = drawer(name, package)
        if name != f"{package}.{own}" or not any(other.startswith(name + ".") for other in inside):
            members[own].append(name.removeprefix(f"{package}.{own}").removeprefix(".") or own)
        knows[own] |= {drawer(other, package) for other in used if other.startswith(package + ".")} - {own}
    ordered: list[tuple[str, list[str], Set[str]]] = []
    done: set[str] = set()
    while len(done) < len(members):
        ready = sorted(name for name in members if name not in done and knows[name] <= done)
        if not ready:
            raise ValueError(f"drawers of {package} that know each other: {sorted(set(members) - done)}")
        ordered.extend((name, sorted(members[name]), knows[name]) for name in ready)
        done.update(ready)
    return ordered


def table(package: str) -> str:
    """The drawers of a package as a table."""
    rows = ["| drawer | modules | knows |", "|---|---|---|"]
    for name, held, known in floors(package):
        rows.append(f"| `{name}` | {' '.join(held) if held != [name] else ''} | {' '.join(sorted(known))} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole of docs/architecture.md with its tables as they should be."""
    return _TABLE.sub(lambda match: f"{match[1]}{table(match[2])}{match[3]}", PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        for package in OPENED:
            print(f"## {package}\n\n{table(package)}")
