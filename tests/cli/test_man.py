"""The manual's pages: one for every command and noun, with every word and option, in what `man` reads without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Cli

from batchyard.cli import man, table

ROOT = Path(__file__).parents[2]
PAGES = dict(man.pages())


def unescaped(page: str) -> str:
    return page.replace("\\-", "-").replace("\\(dq", '"').replace("\\&", "").replace("\\e", "\\")


def test_every_command_and_noun_has_a_page_that_says_all_its_words() -> None:
    rows = [(verb.name, verb) for verb in table.COMMANDS]
    rows += [(noun.name, verb) for noun in table.NOUNS for verb in noun.verbs]
    assert {f"batchyard-{name}.1" for name, _ in rows} | {"batchyard.1"} == set(PAGES)
    for name, verb in rows:
        page = unescaped(PAGES[f"batchyard-{name}.1"])
        assert verb.help.removesuffix(".") in page
        for word in (*verb.words, *verb.flags, *verb.aliases):
            wanted = word if isinstance(word, str) else getattr(word, "metavar", "") if not hasattr(word, "words") else word.words[-1]
            assert wanted in page, (name, verb.name, wanted)


def test_the_overview_names_them_all_and_the_exit_codes() -> None:
    page = unescaped(PAGES["batchyard.1"])
    for name in PAGES.keys() - {"batchyard.1"}:
        assert f"{name.removesuffix('.1')}(1)" in page
    documented = (ROOT / "docs" / "cli.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {code for code, _ in man.EXIT_CODES} == set(re.findall(r"^\| (?!exit|code|---)([\w' ]+) \|", documented, re.MULTILINE))


@pytest.mark.parametrize("tool", ["groff -man -ww -Tutf8 -z", "mandoc -T lint -W warning"])
def test_the_tools_have_nothing_to_say(tool: str, tmp_path: Path) -> None:
    program, *words = tool.split()
    if not shutil.which(program):
        pytest.skip(f"there is no {program}")
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([program, *words, *PAGES], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hostile_texts_are_no_commands_of_roff() -> None:
    assert man._text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert man._text("'it") == "\\&'it"
    assert man._text('a\\b-"c"') == "a\\eb\\-\\(dqc\\(dq"


def test_the_command_prints_a_page(cli: Cli) -> None:
    assert cli("man").stdout == PAGES["batchyard.1"]
    assert cli("man", "submit").stdout == PAGES["batchyard-submit.1"]
    wrong = cli("man", "submitt")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("batchyard: there is no page for 'submitt'; did you mean submit?")


def test_the_pages_are_made_without_any_library() -> None:
    """The build makes them where only the build's own tools are installed."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from batchyard.cli import completion, man; print(len(dict(man.pages())))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{len(PAGES)}\n", done.stderr
