"""Command lines are split as the machine's own shell splits them; what a shell would expand stays as it is."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchyard.agent.run.commands import words

CASES: dict[str, list[str]] = {
    "": [],
    " \t\n": [],
    "echo  a\tb\nc\r\n": ["echo", "a", "b", "c"],
    r"""sh -c "echo \$HOME" """: ["sh", "-c", "echo $HOME"],
    r"""sh -c "echo \`date\`" """: ["sh", "-c", "echo `date`"],
    r"""echo "a\"b\\c\d\'e" """: ["echo", r"""a"b\c\d\'e"""],
    'echo "a\\\nb" c\\\nd': ["echo", "ab", "cd"],
    "echo \\\n  a": ["echo", "a"],
    "echo \\\n": ["echo"],
    "echo 'a\\\nb'": ["echo", "a\\\nb"],
    "echo '$HOME `x` \\$'": ["echo", "$HOME `x` \\$"],
    "echo $HOME `x` * ~ > a | b; c & #d": ["echo", "$HOME", "`x`", "*", "~", ">", "a", "|", "b;", "c", "&", "#d"],
    r"""a\ b\"c\'d\\e\f\$""": ["a b\"c'd\\ef$"],
    """a'b'"c"d""": ["abcd"],
    """'' "" ''""": ["", "", ""],
    "a''": ["a"],
    "a\\": ["a\\"],
    "\\": ["\\"],
    "a\u00a0b\u2003'c'": ["a\u00a0b\u2003c"],
    'echo "line one\nline two"': ["echo", "line one\nline two"],
}


@pytest.mark.parametrize("line", CASES)
def test_words(line: str) -> None:
    assert words(line) == CASES[line]


@pytest.mark.parametrize(("line", "at"), [("'", 1), ('echo "a', 6), ("a 'b\"", 3), ('"a\\"', 1), ('"\\', 1), ("'a' 'b", 5)])
def test_an_open_quote_is_an_error_that_says_where(line: str, at: int) -> None:
    with pytest.raises(ValueError, match=f"the quote at character {at} is not closed"):
        words(line)


_QUOTED = st.text(alphabet='ab \t\n"\\$`#*', max_size=8).map(lambda text: f"'{text}'")
_DOUBLE = st.lists(st.sampled_from(["a", " ", "\n", "'", "\\$", "\\`", '\\"', "\\\\", "\\\n", "\\a", "\\ ", "\\'", "#", "*"])).map(
    lambda pieces: f'"{"".join(pieces)}"'
)
_BARE = st.sampled_from(["a", "b", "-x", "\\\n", "\\ ", "\\\\", "\\'", '\\"', "\\$", "\\a", " ", "\t", "  "])


@settings(max_examples=150, deadline=None)
@example(["\\\n", " ", "a"])
@given(st.lists(st.one_of(_QUOTED, _DOUBLE, _BARE), max_size=12))
def test_as_the_shell_splits(pieces: list[str]) -> None:
    line = "".join(pieces)
    shell = subprocess.run(["sh", "-c", f"set -f; printf '%s\\0' - {line}"], capture_output=True, text=True, check=True)
    assert words(line) == shell.stdout.split("\0")[1:-1]


@pytest.mark.parametrize("line", ['"' + "\\" * 1_000_001, '"' + "a" * 1_000_000, "'" * 1_000_001, "\\\n" * 500_000, "a\\ " * 300_000])
def test_the_longest_line_takes_no_longer_than_its_length(line: str) -> None:
    """Would take hours if anything were looked at twice for each character."""
    with contextlib.suppress(ValueError):
        assert len(words(line)) <= 1
