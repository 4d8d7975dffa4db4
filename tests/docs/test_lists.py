"""docs/lists.md says what the table says, and its examples are understood."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from batchyard.rules import odata

SCRIPT = Path(__file__).parents[2] / "scripts" / "lists.py"


def test_the_page_is_printed_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("lists", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/lists.py --write"


def test_its_examples_are_understood() -> None:
    page = SCRIPT.parents[1].joinpath("docs", "lists.md").read_text(encoding="utf-8")
    examples = re.findall(r'(?:--filter |filter=)"(.+?)"', page)
    assert len(examples) == 2
    for text in examples:
        assert odata.parse(text, odata.TASKS) is not None
    for figure in (odata.LONGEST, odata.MOST_COMPARISONS, odata.DEEPEST):
        assert f"{figure:,}" in page
