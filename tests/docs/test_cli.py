"""docs/cli.md is true: its tables name every command; test_pages.py follows it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from batchyard.cli import table

SCRIPT = Path(__file__).parents[2] / "scripts" / "cli.py"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


def test_the_reference_is_printed_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("cli", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/cli.py --write"


def test_the_commands_that_are_named_exist() -> None:
    names = {verb.name for verb in table.COMMANDS} | {noun.name for noun in table.NOUNS}
    text, _, _ = DOCUMENT.partition("<!-- printed by")
    assert set(re.findall(r"`batchyard ([a-z]+)", text)) | set(re.findall(r"^\$ batchyard ([a-z]+)", text, re.MULTILINE)) <= names
    for noun in table.NOUNS:
        for verb in re.findall(rf"batchyard {noun.name} ([a-z-]+)", text):
            assert verb in {name for known in noun.verbs for name in (known.name, *known.aliases)}, verb
