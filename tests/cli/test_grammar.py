"""How command lines are read, without running them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.cli import completion, grammar, helping, main, table
from batchyard.cli.grammar import FLAG, PATH, TEXT, Flag, Verb, Word, number, one_of, whole
from batchyard.cli.problem import Usage

VERB = Verb(
    "do",
    "x:y",
    "Do it.",
    (Word("first", "FIRST"), Word("more", "MORE", times="*")),
    (
        Flag("loud", ("-l", "--loud"), "", FLAG),
        Flag("count", ("-n", "--count"), "", whole(-1, 9)),
        Flag("at", ("--at",), "", number(0)),
        Flag("place", ("--place",), "", PATH),
        Flag("tag", ("-t", "--tag"), "", TEXT, many=True),
        Flag("how", ("-o",), "", one_of("a", "b"), default="a"),
        Flag("one", ("--one",), "", TEXT, group="pick"),
    ),
)
RUN = Verb(
    "run", "x:y", "Run it.", (Word("command", "COMMAND", times="rest"),), (Flag("loud", ("-l",), "", FLAG), Flag("id", ("--id",), ""))
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("a", {"first": "a", "more": []}),
        ("a b -l c", {"first": "a", "more": ["b", "c"], "loud": True}),
        ("-ln3 a", {"loud": True, "count": 3}),
        ("-n 3 a", {"count": 3}),
        ("-n=3 a", {"count": 3}),
        ("--count=-1 a", {"count": -1}),
        ("--count -1 a", {"count": -1}),
        ("a -1", {"first": "a", "more": ["-1"]}),
        ("a -", {"more": ["-"]}),
        ("a -t x --tag y -tz", {"tag": ["x", "y", "z"]}),
        ("a --at 0.5 --place p/q", {"at": 0.5, "place": Path("p/q")}),
        ("a --tag=", {"tag": [""]}),
        ("a -o b", {"how": "b"}),
        ("a -- -l --what", {"more": ["-l", "--what"], "loud": None}),
        ("a --one 1", {"pick": {"one": "1"}}),
        ("a --tag -l", {"tag": ["-l"], "loud": None}),
    ],
)
def test_words_and_options(words: str, found: dict[str, Any]) -> None:
    read = grammar.parse(VERB, words.split())
    assert {name: read[name] for name in found} == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "FIRST is missing"),
        ("a --lout", "there is no option --lout; did you mean --loud?"),
        ("a -x", "there is no option -x"),
        ("a -lx", "there is no option -x (in -lx)"),
        ("a -n", "-n wants a value"),
        ("a -n x", "-n wants a whole number; it got 'x'"),
        ("a -n 10", "from -1 to 9"),
        ("a --at nan", "of at least 0"),
        ("a --at -1", "of at least 0"),
        ("a --loud=1", "--loud takes no value"),
        ("a -o c", "-o is one of a, b; it got 'c'"),
    ],
)
def test_mistakes_are_said(words: str, said: str) -> None:
    with pytest.raises(Usage, match=r".") as caught:
        grammar.parse(VERB, words.split())
    assert said in str(caught.value)


def test_what_is_behind_the_first_word_belongs_to_the_command() -> None:
    read = grammar.parse(RUN, ["-l", "--id", "x", "ls", "-l", "--", "--id", "y"])
    assert read == {"loud": True, "id": "x", "command": ["ls", "-l", "--", "--id", "y"]}
    assert grammar.parse(RUN, ["--", "-l", "--"])["command"] == ["-l", "--"]
    with pytest.raises(Usage, match="COMMAND is missing"):
        grammar.parse(RUN, ["-l", "--"])


@given(st.lists(st.text(min_size=1)))
def test_any_command_arrives_as_it_is(words: list[str]) -> None:
    if words:
        assert grammar.parse(RUN, ["-l", "--", *words])["command"] == words


@given(st.lists(st.sampled_from(["-l", "-n", "3", "--tag", "x", "--", "-", "-lt", "--count=2", "--what", "-o", "ä"]), max_size=6))
def test_no_words_are_a_crash(words: list[str]) -> None:
    with contextlib.suppress(Usage):
        grammar.parse(VERB, words)


def test_one_word_too_many() -> None:
    with pytest.raises(Usage, match="one word too many: 'b'"):
        grammar.parse(VERB._replace(words=(Word("first", "FIRST"),)), ["a", "b"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jbos"], "did you mean jobs?"),
        (["pool", "creat"], "did you mean create?"),
        (["run", "list"], "there is no run yet"),
        (["--dir", "x", "jobs"], "options stand behind the command"),
        (["task", "zzz"], "see: batchyard --help"),
    ],
)
def test_unknown_commands(words: list[str], said: str) -> None:
    with pytest.raises(Usage) as caught:
        main.find(words)
    assert said in str(caught.value)


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["pool"], 2), (["pool", "-h"], 0), (["--version"], 0)])
def test_help(words: list[str], code: int) -> None:
    with pytest.raises(helping.Help) as caught:
        main.find(words)
    assert caught.value.code == code


def test_help_wants_no_words() -> None:
    with pytest.raises(helping.Help, match="Usage: batchyard logs"):
        main.run(["logs", "--help"])
    assert grammar.parse(RUN, ["ls", "-h"], [table.HELP])["command"] == ["ls", "-h"]


def test_aliases() -> None:
    assert main.find(["pool", "add", "x"])[1].name == "create"
    assert main.find(["node", "remove", "x"])[1].name == "delete"
    for noun in table.NOUNS:
        verbs = {name for verb in noun.verbs for name in (verb.name, *verb.aliases)}
        assert ("create" in verbs) == ("add" in verbs), noun.name
        assert ("delete" in verbs) == ("remove" in verbs), noun.name


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["jo"], {"job", "jobs", "join"}),
        (["pool", "re"], {"resize", "revoke-token"}),
        (["submit", "--arr"], {"--array"}),
        (["jobs", "-o", "j"], {"json", "jsonl"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["schedule", "en"], {"enable"}),
        (["run", ""], set()),
    ],
)
def test_completion(words: list[str], found: set[str]) -> None:
    assert set(completion.answers(words)) == found
