#!/usr/bin/env python3
"""Print what each list can be filtered by; with `--write`, into docs/lists.md. A test holds the file against the table."""

from __future__ import annotations

import sys
from pathlib import Path

from batchyard.rules import odata
from batchyard.rules.odata import Kind, Property

PAGE = Path(__file__).parents[1] / "docs" / "lists.md"
_BEGIN = "<!-- printed by scripts/lists.py --write from src/batchyard/rules/odata.py; do not edit below -->\n"
_KINDS = {
    Kind.ID: "text, without regard to case",
    Kind.TEXT: "text",
    Kind.TIME: "time",
    Kind.NUMBER: "whole number",
    Kind.FLAG: "`true`, `false`",
}


def _values(known: Property) -> str:
    return ", ".join(f"`'{word}'`" for word in known.words) or _KINDS[known.kind]


def _tables() -> str:
    parts = []
    for name, properties in odata.LISTS.items():
        rows = [
            f"| `{each}` | {' '.join(f'`{sign}`' for sign in known.operators)} | {_values(known)} |" for each, known in properties.items()
        ]
        parts.append("\n".join([f"### {name[0].upper()}{name[1:]}\n", "| property | operators | values |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def page() -> str:
    """The whole of docs/lists.md, its text as it stands there."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{head}{_BEGIN}\n{_tables()}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
