#!/usr/bin/env python3
"""Print all commands as the command line reads them; with `--write`, into docs/cli.md. A test holds the page against the table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchyard.cli import grammar, table, where
from batchyard.cli.grammar import Flag, Verb

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_BEGIN = "<!-- printed by scripts/cli.py --write from src/batchyard/cli/table.py; do not edit below -->\n"
_GROUPS = {"shown": "[output](#output)", "pick": "[choosing](#choosing)", "options": "[servers](#servers)"}


def _options(flags: Sequence[Flag]) -> list[str]:
    return [
        "| option | |",
        "|---|---|",
        *(f"| `{_escaped(grammar.option(flag))}` | {_escaped(grammar.explained(flag))} |" for flag in flags),
        "",
    ]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _command(noun: str, verb: Verb) -> Iterator[str]:
    also = f" Also `{'`, `'.join(verb.aliases)}`." if verb.aliases else ""
    yield f"**`{grammar.usage(noun, verb)}`** {verb.help}{also}"
    words = [f"`{word.metavar}`: {word.help}" for word in verb.words if word.help and word.metavar]
    own = [flag for flag in verb.flags if not flag.group]
    groups = dict.fromkeys(_GROUPS[flag.group] for flag in verb.flags if flag.group in _GROUPS)
    more = [*words, *([f"{'and' if words else 'With'} the options of {' and '.join(groups)}"] if groups else [])]
    if more:
        yield f"{'; '.join(more)}.\n"
    else:
        yield ""
    if own:
        yield from _options(own)


def _reference() -> Iterator[str]:
    yield "## Reference\n"
    yield "Every command also knows `-h`, and those that ask a server:\n"
    yield from _options(table.CONNECTION)
    yield "### Daily words\n"
    for verb in table.COMMANDS:
        yield from _command("", verb)
    for noun in table.NOUNS:
        if not noun.later:
            yield f"### {noun.name}\n\n{noun.help}\n"
            for verb in noun.verbs:
                yield from _command(noun.name, verb)
    yield "### Servers\n"
    yield from _options(table.OPTIONS)
    yield "### Output\n"
    yield from _options(table.LISTED)
    yield "### Choosing\n"
    yield from _options(table.PICK_TASKS)
    yield "### Query words\n"
    yield "| for | names |\n|---|---|"
    for name, terms in where.TERMS.items():
        yield f"| {name}s | {', '.join(f'`{term}`' for term in terms)}, `sort` |"
    yield "\n### Operations without a command\n"
    yield "| operation | why |\n|---|---|"
    for operation, why in table.NOT_REACHABLE.items():
        yield f"| `{operation}` | {why} |"
    later = ", ".join(f"`{noun.name}`" for noun in table.NOUNS if noun.later)
    yield f"\nPlaces are kept for {later}."


def page() -> str:
    """The whole of docs/cli.md, its text as it stands there."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{head}{_BEGIN}\n" + "\n".join(_reference()) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
