"""The table of the command line holds together: every row has its function, every operation its command, and start costs little."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batchyard.api.operations import OPERATIONS
from batchyard.cli import grammar, main, table, where
from batchyard.cli.grammar import FLAG, Verb
from batchyard.rules import odata

HEAVY = "asyncio azure httpx jmespath pydantic rich sqlalchemy sqlite3 starlette typer uvicorn yaml dataclasses lark structlog".split()
MOST_MODULES = 190
"""What a command may import, the interpreter's own included; a bare interpreter has about 60."""


def rows() -> Iterator[tuple[str, Verb]]:
    yield from (("", verb) for verb in table.COMMANDS)
    yield from ((noun.name, verb) for noun in table.NOUNS for verb in noun.verbs)


ROWS = [pytest.param(noun, verb, id=f"{noun} {verb.name}".strip()) for noun, verb in rows()]


@pytest.mark.parametrize(("noun", "verb"), ROWS)
def test_a_row_has_a_function_that_takes_its_values(noun: str, verb: Verb) -> None:
    found = inspect.signature(main.function(verb)).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in found.values()) or verb.raw:
        return
    groups = {flag.group for flag in verb.flags if flag.group}
    wanted = {word.name for word in verb.words} | {flag.name for flag in verb.flags if not flag.group} | groups
    assert {name for name, one in found.items() if one.kind is inspect.Parameter.KEYWORD_ONLY} == wanted
    assert verb.server == ("batch" in found)


@pytest.mark.parametrize(("noun", "verb"), ROWS)
def test_a_row_is_told_apart_and_explained(noun: str, verb: Verb) -> None:
    flags = (*verb.flags, *(table.CONNECTION if verb.server else ()), table.HELP)
    words = [word for flag in flags for word in flag.words]
    names = [one.name for one in (*verb.words, *flags)]
    assert len(set(words)) == len(words)
    assert len(set(names)) == len(names)
    assert all(flag.help for flag in flags)
    assert all(word.help for word in verb.words) or verb.raw
    assert verb.help.endswith((".", '".'))
    assert all(flag.default in (None, False) and not flag.many for flag in flags if flag.kind is FLAG)


def test_names_and_aliases_are_used_once() -> None:
    for noun in table.NOUNS:
        names = [name for verb in noun.verbs for name in (verb.name, *verb.aliases)]
        assert len(set(names)) == len(names), noun.name
    first = [*(verb.name for verb in table.COMMANDS), *(noun.name for noun in table.NOUNS)]
    assert len(set(first)) == len(first)


def test_every_operation_has_a_command_or_a_reason() -> None:
    served = {operation for _, verb in rows() for operation in verb.serves}
    offered = {f"{op.method} {op.path}" for op in OPERATIONS}
    assert served <= offered
    assert set(table.NOT_REACHABLE) <= offered
    assert not served & set(table.NOT_REACHABLE)
    assert offered - served - set(table.NOT_REACHABLE) == set()


LISTS = {"task": odata.TASKS, "job": odata.JOBS, "pool": odata.POOLS, "node": odata.NODES}


@pytest.mark.parametrize("noun", LISTS)
def test_the_server_filters_by_what_query_words_send_it(noun: str) -> None:
    for name, term in where.TERMS[noun].items():
        assert term.served == (term.path in LISTS[noun] and name not in ("size",)), (noun, name)


def modules(*words: str) -> set[str]:
    """What a command has imported when it is about to run."""
    code = (
        "import sys; from batchyard.cli import main, connect, client\n"
        "class Done(Exception): pass\n"
        "def stop(*given, **more): raise Done\n"
        "client.Client.send = stop\n"
        "connect.find = lambda **given: connect.Address('http://127.0.0.1:1', 'a', 'a2V5', None)\n"
        f"sys.argv = ['batchyard', *{list(words)!r}]\n"
        "try: main.main()\n"
        "except (Done, SystemExit): pass\n"
        "print('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\n\n")[2].split() or done.stdout.split("\n")[-2].split())


CALLS = """--help
submit --help
submit -- true
jobs
tasks j
pools
nodes p
cancel j
retry j --failed
wait j
logs j/t
job show j
task list j -o jsonl
pool resize p --nodes 1
node drain n
explain job j"""


@pytest.mark.parametrize("words", CALLS.splitlines())
def test_a_command_imports_little(words: str) -> None:
    found = modules(*words.split())
    assert found >= {"batchyard.cli.main"}
    assert [name for name in HEAVY if name in found] == []
    assert len(found) <= MOST_MODULES, sorted(found)


def test_help_says_every_option() -> None:
    from batchyard.cli import helping

    for noun, verb in rows():
        text = helping.of_verb(noun, verb)
        for flag in verb.flags:
            assert flag.words[0] in text
        assert text.startswith(f"Usage: {grammar.usage(noun, verb)}")
    overview = helping.overview()
    for _, verb in rows():
        assert re.search(rf"\b{verb.name}\b", overview), verb.name
