#!/usr/bin/env python3
"""Print all operations as they are served; with `--write`, into docs/operations.md. A test holds the file against the table."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from batchyard.api.operations import OPERATIONS, Op

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
_HEAD = """# Operations

Printed from the table in `src/batchyard/api/operations.py` by `scripts/operations.py --write`; do not edit. What is not here is
answered with `InvalidUri` or `UnsupportedHttpVerb`, and a query option that is not named here with `UnsupportedQueryParameter`;
every operation also knows `api-version` and `timeout`.
"""
_GROUPS = (
    ("Account", re.compile(r"/(supportedimages|nodeagentskus|nodecounts|poolusagemetrics)$")),
    ("Pools", re.compile(r"/pools(/\{pool_id\}(/(?!nodes)\w+)?)?$")),
    ("Nodes", re.compile(r"/pools/\{pool_id\}/nodes")),
    ("Tasks", re.compile(r"/jobs/\{job_id\}/(tasks|addtaskcollection)(/|$)")),
    ("Jobs", re.compile(r"/jobs")),
)
_REST = "Beside the Azure operations"


def _group(op: Op) -> str:
    return next((name for name, pattern in _GROUPS if pattern.match(op.path)), _REST)


def _row(op: Op) -> str:
    path = re.sub(r"\{(\w+)\}", lambda name: "{" + re.sub(r"_(\w)", lambda letter: letter[1].upper(), name[1]) + "}", op.path)
    options = ", ".join(f"`{name}`" for name in sorted(op.query))
    until = "" if op.until is None else f" up to {op.until}"
    return f"| {op.method} | `{path}`{until} | {options} |"


def page() -> str:
    """The whole of docs/operations.md."""
    parts = [_HEAD]
    for group in ("Account", "Pools", "Nodes", "Jobs", "Tasks", _REST):
        rows = [_row(op) for op in OPERATIONS if _group(op) == group]
        parts.append("\n".join([f"## {group}\n", "| verb | path | query options |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
