#!/usr/bin/env python3
"""Print the settings of a server as a table; with `--write`, into docs/configuration.md. A test holds the page against it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from batchyard.settings import SETTINGS, Setting

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_PLACE = re.compile(r"(<!-- settings: .*? -->\n).*?(<!-- end -->)", re.DOTALL)


def _row(setting: Setting) -> str:
    default = setting.shown or ("" if setting.default is None else str(setting.default).lower())
    kind = " or ".join(f"`{choice}`" for choice in setting.choices) if setting.kind == "choice" else setting.kind
    kind = f"list of {kind}s" if setting.many else kind
    return f"| `{setting.name}` | `{setting.variable}` | `{setting.flag}` | {kind} | {default} | {setting.help} |"


def page() -> str:
    """The whole of docs/configuration.md, its text as it stands there."""
    rows = ["| in the file | variable | option | what | default | |", "|---|---|---|---|---|---|", *map(_row, SETTINGS)]
    table = "\n".join(rows)
    return _PLACE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
