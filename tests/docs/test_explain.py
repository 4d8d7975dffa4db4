"""docs/explain.md is true: its table is the table of reasons, its reads are served."""

from __future__ import annotations

import re
from pathlib import Path

from batchyard.api.operations import OPERATIONS
from batchyard.model.explain import Code
from batchyard.rules.exits import HINTS
from batchyard.rules.reasons import WORDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "explain.md").read_text("utf-8")


def test_every_code_stands_there_with_its_sentence_and_action() -> None:
    cell = r"(?:`([^|]+)`)?"
    shown = re.findall(rf"^\| `(\w+)` \| (.+) \| (.+) \| {cell} \| {cell} \|$", DOCUMENT.partition("## Codes")[2], re.MULTILINE)
    assert shown == [(code.value, words.sentence, words.action, words.look, words.command) for code, words in WORDS.items()]


def test_every_hint_of_an_exit_code_stands_there() -> None:
    shown = re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert shown == [(str(code), text) for code, text in HINTS.items()]


def test_every_code_has_words() -> None:
    assert list(WORDS) == list(Code)


def test_every_read_is_described() -> None:
    served = {re.sub(r"_(\w)", lambda found: found[1].upper(), op.path) for op in OPERATIONS if "/explain/" in op.path}
    assert set(re.findall(r"`GET (/batchyard/explain/\S+)`", DOCUMENT)) == served
