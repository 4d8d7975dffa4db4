"""docs/autoscale.md is true: it names every variable and function, its read is served, its example and its history run."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from batchyard.api.operations import OPERATIONS
from batchyard.model.autoscale import AutoScaleSample
from batchyard.rules.autoscale import EMPTY_SERIES, EVALUATION_ERROR, INSUFFICIENT_DATA, SERIES, WORDS, WRITABLE
from batchyard.rules.autoscale_functions import NAMES
from batchyard.rules.autoscale_syntax import parse

DOCUMENT = (Path(__file__).parents[2] / "docs" / "autoscale.md").read_text("utf-8")


def test_every_variable_stands_there_and_no_other() -> None:
    tables = DOCUMENT.partition("### Variables that a formula sets")[2].partition("### Samples")[0]
    assert set(re.findall(r"`(\$\w+)`", tables)) == {*SERIES, *EMPTY_SERIES, *WRITABLE}


def test_every_function_and_word_stands_there() -> None:
    [functions] = re.findall(r"^\| functions \| `(.*)` \|$", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"\b([a-z]+)\b", re.sub(r"\([^)]*\)", "", functions))) == NAMES
    assert set(re.findall(r"`(\w+)`", re.findall(r"^\| words \| (.*), for", DOCUMENT, re.MULTILINE)[0])) == WORDS


def test_codes() -> None:
    for code in (EVALUATION_ERROR, INSUFFICIENT_DATA, "AutoScalingFormulaSyntaxError", "AutoScalingFormulaTooLong"):
        assert f"`{code}`" in DOCUMENT


def test_the_read_is_served() -> None:
    served = {re.sub(r"_(\w)", lambda found: found[1].upper(), op.path) for op in OPERATIONS if op.path.startswith("/batchyard/autoscale/")}
    assert set(re.findall(r"`GET (/batchyard/autoscale/\S+)`", DOCUMENT)) == served


def test_the_example_is_a_formula() -> None:
    assert len(parse("\n".join(re.findall(r"^    (\$.*)$", DOCUMENT, re.MULTILINE)))) == 4


def test_the_history_line_is_a_sample() -> None:
    [line] = re.findall(r"^    (\{.*)$", DOCUMENT, re.MULTILINE)
    given = msgspec.json.decode(line, type=AutoScaleSample)
    assert given.active_tasks == 12
    named = set(re.findall(r"`(\w+)`", DOCUMENT.rpartition("The other members are")[2])) | set(msgspec.json.decode(line))
    assert named == {field.encode_name for field in msgspec.structs.fields(AutoScaleSample)}
