"""The command line: finds the row of `table` that was called, reads its words and runs it. Commands are imported when they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchyard.cli import grammar, helping, table
from batchyard.cli.grammar import Noun, Verb
from batchyard.cli.problem import Problem, Usage


def find(words: Sequence[str]) -> tuple[str, Verb, Sequence[str]]:
    """(noun or nothing, command, its words). Raises Usage, Help."""
    first = words[0] if words else ""
    if first in ("", "-h", "--help", "help"):
        raise helping.Help(helping.overview(), 0 if first else 2)
    if first in ("-V", "--version"):
        from batchyard import __version__

        raise helping.Help(f"batchyard {__version__}", 0)
    if first.startswith("-"):
        raise Usage(f"options stand behind the command: batchyard COMMAND {first}")
    noun = next((noun for noun in table.NOUNS if noun.name == first), None)
    if noun is not None:
        return noun.name, _verb(noun, words[1:2]), words[2:]
    verb = next((verb for verb in table.COMMANDS if verb.name == first), None)
    if verb is None:
        raise Usage(
            f"there is no command {first!r}{_hint(first, [*(row.name for row in table.COMMANDS), *(noun.name for noun in table.NOUNS)])}"
        )
    return "", verb, words[1:]


def _verb(noun: Noun, words: Sequence[str]) -> Verb:
    if noun.later:
        raise Usage(f"there is no {noun.name} yet; its place is kept")
    if not words or words[0] in ("-h", "--help"):
        raise helping.Help(helping.of_noun(noun), 0 if words else 2)
    found = next((verb for verb in noun.verbs if words[0] in (verb.name, *verb.aliases)), None)
    if found is None:
        raise Usage(f"{noun.name} has no {words[0]!r}{_hint(words[0], [verb.name for verb in noun.verbs])}")
    return found


def _hint(name: str, known: Sequence[str]) -> str:
    likely = grammar.close(name, known)
    return f"; did you mean {likely}?" if likely else "; see: batchyard --help"


def function(verb: Verb) -> Callable[..., int | None]:
    """What does a command."""
    from importlib import import_module

    module, _, name = verb.run.partition(":")
    found: Callable[..., int | None] = getattr(import_module(f"batchyard.cli.{module}"), name)
    return found


def run(words: Sequence[str]) -> int:
    """Run a command line; its exit code. Raises Problem."""
    if words[:1] == ["__complete"]:
        from batchyard.cli import completion

        print("\n".join(completion.answers(words[1:])))
        return 0
    noun, verb, given = find(words)
    if verb.raw:
        return function(verb)(list(given)) or 0
    common = (*(table.CONNECTION if verb.server else ()), table.HELP)
    try:
        values = grammar.parse(verb, given, common)
    except Usage as wrong:
        raise Usage(f"{wrong}; usage: {grammar.usage(noun, verb)}") from None
    if values.pop("help"):
        raise helping.Help(helping.of_verb(noun, verb), 0)
    return _served(verb, values) if verb.server else function(verb)(**values) or 0


def _served(verb: Verb, values: dict[str, Any]) -> int:
    """Run a command that talks to a server."""
    from batchyard.cli import connect
    from batchyard.cli.client import Client

    connection: Mapping[str, Any] = values.pop("connection")
    command = function(verb)
    address = connect.find(**connection)
    with Client(address.url, address.account, address.key, address.storage) as client:
        return command(client, **values) or 0


def _told(words: Sequence[str]) -> int:
    """Run a command line, or print the help that it asks for."""
    try:
        return run(words)
    except helping.Help as wanted:
        print(wanted.text, file=sys.stderr if wanted.code else sys.stdout)
        return wanted.code


def main() -> None:
    """Entry point: a Problem is one sentence on stderr and an exit code; a reader of the output that goes ends the command quietly."""
    from batchyard.cli import streams

    streams.prepare()
    try:
        code = _told(sys.argv[1:])
        sys.stdout.flush()
    except Problem as problem:
        streams.say(f"batchyard: {problem}")
        code = problem.code
    except BrokenPipeError:
        streams.forget_output()
        code = 130
    except OSError as error:
        streams.forget_output()
        what = f"cannot use {error.filename}" if error.filename is not None else "cannot go on"
        streams.say(f"batchyard: {what} ({error.strerror or error})")
        code = 1
    except KeyboardInterrupt:
        streams.say("batchyard: interrupted")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
