#!/usr/bin/env python3
"""Print the transition tables as diagrams; with `--write`, into docs/states.md. A test holds the file against the tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from batchyard.rules.transitions import TABLES, Table

STATES = Path(__file__).parents[1] / "docs" / "states.md"
_FIRST = {"allocation": "resizing"}  # a new pool is resizing at once; the others begin with the first state of their table
_HEAD = """# States

Printed from the tables in `src/batchyard/rules/transitions.py` by `scripts/diagrams.py --write`; do not edit.
"""


def diagram(table: Table[Any, Any]) -> str:
    """One table as a mermaid diagram; what happens in several ways between two states stands on one arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, happened), after in table.changes.items():
        arrows.setdefault((state.value, after.value), []).append(happened.value)
    lines = [f"    [*] --> {_FIRST.get(table.name, next(iter(table.changes))[0].value)}"]
    lines += [f"    {old} --> {new}: {', '.join(happened)}" for (old, new), happened in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def page() -> str:
    """The whole of docs/states.md."""
    return "\n".join([_HEAD, *(f"## {table.name.capitalize().replace('_', ' ')}\n\n{diagram(table)}\n" for table in TABLES)])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        STATES.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
