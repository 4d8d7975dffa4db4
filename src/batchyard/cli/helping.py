"""Help texts, made from the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchyard.cli import grammar, table
from batchyard.cli.grammar import Flag, Noun, Verb

_WIDTH = 100


class Help(Exception):
    """Somebody wants to read a text, or has to: then the exit code is not 0."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.text, self.code = text, code


def overview() -> str:
    """All commands."""
    daily = [(verb.name, verb.help) for verb in table.COMMANDS]
    nouns = [(noun.name, f"{noun.help} {', '.join(verb.name for verb in noun.verbs)}") for noun in table.NOUNS if not noun.later]
    head = "Usage: batchyard COMMAND [OPTIONS] [WORDS], or batchyard NOUN VERB [OPTIONS] [WORDS]\n\nAzure Batch on machines you own."
    foot = "`batchyard COMMAND --help` and `batchyard NOUN VERB --help` say more; docs/cli.md has it all."
    return "\n".join([head, "\nCommands:", *_aligned(daily), "\nNouns:", *_aligned(nouns), "", foot])


def of_noun(noun: Noun) -> str:
    """The verbs of a noun."""
    rows = [(verb.name, verb.help) for verb in noun.verbs]
    return "\n".join([f"Usage: batchyard {noun.name} VERB [OPTIONS] [WORDS]\n\n{noun.help}\n", "Verbs:", *_aligned(rows)])


def of_verb(noun: str, verb: Verb) -> str:
    """A command's words and options."""
    parts = [f"Usage: {grammar.usage(noun, verb)}\n\n{verb.help}"]
    if verb.aliases:
        parts.append(f"Also: {', '.join(verb.aliases)}.")
    words = [(word.metavar, word.help) for word in verb.words]
    for title, rows in (("Words", words), ("Options", _options(verb.flags))):
        if rows:
            parts.append("\n".join([f"{title}:", *_aligned(rows)]))
    common = (*(table.CONNECTION if verb.server else ()), table.HELP)
    parts.append("\n".join(["Common options:", *_aligned(_options(common))]))
    return "\n\n".join(parts)


def _options(flags: Iterable[Flag]) -> list[tuple[str, str]]:
    return [(grammar.option(flag), grammar.explained(flag)) for flag in flags]


def _aligned(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Two columns, the second one wrapped."""
    from textwrap import wrap

    rows = list(rows)
    left = min(28, max((len(name) for name, _ in rows), default=0))
    for name, text in rows:
        first, *more = wrap(text, _WIDTH - left - 4) or [""]
        if len(name) > left:
            yield f"  {name}"
            name = ""
        yield f"  {name:{left}}  {first}".rstrip()
        yield from (f"  {'':{left}}  {line}" for line in more)
