"""docs/explain.md is true: its table is the table of reasons, its reads are served."""

from __future__ import annotations

import re
from pathlib import Path

from batchyard.api.operations import OPERATIONS
from batchyard.model.explain import Code
from batchyard.rules.reasons import WORDS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "explain.md").read_text("utf-8")


def test_every_code_stands_there_with_its_sentence_and_action() -> None:
    shown = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", DOCUMENT.partition("## Codes")[2], re.MULTILINE)
    assert shown == [(code.value, words.sentence, words.action) for code, words in WORDS.items()]


def test_every_code_has_words() -> None:
    assert list(WORDS) == list(Code)


def test_every_read_is_described() -> None:
    served = {re.sub(r"_(\w)", lambda found: found[1].upper(), op.path) for op in OPERATIONS if "/explain/" in op.path}
    assert set(re.findall(r"`GET (/batchyard/explain/\S+)`", DOCUMENT)) == served
